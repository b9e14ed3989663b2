-- As in planning.sql, tables are found by whole keys, whatever PostgreSQL believes of their size: OFFSET 0 around the one
-- restriction that leaves few rows keeps it from a longer key that only begins with what is known.

-- name: find_by_channel
-- The calls of the enterprises ($1, $2) that have the key $3, newest first.
SELECT k.enterprise, k.call_id
FROM unnest($1::smallint[], $2::text[]) AS g (part, enterprise)
CROSS JOIN LATERAL (
    SELECT k.enterprise, k.call_id
    FROM call_keys AS k
    WHERE k.part = g.part AND k.enterprise = g.enterprise AND k.key = $3
    OFFSET 0
) AS k
ORDER BY k.call_id DESC

-- name: call
-- The call $3, or the call that absorbed it, with the calls that turned out to be parts of it and the ids that it is found by.
SELECT s.id, s.facts,
    ARRAY(
        SELECT a.id
        FROM (SELECT a.enterprise, a.id FROM calls AS a WHERE a.absorbed_into = s.id OFFSET 0) AS a
        WHERE a.enterprise = s.enterprise
    ) AS absorbed,
    ARRAY(
        SELECT substr(k.key, 9)
        FROM (SELECT k.enterprise, k.key FROM call_keys AS k WHERE k.call_id = s.id OFFSET 0) AS k
        WHERE k.enterprise = s.enterprise AND k.key LIKE 'channel:%'
        ORDER BY k.key
    ) AS channels
FROM calls AS c
CROSS JOIN LATERAL (
    SELECT s.enterprise, s.id, s.facts
    FROM calls AS s
    WHERE s.part = c.part AND s.enterprise = c.enterprise AND s.id = coalesce(c.absorbed_into, c.id)
    OFFSET 0
) AS s
WHERE c.part = $1 AND c.enterprise = $2 AND c.id = $3

-- name: file
-- Everything about the calls $3 since $5, at most $6, and the events of the channels $4 that belong to no call: not planned
-- yet, or failed.
SELECT e.xid::text AS xid, e.id, e.enterprise, e.received_at AS at, e.kind AS op, e.body, NULL::bigint AS call_id, e.unique_id,
    NULL::bigint AS chat_id, NULL::bigint AS bot_id, NULL::text AS stage, NULL::bigint AS message_id, NULL::text AS text,
    NULL::text AS outcome, NULL::text AS reason, NULL::double precision AS took_s, NULL::text AS plugin, NULL::double precision AS retry_after_s, e.failed, e.repeats
FROM (SELECT * FROM call_events AS e WHERE e.call_id = ANY($3::bigint[]) AND e.received_at >= $5 OFFSET 0) AS e
WHERE e.part = $1 AND e.enterprise = $2
UNION ALL
SELECT e.xid::text, e.id, e.enterprise, e.received_at, e.kind, e.body, NULL, e.unique_id, NULL, NULL, NULL, NULL, NULL, NULL,
    NULL, NULL, NULL, NULL, NULL, e.repeats
FROM call_events AS e
WHERE e.part = $1 AND e.enterprise = $2 AND e.unique_id = ANY($4::text[]) AND NOT e.done AND e.received_at >= $5
UNION ALL
SELECT e.xid::text, e.id, e.enterprise, e.received_at, e.kind, e.body, NULL, e.unique_id, NULL, NULL, NULL, NULL, NULL, NULL,
    NULL, NULL, NULL, NULL, e.failed, e.repeats
FROM call_events AS e
WHERE e.part = $1 AND e.enterprise = $2 AND e.unique_id = ANY($4::text[]) AND e.failed IS NOT NULL AND e.received_at >= $5
UNION ALL
SELECT a.xid::text, a.id, a.enterprise, a.at, a.op, NULL, a.call_id, a.unique_id, a.chat_id, a.bot_id, a.stage, a.message_id,
    a.text, a.outcome, a.reason, a.took_s, a.plugin, a.retry_after_s, NULL, 0
FROM (SELECT * FROM telegram_actions AS a WHERE a.call_id = ANY($3::bigint[]) AND a.at >= $5 OFFSET 0) AS a
WHERE a.part = $1 AND a.enterprise = $2
UNION ALL
SELECT d.xid::text, d.id, d.enterprise, d.at, d.op, NULL, d.call_id, d.unique_id, d.chat_id, d.bot_id, d.stage, d.message_id,
    d.text, d.outcome, d.reason, d.took_s, d.plugin, d.retry_after_s, NULL, 0
FROM (SELECT * FROM decisions AS d WHERE d.call_id = ANY($3::bigint[]) AND d.at >= $5 OFFSET 0) AS d
WHERE d.part = $1 AND d.enterprise = $2
ORDER BY at, id
LIMIT $6

-- name: by_time
-- Candidates of a list: calls older than ($1, $2), of $3 or later, newest first, at most $4.
SELECT c.part, c.enterprise, c.id, c.started_at, c.unique_id, c.absorbed_into, c.client, c.extensions, c.direction, c.result
FROM calls AS c
WHERE (c.started_at, c.id) < ($1, $2) AND c.started_at >= $3
ORDER BY c.started_at DESC, c.id DESC
LIMIT $4

-- name: by_enterprise
-- As by_time, of the few enterprises ($5, $6).
SELECT c.*
FROM unnest($5::smallint[], $6::text[]) AS g (part, enterprise)
CROSS JOIN LATERAL (
    SELECT c.part, c.enterprise, c.id, c.started_at, c.unique_id, c.absorbed_into, c.client, c.extensions, c.direction, c.result
    FROM calls AS c
    WHERE c.part = g.part AND c.enterprise = g.enterprise AND c.absorbed_into IS NULL
        AND (c.started_at, c.id) < ($1, $2) AND c.started_at >= $3
    ORDER BY c.started_at DESC, c.id DESC
    LIMIT $4
) AS c
ORDER BY c.started_at DESC, c.id DESC
LIMIT $4

-- name: by_number
-- As by_time, of the clients whose reversed number lies from $7 to below $8. Steps from number to number, and takes the
-- newest calls of each: one who calls all the time has more than anybody should read.
SELECT c.*
FROM (
    WITH RECURSIVE clients AS (
        (
            SELECT reverse(c.client) COLLATE "C" AS number
            FROM calls AS c
            WHERE c.client <> '' AND reverse(c.client) COLLATE "C" >= $7 AND reverse(c.client) COLLATE "C" < $8
            ORDER BY 1
            LIMIT 1
        )
        UNION ALL
        SELECT following.number
        FROM clients AS n
        CROSS JOIN LATERAL (
            SELECT reverse(c.client) COLLATE "C" AS number
            FROM calls AS c
            WHERE c.client <> '' AND reverse(c.client) COLLATE "C" > n.number AND reverse(c.client) COLLATE "C" < $8
            ORDER BY 1
            LIMIT 1
        ) AS following
    )
    SELECT number FROM clients
) AS n
CROSS JOIN LATERAL (
    SELECT c.part, c.enterprise, c.id, c.started_at, c.unique_id, c.absorbed_into, c.client, c.extensions, c.direction, c.result
    FROM calls AS c
    WHERE c.client <> '' AND reverse(c.client) COLLATE "C" = n.number
        AND (c.started_at, c.id) < ($1, $2) AND c.started_at >= $3
    ORDER BY reverse(c.client) COLLATE "C" DESC, c.started_at DESC, c.id DESC
    LIMIT $4
) AS c
ORDER BY c.started_at DESC, c.id DESC
LIMIT $4

-- name: matching
-- Those of the candidates that fit, at most $13, each row with how many candidates there were and which is the oldest.
SELECT f.enterprise, f.id, f.started_at, s.n_searched, s.oldest_at, s.oldest_id,
    (SELECT c.facts FROM calls AS c WHERE c.part = f.part AND c.enterprise = f.enterprise AND c.id = f.id) AS facts,
    (SELECT count(*) FROM telegram_messages AS m WHERE m.part = f.part AND m.enterprise = f.enterprise AND m.call_id = f.id)
        AS n_chats,
    (SELECT count(*) FROM telegram_messages AS m WHERE m.part = f.part AND m.enterprise = f.enterprise AND m.call_id = f.id
        AND (m.shown <> '[]' OR m.gained <> '[]')) AS n_shown
FROM (
    SELECT (SELECT count(*) FROM candidates) AS n_searched, o.started_at AS oldest_at, o.id AS oldest_id
    FROM (SELECT) AS one
    LEFT JOIN (SELECT k.started_at, k.id FROM candidates AS k ORDER BY k.started_at, k.id LIMIT 1) AS o ON true
) AS s
LEFT JOIN LATERAL (
    SELECT c.part, c.enterprise, c.id, c.started_at
    FROM candidates AS c
    WHERE c.absorbed_into IS NULL AND c.unique_id <> ''
        AND ($6::text[] IS NULL OR (c.part = ANY($5::smallint[]) AND c.enterprise = ANY($6::text[])))
        AND ($7::text IS NULL OR (reverse(c.client) COLLATE "C" >= $7::text AND reverse(c.client) COLLATE "C" < $8::text))
        AND ($9::text IS NULL OR c.extensions LIKE $9::text)
        AND ($10::text IS NULL OR c.direction = $10::text)
        AND ($11::text IS NULL OR c.result = $11::text)
        AND (NOT $12::boolean OR (
            SELECT true
            FROM telegram_messages AS m
            WHERE m.part = c.part AND m.enterprise = c.enterprise AND m.call_id = c.id AND (m.shown <> '[]' OR m.gained <> '[]')
            LIMIT 1
        ) IS NULL)
    ORDER BY c.started_at DESC, c.id DESC
    LIMIT $13
) AS f ON true
ORDER BY f.started_at DESC, f.id DESC

-- name: live
-- The calls that have not ended, of the enterprises $1 (NULL: all), newest first, at most $2.
SELECT c.facts,
    (SELECT count(*) FROM telegram_messages AS m WHERE m.part = c.part AND m.enterprise = c.enterprise AND m.call_id = c.id)
        AS n_chats,
    (SELECT count(*) FROM telegram_messages AS m WHERE m.part = c.part AND m.enterprise = c.enterprise AND m.call_id = c.id
        AND (m.shown <> '[]' OR m.gained <> '[]')) AS n_shown
FROM calls AS c
WHERE c.ended_at IS NULL AND c.absorbed_into IS NULL AND c.unique_id <> '' AND ($1::text[] IS NULL OR c.enterprise = ANY($1::text[]))
ORDER BY c.started_at DESC, c.id DESC
LIMIT $2

-- name: cursors
-- Where each sink is.
SELECT sink, cursor FROM sink_cursor ORDER BY sink

-- name: first_since
-- The first record in commit order of the moment $1 or later, else the end of what is committed.
SELECT xid::text AS xid, id
FROM (
    (SELECT e.xid, e.id FROM call_events AS e WHERE e.received_at >= $1 ORDER BY e.xid, e.id LIMIT 1)
    UNION ALL
    (SELECT a.xid, a.id FROM telegram_actions AS a WHERE a.at >= $1 ORDER BY a.xid, a.id LIMIT 1)
    UNION ALL
    (SELECT d.xid, d.id FROM decisions AS d WHERE d.at >= $1 ORDER BY d.xid, d.id LIMIT 1)
    UNION ALL
    SELECT pg_snapshot_xmin(pg_current_snapshot()), 1
) AS f
ORDER BY f.xid, f.id
LIMIT 1

-- name: kept
-- What a plugin keeps.
SELECT key, value FROM plugin_keeps WHERE plugin = $1

-- name: keep
-- Keep or replace one thing of a plugin.
INSERT INTO plugin_keeps (plugin, key, value) VALUES ($1, $2, $3) ON CONFLICT (plugin, key) DO UPDATE SET value = excluded.value

-- name: keep_first
-- Keep one thing of a plugin, unless there is one.
INSERT INTO plugin_keeps (plugin, key, value) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING

-- name: forget
-- Keep one thing of a plugin no longer.
DELETE FROM plugin_keeps WHERE plugin = $1 AND key = $2
