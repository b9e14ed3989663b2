-- name: names
-- The names of the numbers $4 in the table $3 of an enterprise.
SELECT n.number, n.name
FROM names AS n
WHERE n.part = $1 AND n.enterprise = $2 AND n.kind = $3 AND n.number = ANY($4::text[])

-- name: put_names
-- Add or change the names $5 of the numbers $4; an empty name forgets the number.
WITH given AS (
    SELECT DISTINCT ON (g.number) g.number, g.name FROM unnest($4::text[], $5::text[]) AS g (number, name)
),
forgotten AS (
    DELETE FROM names AS n
    USING given AS g
    WHERE n.part = $1 AND n.enterprise = $2 AND n.kind = $3 AND n.number = g.number AND g.name = ''
)
INSERT INTO names (part, enterprise, kind, number, name)
SELECT $1, $2, $3, g.number, g.name FROM given AS g WHERE g.name <> ''
ON CONFLICT (part, enterprise, kind, number) DO UPDATE SET name = excluded.name

-- name: history
-- How often the client $3 called in before $4, when last, and how that ended: of the newest $5 calls of that number,
-- whoever's they are, which nobody but a machine has.
SELECT count(*) AS n_calls, max(c.started_at) AS last_at,
    (array_agg(c.result ORDER BY c.started_at DESC))[1] AS last_result
FROM (
    SELECT c.part, c.enterprise, c.started_at, c.direction, c.result, c.absorbed_into, c.unique_id
    FROM calls AS c
    WHERE c.client <> '' AND reverse(c.client) COLLATE "C" = reverse($3) AND c.started_at < $4
    ORDER BY reverse(c.client) COLLATE "C" DESC, c.started_at DESC, c.id DESC
    LIMIT $5
) AS c
WHERE c.part = $1 AND c.enterprise = $2 AND c.direction = 'incoming' AND c.absorbed_into IS NULL AND c.unique_id <> ''
