-- name: append
-- Store the events that are no repetition, in the order given; answers their places and ids. And what there is, the moment
-- before, of the enterprises $9, $10 (parts, enterprises): the version of each that has nothing else to plan, and the calls that
-- have one of the keys $11, $12, $13 (parts, enterprises, keys), but for weak keys of calls that ended before $14. Durable at
-- once, but not where there are such enterprises.
-- Scalar subqueries keep PostgreSQL from turning a look-up by index into a join over the whole table.
WITH given AS (
    SELECT *
    FROM unnest($1::smallint[], $2::text[], $3::text[], $4::text[], $5::timestamptz[], $6::bytea[], $7::float8[], $8::bytea[])
        WITH ORDINALITY AS g (part, enterprise, kind, unique_id, received_at, digest, repeat_s, body, place)
),
fresh AS MATERIALIZED (
    SELECT g.*, nextval('callgram_id') AS id
    FROM given AS g
    WHERE (
        SELECT true
        FROM call_events AS e
        WHERE e.part = g.part AND e.enterprise = g.enterprise AND e.digest = g.digest
            AND e.received_at > g.received_at - make_interval(secs => g.repeat_s)
            AND e.received_at < g.received_at + make_interval(secs => g.repeat_s)
        LIMIT 1
    ) IS NULL
),
stored AS (
    INSERT INTO call_events (part, enterprise, id, kind, unique_id, received_at, digest, body)
    SELECT part, enterprise, id, kind, unique_id, received_at, digest, body FROM fresh ORDER BY place
)
SELECT f.place, f.id, NULL::text AS enterprise, NULL::bigint AS version, NULL::text AS key, NULL::bytea AS facts,
    CASE WHEN cardinality($10::text[]) > 0 THEN set_config('synchronous_commit', 'off', true) END
FROM fresh AS f
UNION ALL
SELECT NULL, NULL, g.enterprise, q.version, NULL, NULL, NULL
FROM unnest($9::smallint[], $10::text[]) AS g (part, enterprise)
CROSS JOIN LATERAL (
    SELECT k.version
    FROM enterprise_queue AS k
    WHERE k.part = g.part AND k.enterprise = g.enterprise
    OFFSET 0
) AS q
WHERE (
    SELECT true
    FROM call_events AS e
    WHERE e.part = g.part AND e.enterprise = g.enterprise AND NOT e.done
    LIMIT 1
) IS NULL
UNION ALL
SELECT NULL, c.id, c.enterprise, NULL, c.key, c.facts, NULL
FROM calls_by_key($11, $12, $13, $14) AS c

-- name: count_repeat
-- Count a repetition at the newest event of ($1, $2) with the digest $3 that is less than $5 seconds from $4. One row a
-- statement: it may wait for a planner, but holds nothing that the planner waits for. Not worth a flush of the log.
WITH repeated AS MATERIALIZED (
    SELECT e.id, e.received_at
    FROM call_events AS e
    WHERE e.part = $1 AND e.enterprise = $2 AND e.digest = $3
        AND e.received_at > $4::timestamptz - make_interval(secs => $5::float8)
        AND e.received_at < $4::timestamptz + make_interval(secs => $5::float8)
    ORDER BY e.received_at DESC
    LIMIT 1
),
counted AS (
    UPDATE call_events AS e
    SET repeats = e.repeats + 1
    FROM repeated AS r
    WHERE e.part = $1 AND e.id = r.id AND e.received_at = r.received_at
    RETURNING 1
)
SELECT set_config('synchronous_commit', 'off', true) FROM counted
