-- Tables are found by whole keys here, whatever PostgreSQL believes of their size: a restriction by = ANY, a scalar subquery
-- or a LATERAL with OFFSET 0 leaves it no other way. A join would, and be planned while the table is empty: by a walk over
-- all rows of the enterprise.

-- name: take_pending
-- Lock the first $4 enterprises behind ($1, $2) and before the part $5 that have events to plan and that nobody plans, and read
-- the oldest events of each, $3 in all. locked is false for an enterprise that has no row to lock yet. Steps from enterprise to
-- enterprise through the index of what is not done, so that neither old events nor a flood of one enterprise make it slow, and no
-- further than to $3 events: a loop in the order of picked is the one way to do this join, and a sort behind it would read all
-- that waits. The events are as old as the statement: another planner may have planned them before the lock was ours, which
-- write_plan finds out.
WITH RECURSIVE pending AS (
    (
        SELECT e.part, e.enterprise
        FROM call_events AS e
        WHERE NOT e.done AND (e.part, e.enterprise) > ($1::smallint, $2::text)
            AND (e.part, e.enterprise) < ($5::smallint, '')
        ORDER BY e.part, e.enterprise
        LIMIT 1
    )
    UNION ALL
    SELECT following.part, following.enterprise
    FROM pending AS p
    CROSS JOIN LATERAL (
        SELECT e.part, e.enterprise
        FROM call_events AS e
        WHERE NOT e.done AND (e.part, e.enterprise) > (p.part, p.enterprise)
            AND (e.part, e.enterprise) < ($5::smallint, '')
        ORDER BY e.part, e.enterprise
        LIMIT 1
    ) AS following
),
picked AS MATERIALIZED (
    SELECT p.part, p.enterprise, q.enterprise IS NOT NULL AS locked
    FROM pending AS p
    LEFT JOIN LATERAL (
        SELECT k.enterprise
        FROM enterprise_queue AS k
        WHERE k.part = p.part AND k.enterprise = p.enterprise
        FOR UPDATE SKIP LOCKED
    ) AS q ON true
    WHERE q.enterprise IS NOT NULL
        OR (SELECT true FROM enterprise_queue AS k WHERE k.part = p.part AND k.enterprise = p.enterprise) IS NULL
    LIMIT $4
)
SELECT p.part, p.enterprise, p.locked, w.*
FROM picked AS p
LEFT JOIN LATERAL (
    SELECT e.id, e.kind, e.received_at, e.body
    FROM call_events AS e
    WHERE e.part = p.part AND e.enterprise = p.enterprise AND NOT e.done AND p.locked
    ORDER BY e.id
    LIMIT $3
) AS w ON true
LIMIT $3

-- name: pick_due
-- Lock an enterprise of the parts from $2 to before $3 that has a call whose timer ran out by $1 and that nobody plans. As
-- take_pending.
WITH due AS (
    SELECT DISTINCT d.part, d.enterprise
    FROM (
        SELECT c.part, c.enterprise
        FROM calls AS c
        WHERE c.timer_at <= $1 AND c.part >= $2::smallint AND c.part < $3::smallint
        ORDER BY c.timer_at
        LIMIT 500
    ) AS d
)
SELECT p.part, p.enterprise, q.enterprise IS NOT NULL AS locked
FROM due AS p
LEFT JOIN LATERAL (
    SELECT k.enterprise
    FROM enterprise_queue AS k
    WHERE k.part = p.part AND k.enterprise = p.enterprise
    FOR UPDATE SKIP LOCKED
) AS q ON true
WHERE q.enterprise IS NOT NULL
    OR (SELECT true FROM enterprise_queue AS k WHERE k.part = p.part AND k.enterprise = p.enterprise) IS NULL
LIMIT 1

-- name: add_queue
-- Make the row by which an enterprise is locked.
INSERT INTO enterprise_queue (part, enterprise) VALUES ($1, $2) ON CONFLICT DO NOTHING

-- name: pending_events
-- The oldest $3 events of an enterprise that are not planned.
SELECT e.id, e.kind, e.received_at, e.body
FROM call_events AS e
WHERE e.part = $1 AND e.enterprise = $2 AND NOT e.done
ORDER BY e.id
LIMIT $3

-- name: due_calls
-- The calls of an enterprise whose timer ran out by $3, at most $4.
SELECT c.facts
FROM calls AS c
WHERE c.part = $1 AND c.enterprise = $2 AND c.timer_at <= $3
ORDER BY c.timer_at
LIMIT $4

-- name: find_calls
-- The calls that have one of the keys $1, $2, $3 (parts, enterprises, keys); weak keys of calls that ended before $4 do not count.
SELECT c.enterprise, c.id, c.key, c.facts FROM calls_by_key($1, $2, $3, $4) AS c

-- name: cards_of
-- The cards of the calls $1, $2, $3 (parts, enterprises, calls).
SELECT g.enterprise, m.*
FROM unnest($1::smallint[], $2::text[], $3::bigint[]) AS g (part, enterprise, call_id)
CROSS JOIN LATERAL (
    SELECT m.call_id, m.chat_id, m.bot_id, m.stage, m.replaces, m.version, m.mode, m.urgency, m.due_at,
        m.shown || m.gained AS shown, m.claimed_stage, m.claimed_fence, m.claimed_at, m.attempts
    FROM telegram_messages AS m
    WHERE m.part = g.part AND m.enterprise = g.enterprise AND m.call_id = g.call_id
    OFFSET 0
) AS m

-- name: write_plan
-- What one batch decided of an enterprise, but for absorbed calls: calls, keys, cards, and which events are done.
-- A card's version only ever grows, so that a sender who has it in hand sees that it changed. A card that changes its
-- bot starts anew: message ids are each bot's own. Weak keys of calls that ended before $13 go as their names are used again,
-- the oldest of each ($12).
-- A card with a fence ($32) is claimed at $31, where claim_cards would: its lease is held, its chat takes messages, nobody else
-- has it in hand. What is new to a chat that is suspended is decided against.
-- Writes nothing where the enterprise was planned since its version was $33, or somebody has it in hand; NULL is any version,
-- where its row is locked already. Answers how
-- many events were marked, fewer than given where another planner was faster, and the claimed cards. Durable with a claim, and
-- with a version: the events were stored without waiting for the disk then.
WITH fence AS (
    UPDATE enterprise_queue AS q
    SET version = q.version + 1
    FROM (
        SELECT k.part, k.enterprise
        FROM enterprise_queue AS k
        WHERE k.part = $1 AND k.enterprise = $2 AND k.version = coalesce($33::bigint, k.version)
        FOR UPDATE SKIP LOCKED
    ) AS free
    WHERE q.part = free.part AND q.enterprise = free.enterprise
    RETURNING 1
),
put_calls AS (
    INSERT INTO calls (part, enterprise, id, facts, unique_id, started_at, ended_at, timer_at, direction, result, client,
        extensions)
    SELECT $1, $2, g.*
    FROM unnest($3::bigint[], $4::bytea[], $5::text[], $6::timestamptz[], $7::timestamptz[], $8::timestamptz[],
        $27::text[], $28::text[], $29::text[], $30::text[]) AS g
    WHERE EXISTS (SELECT FROM fence)
    ON CONFLICT (part, enterprise, id) DO UPDATE
    SET facts = excluded.facts, unique_id = excluded.unique_id, started_at = excluded.started_at,
        ended_at = excluded.ended_at, timer_at = excluded.timer_at, direction = excluded.direction,
        result = excluded.result, client = excluded.client, extensions = excluded.extensions
),
spent AS MATERIALIZED (
    SELECT g.key, o.call_id
    FROM unnest($12::text[]) AS g (key)
    CROSS JOIN LATERAL (
        SELECT k.call_id, k.weak
        FROM call_keys AS k
        WHERE k.part = $1 AND k.enterprise = $2 AND k.key = g.key
        ORDER BY k.call_id
        LIMIT 16
    ) AS o
    WHERE o.weak AND EXISTS (SELECT FROM fence)
        AND (SELECT c.ended_at FROM calls AS c WHERE c.part = $1 AND c.enterprise = $2 AND c.id = o.call_id) < $13
),
spent_keys AS (
    DELETE FROM call_keys AS k
    WHERE k.part = $1 AND k.enterprise = $2 AND k.weak
        AND k.key = ANY(ARRAY(SELECT s.key FROM spent AS s)) AND k.call_id = ANY(ARRAY(SELECT s.call_id FROM spent AS s))
),
put_keys AS (
    INSERT INTO call_keys (part, enterprise, call_id, key, weak)
    SELECT $1, $2, g.* FROM unnest($9::bigint[], $10::text[], $11::boolean[]) AS g WHERE EXISTS (SELECT FROM fence)
    ON CONFLICT DO NOTHING
),
wanted AS MATERIALIZED (
    SELECT g.call_id, g.chat_id, g.bot_id, g.stage, g.replaces, g.version, g.mode, g.urgency, g.due_at, h.fence, t.suspended
    FROM unnest($14::bigint[], $15::bigint[], $16::bigint[], $17::text[], $18::text[], $19::bigint[], $20::text[],
        $21::smallint[], $22::timestamptz[], $32::bigint[])
        AS g (call_id, chat_id, bot_id, stage, replaces, version, mode, urgency, due_at, fence)
    CROSS JOIN LATERAL (
        SELECT count(*) > 0 AS closed, min(l.reason) FILTER (WHERE l.until IS NULL) AS suspended
        FROM chat_limit AS l
        WHERE l.bot_id = g.bot_id AND l.chat_id IN (0, g.chat_id) AND (l.until IS NULL OR l.until > $31)
    ) AS t
    LEFT JOIN LATERAL (
        SELECT l.fence
        FROM bot_lease AS l
        WHERE l.bot_id = g.bot_id AND l.fence = g.fence AND l.until > clock_timestamp() AND g.due_at <= $31 AND NOT t.closed
            AND (
                SELECT m.claimed_fence
                FROM telegram_messages AS m
                WHERE m.part = $1 AND m.enterprise = $2 AND m.call_id = g.call_id AND m.chat_id = g.chat_id
                    AND m.bot_id + 0 = g.bot_id
            ) IS NULL
        OFFSET 0
    ) AS h ON true
    WHERE EXISTS (SELECT FROM fence)
),
put_skips AS (
    INSERT INTO decisions (part, enterprise, at, call_id, unique_id, chat_id, bot_id, stage, op, message_id, text, outcome,
        reason, took_s)
    SELECT $1, $2, $31, w.call_id, c.unique_id, w.chat_id, w.bot_id, w.stage, 'skip', 0, '', 'skipped',
        'blocked: ' || w.suspended, 0
    FROM wanted AS w
    JOIN unnest($3::bigint[], $5::text[]) AS c (id, unique_id) ON c.id = w.call_id
    WHERE w.suspended IS NOT NULL AND (
        SELECT o.stage
        FROM telegram_messages AS o
        WHERE o.part = $1 AND o.enterprise = $2 AND o.call_id = w.call_id AND o.chat_id = w.chat_id
    ) IS DISTINCT FROM w.stage
),
put_cards AS (
    INSERT INTO telegram_messages AS m
        (part, enterprise, call_id, chat_id, bot_id, stage, replaces, version, mode, urgency, due_at, claimed_stage,
        claimed_fence, claimed_at)
    SELECT $1, $2, w.call_id, w.chat_id, w.bot_id, w.stage, w.replaces, w.version, w.mode, w.urgency, w.due_at,
        CASE WHEN w.fence IS NOT NULL THEN w.stage END, w.fence, CASE WHEN w.fence IS NOT NULL THEN $31::timestamptz END
    FROM wanted AS w
    ORDER BY w.call_id, w.chat_id
    ON CONFLICT (part, enterprise, call_id, chat_id) DO UPDATE
    SET stage = excluded.stage, replaces = excluded.replaces, version = greatest(excluded.version, m.version + 1),
        mode = excluded.mode, urgency = excluded.urgency, due_at = excluded.due_at, bot_id = excluded.bot_id,
        shown = CASE
            WHEN m.bot_id <> excluded.bot_id THEN '[]'
            WHEN excluded.claimed_fence IS NOT NULL AND m.claimed_fence IS NULL THEN m.gained || m.shown
            ELSE m.shown
        END,
        gained = CASE
            WHEN m.bot_id <> excluded.bot_id OR (excluded.claimed_fence IS NOT NULL AND m.claimed_fence IS NULL) THEN '[]'
            ELSE m.gained
        END,
        claimed_stage = CASE
            WHEN m.bot_id = excluded.bot_id AND m.claimed_fence IS NOT NULL THEN m.claimed_stage
            ELSE excluded.claimed_stage
        END,
        claimed_at = CASE
            WHEN m.bot_id = excluded.bot_id AND m.claimed_fence IS NOT NULL THEN m.claimed_at
            ELSE excluded.claimed_at
        END,
        claimed_fence = CASE
            WHEN m.bot_id = excluded.bot_id AND m.claimed_fence IS NOT NULL THEN m.claimed_fence
            ELSE excluded.claimed_fence
        END,
        ambiguous = m.ambiguous AND m.bot_id = excluded.bot_id
    RETURNING m.*
),
marked AS (
    UPDATE call_events AS e
    SET done = true, call_id = g.call_id, failed = g.failed
    FROM unnest($23::bigint[], $25::bigint[], $26::text[]) AS g (id, call_id, failed)
    WHERE e.part = $1 AND e.enterprise = $2 AND NOT e.done AND e.id = ANY($23::bigint[]) AND e.id = g.id
        AND EXISTS (SELECT FROM fence)
        AND e.received_at BETWEEN ($24::timestamptz[])[1] AND ($24::timestamptz[])[2]
    RETURNING 1
)
SELECT (SELECT count(*) FROM marked) AS n_marked, h.*,
    CASE WHEN h.call_id IS NOT NULL OR $33::bigint IS NOT NULL THEN set_config('synchronous_commit', 'on', true) END
FROM (SELECT) AS one
LEFT JOIN (
    SELECT m.call_id, m.chat_id, m.bot_id, m.stage, m.replaces, m.version, m.mode, m.urgency, m.due_at, m.shown, m.claimed_stage,
        m.claimed_fence, m.claimed_at, m.attempts
    FROM wanted AS w
    JOIN put_cards AS m ON m.call_id = w.call_id AND m.chat_id = w.chat_id
    WHERE w.fence IS NOT NULL AND w.fence = m.claimed_fence AND m.claimed_at = $31
) AS h ON true

-- name: put_skips
-- Record what was decided against.
INSERT INTO decisions (part, enterprise, at, call_id, unique_id, chat_id, bot_id, stage, op, message_id, text, outcome, reason,
    took_s)
SELECT *
FROM unnest($1::smallint[], $2::text[], $3::timestamptz[], $4::bigint[], $5::text[], $6::bigint[], $7::bigint[], $8::text[],
    $9::text[], $10::bigint[], $11::text[], $12::text[], $13::text[], $14::float8[])

-- name: lock_cards
-- Lock the cards of calls in the order in which everybody locks cards.
SELECT FROM telegram_messages AS m
WHERE m.part = $1 AND m.enterprise = $2 AND m.call_id = ANY($3::bigint[])
ORDER BY m.part, m.enterprise, m.call_id, m.chat_id
FOR UPDATE

-- name: absorb_calls
-- Mark calls as parts of others, with those that they had absorbed themselves.
WITH parts AS (
    UPDATE calls AS c
    SET absorbed_into = g.winner, timer_at = NULL
    FROM unnest($3::bigint[], $4::bigint[]) AS g (loser, winner)
    WHERE c.part = $1 AND c.enterprise = $2 AND c.absorbed_into = ANY($3::bigint[]) AND c.absorbed_into = g.loser
)
UPDATE calls AS c
SET absorbed_into = g.winner, timer_at = NULL
FROM unnest($3::bigint[], $4::bigint[]) AS g (loser, winner)
WHERE c.part = $1 AND c.enterprise = $2 AND c.id = ANY($3::bigint[]) AND c.id = g.loser

-- name: absorb_keys
-- Hand the keys of absorbed calls to their survivors.
WITH lost AS (
    DELETE FROM call_keys AS k
    USING unnest($3::bigint[], $4::bigint[]) AS g (loser, winner)
    WHERE k.part = $1 AND k.enterprise = $2 AND k.call_id = ANY($3::bigint[]) AND k.call_id = g.loser
    RETURNING k.key, g.winner, k.weak
)
INSERT INTO call_keys (part, enterprise, key, call_id, weak)
SELECT DISTINCT $1::smallint, $2::text, lost.key, lost.winner, lost.weak FROM lost
ON CONFLICT DO NOTHING

-- name: absorb_events
-- Hand the events of absorbed calls to their survivors.
UPDATE call_events AS e
SET call_id = g.winner
FROM unnest($3::bigint[], $4::bigint[]) AS g (loser, winner)
WHERE e.part = $1 AND e.enterprise = $2 AND e.call_id = ANY($3::bigint[]) AND e.call_id = g.loser

-- name: absorb_cards
-- Hand the messages of the absorbed call $3 to the cards of $4 in the same chats, which are due then at $5; a card that
-- has no counterpart moves as it is. A card in flight passes its claim on, so that its report, or its being ambiguous,
-- finds the survivor; where that one is in flight too, or shows that stage already, what was sent is a message without an id.
WITH lost AS (
    DELETE FROM telegram_messages AS m
    WHERE m.part = $1 AND m.enterprise = $2 AND m.call_id = $3
    RETURNING m.*
)
INSERT INTO telegram_messages AS w (part, enterprise, call_id, chat_id, bot_id, stage, replaces, version, mode, urgency,
    due_at, gained, claimed_stage, claimed_fence, claimed_at, ambiguous, attempts)
SELECT part, enterprise, $4, chat_id, bot_id, stage, replaces, version + 1, mode, urgency, $5, shown || gained, claimed_stage,
    claimed_fence, claimed_at, ambiguous, attempts
FROM lost
ORDER BY chat_id
ON CONFLICT (part, enterprise, call_id, chat_id) DO UPDATE
SET gained = w.gained || excluded.gained || CASE
        WHEN excluded.claimed_stage IS NOT NULL AND excluded.claimed_at IS NOT NULL
            AND NOT excluded.gained @> jsonb_build_array(jsonb_build_object('stage', excluded.claimed_stage))
            AND (
                w.claimed_fence IS NOT NULL
                OR (w.shown || w.gained) @> jsonb_build_array(jsonb_build_object('stage', excluded.claimed_stage))
            )
        THEN jsonb_build_array(jsonb_build_object(
            'message_id', 0, 'stage', excluded.claimed_stage, 'digest', '', 'sent_at', excluded.claimed_at))
        ELSE '[]'::jsonb
    END,
    version = w.version + 1,
    due_at = least(w.due_at, excluded.due_at),
    claimed_at = CASE WHEN w.claimed_fence IS NULL THEN excluded.claimed_at ELSE w.claimed_at END,
    claimed_stage = CASE WHEN w.claimed_fence IS NULL THEN excluded.claimed_stage ELSE w.claimed_stage END,
    claimed_fence = coalesce(w.claimed_fence, excluded.claimed_fence),
    ambiguous = CASE WHEN w.claimed_fence IS NULL THEN excluded.ambiguous ELSE w.ambiguous END
WHERE w.bot_id = excluded.bot_id AND (excluded.gained <> '[]' OR excluded.claimed_fence IS NOT NULL)
