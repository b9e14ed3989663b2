-- The tables of callgram. enterprises and telegram_users may exist already: they belong to the system that callgram
-- replaces, and are only added to. Tables of that system that only share a name with ours are moved aside.
--
-- part is a stable hash of the enterprise, made by callgram (rows.part_of); keys start with it, so that the tables can be
-- distributed by it. Ids of events, actions and decisions come from one sequence: (xid, id) orders all of them.

CREATE TABLE IF NOT EXISTS enterprises (
    number text PRIMARY KEY,
    name text,
    name2 text UNIQUE,  -- the Token that the enterprise's hosts send
    bot_token text
);
ALTER TABLE enterprises ADD COLUMN IF NOT EXISTS name text;
ALTER TABLE enterprises ADD COLUMN IF NOT EXISTS name2 text;
ALTER TABLE enterprises ADD COLUMN IF NOT EXISTS bot_token text;

CREATE TABLE IF NOT EXISTS telegram_users (
    tg_id bigint NOT NULL,
    bot_token text NOT NULL,
    name text,
    PRIMARY KEY (bot_token, tg_id)
);
ALTER TABLE telegram_users ADD COLUMN IF NOT EXISTS bot_token text;
ALTER TABLE telegram_users ADD COLUMN IF NOT EXISTS name text;

DO $$
DECLARE
    taken text;
BEGIN
    FOREACH taken IN ARRAY ARRAY['call_events', 'telegram_messages', 'calls', 'telegram_actions', 'decisions'] LOOP
        IF to_regclass(quote_ident(current_schema) || '.' || taken) IS NOT NULL THEN
            EXECUTE format('ALTER TABLE %I RENAME TO %I', taken, taken || '_before_callgram');
        END IF;
    END LOOP;
END $$;

CREATE SEQUENCE callgram_id;

CREATE TABLE call_events (
    part smallint NOT NULL,
    enterprise text NOT NULL,
    id bigint NOT NULL DEFAULT nextval('callgram_id'),
    kind text NOT NULL,
    unique_id text NOT NULL,
    received_at timestamptz NOT NULL,
    digest bytea NOT NULL,
    body bytea NOT NULL,
    done boolean NOT NULL DEFAULT false,
    call_id bigint,
    failed text,
    xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
    PRIMARY KEY (part, id, received_at)
) PARTITION BY RANGE (received_at);
CREATE INDEX ON call_events (part, enterprise, id) WHERE NOT done;
CREATE INDEX ON call_events (part, enterprise, digest, received_at);
CREATE INDEX ON call_events (part, enterprise, call_id) WHERE call_id IS NOT NULL;
CREATE INDEX ON call_events (part, enterprise, unique_id) WHERE failed IS NOT NULL;
CREATE INDEX ON call_events (xid, id);

CREATE TABLE calls (
    part smallint NOT NULL,
    enterprise text NOT NULL,
    id bigint NOT NULL,
    facts bytea NOT NULL,  -- JSON of callgram.calls.facts.Facts
    unique_id text NOT NULL,
    started_at timestamptz NOT NULL,
    ended_at timestamptz,
    timer_at timestamptz,
    absorbed_into bigint,
    PRIMARY KEY (part, enterprise, id)
);
CREATE INDEX ON calls (timer_at, part, enterprise) WHERE timer_at IS NOT NULL;
CREATE INDEX ON calls (part, enterprise, absorbed_into) WHERE absorbed_into IS NOT NULL;

CREATE TABLE call_keys (
    part smallint NOT NULL,
    enterprise text NOT NULL,
    key text NOT NULL,
    call_id bigint NOT NULL,
    weak boolean NOT NULL,
    PRIMARY KEY (part, enterprise, key, call_id)
);
CREATE INDEX ON call_keys (part, enterprise, call_id);

-- The cards. shown, claimed_*, ambiguous and attempts are the sender's, the rest is the planner's. gained holds messages
-- that came with an absorbed call; the next claim makes them a part of shown.
CREATE TABLE telegram_messages (
    part smallint NOT NULL,
    enterprise text NOT NULL,
    call_id bigint NOT NULL,
    chat_id bigint NOT NULL,
    bot_id bigint NOT NULL,
    stage text NOT NULL,
    replaces text NOT NULL,
    version bigint NOT NULL,
    mode text NOT NULL,
    urgency smallint NOT NULL,
    due_at timestamptz,
    shown jsonb NOT NULL DEFAULT '[]',
    gained jsonb NOT NULL DEFAULT '[]',
    claimed_stage text,
    claimed_fence bigint,
    claimed_at timestamptz,
    ambiguous boolean NOT NULL DEFAULT false,
    attempts integer NOT NULL DEFAULT 0,
    PRIMARY KEY (part, enterprise, call_id, chat_id)
);
CREATE INDEX ON telegram_messages (bot_id, chat_id, urgency, due_at) WHERE due_at IS NOT NULL;
CREATE INDEX ON telegram_messages (bot_id, due_at) WHERE due_at IS NOT NULL;

CREATE TABLE telegram_actions (
    part smallint NOT NULL,
    enterprise text NOT NULL,
    id bigint NOT NULL DEFAULT nextval('callgram_id'),
    at timestamptz NOT NULL,
    call_id bigint NOT NULL,
    unique_id text NOT NULL,
    chat_id bigint NOT NULL,
    bot_id bigint NOT NULL,
    stage text NOT NULL,
    op text NOT NULL,
    message_id bigint NOT NULL,
    text text NOT NULL,
    outcome text NOT NULL,
    reason text NOT NULL,
    took_s double precision NOT NULL,
    xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
    PRIMARY KEY (part, id, at)
) PARTITION BY RANGE (at);
CREATE INDEX ON telegram_actions (part, enterprise, call_id);
CREATE INDEX ON telegram_actions (xid, id);
CREATE INDEX ON telegram_actions (bot_id, at) WHERE op = 'send';

-- What was decided against: actions whose op is skip.
CREATE TABLE decisions (
    LIKE telegram_actions INCLUDING DEFAULTS,
    PRIMARY KEY (part, id, at)
) PARTITION BY RANGE (at);
CREATE INDEX ON decisions (part, enterprise, call_id);
CREATE INDEX ON decisions (xid, id);

-- One row an enterprise; its lock is the planner's fence. Never touched by ingest.
CREATE TABLE enterprise_queue (
    part smallint NOT NULL,
    enterprise text NOT NULL,
    PRIMARY KEY (part, enterprise)
);

CREATE TABLE bot_lease (
    bot_id bigint PRIMARY KEY,
    owner text NOT NULL,
    fence bigint NOT NULL,
    until timestamptz NOT NULL
);

-- chat_id 0 is the whole bot; until NULL lasts until somebody lifts it.
CREATE TABLE chat_limit (
    bot_id bigint NOT NULL,
    chat_id bigint NOT NULL,
    until timestamptz,
    reason text NOT NULL,
    PRIMARY KEY (bot_id, chat_id)
);

CREATE TABLE sink_cursor (
    sink text PRIMARY KEY,
    cursor text NOT NULL
);
