-- name: cursor
-- Where a sink is.
SELECT cursor FROM sink_cursor WHERE sink = $1

-- name: save_cursor
-- Move a sink; where $3 is not NULL only from there ('' is the place of a sink that was never saved). Answers whether it moved.
INSERT INTO sink_cursor (sink, cursor)
SELECT $1, $2
WHERE $3::text IS NULL OR $3 = '' OR EXISTS (SELECT FROM sink_cursor WHERE sink = $1)
ON CONFLICT (sink) DO UPDATE SET cursor = excluded.cursor WHERE $3::text IS NULL OR sink_cursor.cursor = $3
RETURNING true

-- name: trace
-- The $3 records behind ($1, $2). Ids are handed out before commit, so a transaction that still runs could put a record
-- in front of newer ones; what the oldest running transaction (the xmin) or a later one wrote is left for the next time.
(
    SELECT e.xid::text AS xid, e.xid AS sort_xid, e.id, e.enterprise, e.received_at AS at, e.kind AS op, e.body,
        NULL::bigint AS call_id, e.unique_id, NULL::bigint AS chat_id, NULL::bigint AS bot_id, NULL::text AS stage,
        NULL::bigint AS message_id, NULL::text AS text, NULL::text AS outcome, NULL::text AS reason,
        NULL::double precision AS took_s, NULL::text AS plugin, NULL::double precision AS retry_after_s
    FROM call_events AS e
    WHERE (e.xid, e.id) > ($1::text::xid8, $2::bigint) AND e.xid < pg_snapshot_xmin(pg_current_snapshot())
    ORDER BY e.xid, e.id
    LIMIT $3
)
UNION ALL
(
    SELECT a.xid::text, a.xid, a.id, a.enterprise, a.at, a.op, NULL, a.call_id, a.unique_id, a.chat_id, a.bot_id, a.stage,
        a.message_id, a.text, a.outcome, a.reason, a.took_s, a.plugin, a.retry_after_s
    FROM telegram_actions AS a
    WHERE (a.xid, a.id) > ($1::text::xid8, $2::bigint) AND a.xid < pg_snapshot_xmin(pg_current_snapshot())
    ORDER BY a.xid, a.id
    LIMIT $3
)
UNION ALL
(
    SELECT d.xid::text, d.xid, d.id, d.enterprise, d.at, d.op, NULL, d.call_id, d.unique_id, d.chat_id, d.bot_id, d.stage,
        d.message_id, d.text, d.outcome, d.reason, d.took_s, d.plugin, d.retry_after_s
    FROM decisions AS d
    WHERE (d.xid, d.id) > ($1::text::xid8, $2::bigint) AND d.xid < pg_snapshot_xmin(pg_current_snapshot())
    ORDER BY d.xid, d.id
    LIMIT $3
)
ORDER BY sort_xid, id
LIMIT $3

-- name: waiting_since
-- The time of the first record behind ($1, $2), whether or not trace would answer it already.
SELECT min(w.at)
FROM (
    (SELECT e.received_at AS at FROM call_events AS e WHERE (e.xid, e.id) > ($1::text::xid8, $2::bigint) ORDER BY e.xid, e.id LIMIT 1)
    UNION ALL
    (SELECT a.at FROM telegram_actions AS a WHERE (a.xid, a.id) > ($1::text::xid8, $2::bigint) ORDER BY a.xid, a.id LIMIT 1)
    UNION ALL
    (SELECT d.at FROM decisions AS d WHERE (d.xid, d.id) > ($1::text::xid8, $2::bigint) ORDER BY d.xid, d.id LIMIT 1)
) AS w

-- name: calls_of_channel
-- The call that has the key $3, with the calls that it absorbed.
WITH found AS MATERIALIZED (
    SELECT k.call_id FROM call_keys AS k WHERE k.part = $1 AND k.enterprise = $2 AND k.key = $3
)
SELECT f.call_id AS id
FROM found AS f
UNION
SELECT c.id
FROM found AS f
CROSS JOIN LATERAL (SELECT c.part, c.enterprise, c.id FROM calls AS c WHERE c.absorbed_into = f.call_id OFFSET 0) AS c
WHERE c.part = $1 AND c.enterprise = $2

-- name: trace_of_calls
-- Everything about the calls $3, and the events of the channel $4 that belong to no call: not planned yet, or failed.
SELECT e.xid::text AS xid, e.id, e.enterprise, e.received_at AS at, e.kind AS op, e.body, NULL::bigint AS call_id, e.unique_id,
    NULL::bigint AS chat_id, NULL::bigint AS bot_id, NULL::text AS stage, NULL::bigint AS message_id, NULL::text AS text,
    NULL::text AS outcome, NULL::text AS reason, NULL::double precision AS took_s, NULL::text AS plugin, NULL::double precision AS retry_after_s
FROM (SELECT * FROM call_events AS e WHERE e.call_id = ANY($3::bigint[]) OFFSET 0) AS e
WHERE e.part = $1 AND e.enterprise = $2
UNION ALL
SELECT e.xid::text, e.id, e.enterprise, e.received_at, e.kind, e.body, NULL, e.unique_id, NULL, NULL, NULL, NULL, NULL, NULL,
    NULL, NULL, NULL, NULL
FROM call_events AS e
WHERE e.part = $1 AND e.enterprise = $2 AND e.unique_id = $4 AND NOT e.done
UNION ALL
SELECT e.xid::text, e.id, e.enterprise, e.received_at, e.kind, e.body, NULL, e.unique_id, NULL, NULL, NULL, NULL, NULL, NULL,
    NULL, NULL, NULL, NULL
FROM call_events AS e
WHERE e.part = $1 AND e.enterprise = $2 AND e.unique_id = $4 AND e.failed IS NOT NULL
UNION ALL
SELECT a.xid::text, a.id, a.enterprise, a.at, a.op, NULL, a.call_id, a.unique_id, a.chat_id, a.bot_id, a.stage, a.message_id,
    a.text, a.outcome, a.reason, a.took_s, a.plugin, a.retry_after_s
FROM (SELECT * FROM telegram_actions AS a WHERE a.call_id = ANY($3::bigint[]) OFFSET 0) AS a
WHERE a.part = $1 AND a.enterprise = $2
UNION ALL
SELECT d.xid::text, d.id, d.enterprise, d.at, d.op, NULL, d.call_id, d.unique_id, d.chat_id, d.bot_id, d.stage, d.message_id,
    d.text, d.outcome, d.reason, d.took_s, d.plugin, d.retry_after_s
FROM (SELECT * FROM decisions AS d WHERE d.call_id = ANY($3::bigint[]) OFFSET 0) AS d
WHERE d.part = $1 AND d.enterprise = $2
ORDER BY at, id
