-- What lists of calls are filtered by, and a small place for what plugins keep. Calls of before have no columns to be
-- found by but their time; they are found by their channels as ever.
ALTER TABLE calls ADD COLUMN IF NOT EXISTS direction text NOT NULL DEFAULT '';
ALTER TABLE calls ADD COLUMN IF NOT EXISTS result text NOT NULL DEFAULT '';
ALTER TABLE calls ADD COLUMN IF NOT EXISTS client text NOT NULL DEFAULT '';
ALTER TABLE calls ADD COLUMN IF NOT EXISTS extensions text NOT NULL DEFAULT '';  -- with a space around each

CREATE INDEX calls_by_time ON calls (started_at, id);
CREATE INDEX calls_of_enterprise ON calls (part, enterprise, started_at, id);
CREATE INDEX calls_of_number ON calls (reverse(client) COLLATE "C", started_at, id) WHERE client <> '';
CREATE INDEX calls_live ON calls (started_at, id) WHERE ended_at IS NULL AND absorbed_into IS NULL;

CREATE TABLE plugin_keeps (
    plugin text NOT NULL,
    key text NOT NULL,
    value bytea NOT NULL,
    PRIMARY KEY (plugin, key)
);
