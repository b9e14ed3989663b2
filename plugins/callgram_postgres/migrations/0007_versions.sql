-- Grows with each plan of the enterprise, so that a planner sees that what it knows is still so, without holding the row meanwhile.
ALTER TABLE enterprise_queue ADD COLUMN version bigint NOT NULL DEFAULT 0;

-- The calls that have one of the keys; weak keys of calls that ended before since do not count. Each table is found by its
-- whole key, as planning.sql explains.
CREATE FUNCTION calls_by_key(parts smallint[], enterprises text[], keys text[], since timestamptz)
RETURNS TABLE (enterprise text, id bigint, key text, facts bytea)
LANGUAGE sql STABLE
AS $$
    SELECT g.enterprise, c.id, g.key, c.facts
    FROM unnest(parts, enterprises, keys) AS g (part, enterprise, key)
    CROSS JOIN LATERAL (
        SELECT k.call_id, k.weak
        FROM call_keys AS k
        WHERE k.part = g.part AND k.enterprise = g.enterprise AND k.key = g.key
        OFFSET 0
    ) AS k
    CROSS JOIN LATERAL (
        SELECT c.id, c.facts, c.ended_at
        FROM calls AS c
        WHERE c.part = g.part AND c.enterprise = g.enterprise AND c.id = k.call_id
        OFFSET 0
    ) AS c
    WHERE NOT k.weak OR c.ended_at IS NULL OR c.ended_at >= since
$$;
