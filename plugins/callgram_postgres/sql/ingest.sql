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
