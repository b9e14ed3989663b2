-- name: append
-- Store the events that are no repetition, in the order given; answers the places of those that were stored.
-- The scalar subquery keeps PostgreSQL from turning the look-up by index into a join over the whole table.
WITH given AS (
    SELECT *
    FROM unnest($1::smallint[], $2::text[], $3::text[], $4::text[], $5::timestamptz[], $6::bytea[], $7::float8[], $8::bytea[])
        WITH ORDINALITY AS g (part, enterprise, kind, unique_id, received_at, digest, repeat_s, body, place)
),
fresh AS (
    SELECT *
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
    INSERT INTO call_events (part, enterprise, kind, unique_id, received_at, digest, body)
    SELECT part, enterprise, kind, unique_id, received_at, digest, body FROM fresh ORDER BY place
)
SELECT place FROM fresh
