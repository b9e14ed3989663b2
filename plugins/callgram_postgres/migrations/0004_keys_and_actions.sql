-- Indexes that began like a primary key were taken for a way to one row of it, by PostgreSQL that knows nothing of a table
-- yet, and walked for all rows of an enterprise. Ids are unique by themselves, a digest is of its enterprise already.
DROP INDEX calls_of_enterprise;
CREATE INDEX calls_of_enterprise ON calls (part, enterprise, started_at, id) WHERE absorbed_into IS NULL;
DROP INDEX calls_part_enterprise_absorbed_into_idx;
CREATE INDEX calls_absorbed ON calls (absorbed_into) WHERE absorbed_into IS NOT NULL;
DROP INDEX call_keys_part_enterprise_call_id_idx;
CREATE INDEX call_keys_of_call ON call_keys (call_id);
DROP INDEX call_events_part_enterprise_digest_received_at_idx;
CREATE INDEX call_events_digest ON call_events (digest, received_at);
DROP INDEX call_events_part_enterprise_call_id_idx;
CREATE INDEX call_events_of_call ON call_events (call_id) WHERE call_id IS NOT NULL;
DROP INDEX telegram_actions_part_enterprise_call_id_idx;
CREATE INDEX telegram_actions_of_call ON telegram_actions (call_id);
DROP INDEX decisions_part_enterprise_call_id_idx;
CREATE INDEX decisions_of_call ON decisions (call_id);

-- A chat that wants no new messages for some time.
ALTER TABLE telegram_users ADD COLUMN IF NOT EXISTS muted_until timestamptz;

-- Which plugin drew what was sent, and how long Telegram asked to wait.
ALTER TABLE telegram_actions ADD COLUMN plugin text NOT NULL DEFAULT '', ADD COLUMN retry_after_s double precision NOT NULL DEFAULT 0;
ALTER TABLE decisions ADD COLUMN plugin text NOT NULL DEFAULT '', ADD COLUMN retry_after_s double precision NOT NULL DEFAULT 0;
