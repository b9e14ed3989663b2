-- name: migration_lock
-- Held to the end of the transaction: one process changes tables at a time.
SELECT pg_advisory_xact_lock(hashtext('callgram schema'))

-- name: try_house_lock
-- As migration_lock, but answers false where somebody else keeps house.
SELECT pg_try_advisory_xact_lock(hashtext('callgram house'))

-- name: flush
-- Make everything durable that was committed so far without waiting for the disk.
SELECT pg_logical_emit_message(true, 'callgram', '')

-- name: make_migrations_table
-- Which migrations this database has.
CREATE TABLE IF NOT EXISTS callgram_migrations (
    number integer PRIMARY KEY,
    name text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
)

-- name: applied_migrations
-- The numbers of the migrations that this database has.
SELECT number FROM callgram_migrations

-- name: note_migration
-- Remember that a migration was applied.
INSERT INTO callgram_migrations (number, name) VALUES ($1, $2)

-- name: partitions
-- The day partitions that there are. half_gone: a detach was cut short and has to be finished.
SELECT p.relname AS parent, c.relname AS name, i.inhdetachpending AS half_gone
FROM pg_inherits AS i
JOIN pg_class AS c ON c.oid = i.inhrelid
JOIN pg_class AS p ON p.oid = i.inhparent
WHERE p.relname = ANY($1::text[]) AND p.relnamespace = current_schema::regnamespace

-- name: lost_partitions
-- What is to be dropped, in this order, of the tables that were day partitions and were detached: their indexes, then they.
SELECT c.relname AS name,
    CASE
        WHEN k.conname IS NOT NULL THEN format('ALTER TABLE %I DROP CONSTRAINT IF EXISTS %I', c.relname, k.conname)
        WHEN d.relname IS NOT NULL THEN format('DROP INDEX IF EXISTS %I', d.relname)
        ELSE format('DROP TABLE IF EXISTS %I', c.relname)
    END AS drop_statement
FROM pg_class AS c
CROSS JOIN LATERAL (
    SELECT i.indexrelid FROM pg_index AS i WHERE i.indrelid = c.oid
    UNION ALL
    SELECT NULL
) AS i
LEFT JOIN pg_class AS d ON d.oid = i.indexrelid
LEFT JOIN pg_constraint AS k ON k.conindid = i.indexrelid AND k.conrelid = c.oid
WHERE c.relkind = 'r' AND NOT c.relispartition AND c.relnamespace = current_schema::regnamespace
    AND c.relname ~ ('^(' || array_to_string($1::text[], '|') || ')_[0-9]{8}$')
ORDER BY c.relname, d.relname NULLS LAST

-- name: forget_calls
-- Drop at most $2 calls that started and, where they did, ended before $1, with their cards and keys; answers how many.
WITH old AS MATERIALIZED (
    SELECT c.part, c.enterprise, c.id
    FROM calls AS c
    WHERE c.started_at < $1 AND (c.ended_at IS NULL OR c.ended_at < $1)
    ORDER BY c.started_at, c.id
    LIMIT $2
    FOR UPDATE SKIP LOCKED
),
cards AS (
    DELETE FROM telegram_messages AS m
    USING old
    WHERE m.part = old.part AND m.enterprise = old.enterprise AND m.call_id = old.id
),
keys AS (
    DELETE FROM call_keys AS k
    WHERE k.call_id = ANY(ARRAY(SELECT old.id FROM old))
),
gone AS (
    DELETE FROM calls AS c
    USING old
    WHERE c.part = old.part AND c.enterprise = old.enterprise AND c.id = old.id
    RETURNING 1
)
SELECT count(*) FROM gone

-- name: forget_weak_keys
-- Drop the weak keys of calls that ended before $1. Looks up the calls of weak keys only.
DELETE FROM call_keys AS k
WHERE k.weak
    AND (SELECT c.ended_at FROM calls AS c WHERE c.part = k.part AND c.enterprise = k.enterprise AND c.id = k.call_id) < $1

-- name: forget_limits
-- Drop the limits that ended before $1.
DELETE FROM chat_limit WHERE until < $1

-- name: restored_events
-- Give events that were restored into this server from another's dump a transaction number of this one: theirs may be in
-- its future, and the trace would wait for it. Likewise restored_actions and restored_decisions; finds nothing elsewhere.
UPDATE call_events SET xid = pg_current_xact_id() WHERE xid > pg_current_xact_id()

-- name: restored_actions
-- See restored_events.
UPDATE telegram_actions SET xid = pg_current_xact_id() WHERE xid > pg_current_xact_id()

-- name: restored_decisions
-- See restored_events.
UPDATE decisions SET xid = pg_current_xact_id() WHERE xid > pg_current_xact_id()

-- name: restored_cursors
-- Put the sinks' cursors where restored_events put the records: behind the last that each has seen.
UPDATE sink_cursor
SET cursor = lpad(pg_current_xact_id()::text, 20, '0') || substr(cursor, 21)
WHERE left(cursor, 20) > lpad(pg_current_xact_id()::text, 20, '0')
