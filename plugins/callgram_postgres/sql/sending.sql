-- name: hold_leases
-- Take or renew leases for the node $1 over $4 seconds; $3 are the fences that this process holds, 0 for none.
WITH given AS (
    SELECT * FROM unnest($2::bigint[], $3::bigint[]) AS g (bot_id, held)
),
mine AS (
    SELECT l.bot_id, l.owner = $1 AND l.fence = g.held AS kept
    FROM given AS g
    JOIN bot_lease AS l ON l.bot_id = g.bot_id
    WHERE l.owner = $1 OR l.until < clock_timestamp()
    ORDER BY l.bot_id
    FOR UPDATE OF l SKIP LOCKED
),
taken AS (
    UPDATE bot_lease AS l
    SET owner = $1, fence = CASE WHEN m.kept THEN l.fence ELSE l.fence + 1 END,
        until = clock_timestamp() + make_interval(secs => $4)
    FROM mine AS m
    WHERE l.bot_id = m.bot_id
    RETURNING l.bot_id, l.fence
),
made AS (
    INSERT INTO bot_lease (bot_id, owner, fence, until)
    SELECT g.bot_id, $1, 1, clock_timestamp() + make_interval(secs => $4)
    FROM given AS g
    WHERE NOT EXISTS (SELECT FROM bot_lease AS l WHERE l.bot_id = g.bot_id)
    ORDER BY g.bot_id
    ON CONFLICT DO NOTHING
    RETURNING bot_id, fence
)
SELECT bot_id, fence FROM taken
UNION ALL
SELECT bot_id, fence FROM made

-- name: release_leases
-- Let the leases of the node $1 run out now. Fences stay, the next owner's are higher.
UPDATE bot_lease SET until = '-infinity' WHERE owner = $1

-- name: leased
-- Those of the bots $1 whose lease somebody holds.
SELECT bot_id FROM bot_lease WHERE bot_id = ANY($1::bigint[]) AND until > clock_timestamp()

-- name: report
-- Add to the trace what Telegram was asked, and what was decided against ($12 and on; op is skip): it happened, whoever has
-- the card now. Record what became of cards that are still in hand with that fence; answers which. A version that changed
-- meanwhile keeps its due_at, and the messages that came with it: those that are not among the ids told.
WITH told AS (
    SELECT *
    FROM unnest($12::smallint[], $13::text[], $14::timestamptz[], $15::bigint[], $16::text[], $17::bigint[], $18::bigint[],
        $19::text[], $20::text[], $21::bigint[], $22::text[], $23::text[], $24::text[], $25::float8[],
        $26::text[], $27::float8[])
        AS g (part, enterprise, at, call_id, unique_id, chat_id, bot_id, stage, op, message_id, text, outcome, reason, took_s,
            plugin, retry_after_s)
),
put_actions AS (
    INSERT INTO telegram_actions (part, enterprise, at, call_id, unique_id, chat_id, bot_id, stage, op, message_id, text,
        outcome, reason, took_s, plugin, retry_after_s)
    SELECT * FROM told WHERE op <> 'skip'
),
put_skips AS (
    INSERT INTO decisions (part, enterprise, at, call_id, unique_id, chat_id, bot_id, stage, op, message_id, text,
        outcome, reason, took_s, plugin, retry_after_s)
    SELECT * FROM told WHERE op = 'skip'
),
given AS (
    SELECT *
    FROM unnest($1::smallint[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::jsonb[],
        $8::boolean[], $9::timestamptz[], $10::integer[], $11::jsonb[])
        AS g (part, enterprise, call_id, chat_id, fence, version, shown, released, retry_at, attempts, told)
),
held AS (
    SELECT g.*
    FROM given AS g
    JOIN telegram_messages AS m
        ON m.part = g.part AND m.enterprise = g.enterprise AND m.call_id = g.call_id AND m.chat_id = g.chat_id
    WHERE m.claimed_fence = g.fence
    ORDER BY m.part, m.enterprise, m.call_id, m.chat_id
    FOR UPDATE OF m
)
UPDATE telegram_messages AS m
SET shown = CASE WHEN m.version = g.version THEN g.shown ELSE (
        SELECT coalesce(jsonb_agg(s.one), '[]') || g.shown
        FROM jsonb_array_elements(m.shown) AS s (one)
        WHERE NOT g.told @> (s.one -> 'message_id')
    ) END,
    attempts = g.attempts,
    claimed_stage = CASE WHEN g.released THEN NULL ELSE m.claimed_stage END,
    claimed_fence = CASE WHEN g.released THEN NULL ELSE m.claimed_fence END,
    ambiguous = m.ambiguous AND NOT g.released,
    due_at = CASE WHEN g.released AND m.version = g.version THEN g.retry_at ELSE m.due_at END
FROM held AS g
WHERE m.part = g.part AND m.enterprise = g.enterprise AND m.call_id = g.call_id AND m.chat_id = g.chat_id
RETURNING m.enterprise, m.call_id, m.chat_id

-- name: survivor_card
-- Lock the card of the call that absorbed $3, in the chat $4.
SELECT m.call_id, m.claimed_fence, m.shown || m.gained AS shown
FROM calls AS c
JOIN telegram_messages AS m ON m.part = c.part AND m.enterprise = c.enterprise AND m.call_id = c.absorbed_into
WHERE c.part = $1 AND c.enterprise = $2 AND c.id = $3 AND m.chat_id = $4 AND m.bot_id = $5
FOR UPDATE OF m

-- name: report_to_survivor
-- Record on a survivor's card what became of an absorbed one: $5 its messages, $6 whether the claim ends, due at $7.
UPDATE telegram_messages AS m
SET shown = $5, gained = '[]', version = m.version + 1, due_at = least(m.due_at, $7),
    claimed_stage = CASE WHEN $6 THEN NULL ELSE m.claimed_stage END,
    claimed_fence = CASE WHEN $6 THEN NULL ELSE m.claimed_fence END,
    ambiguous = m.ambiguous AND NOT $6
WHERE m.part = $1 AND m.enterprise = $2 AND m.call_id = $3 AND m.chat_id = $4

-- name: late_card
-- Lock a card that is not in hand with the fence $6.
SELECT m.call_id, m.shown || m.gained AS shown
FROM telegram_messages AS m
WHERE m.part = $1 AND m.enterprise = $2 AND m.call_id = $3 AND m.chat_id = $4 AND m.bot_id = $5
    AND m.claimed_fence IS DISTINCT FROM $6
FOR UPDATE OF m

-- name: gain
-- Add messages to a card, that the next claim sees to.
UPDATE telegram_messages AS m
SET gained = m.gained || $5, version = m.version + 1, due_at = least(m.due_at, $6)
WHERE m.part = $1 AND m.enterprise = $2 AND m.call_id = $3 AND m.chat_id = $4

-- name: claim_cards
-- Take the $7 most urgent due cards of each chat that takes messages and is not in $3, $4 (bots, chats), at most $6, for the
-- leases $1, $2 (bots, fences) that are still held, and at most $8 of each of those bots. Steps from chat to chat through the index, so that the backlog of one
-- chat makes it slow for nobody. A card that has a claim of this fence already is one whose answer was lost on the way;
-- one with the claim of another fence is ambiguous and keeps the stage that the other had in hand. Where that one had taken
-- it over itself, its own send may have been lost, too: a message without an id. So may it where the card shows that stage
-- only by a message that it gained from an absorbed call. What was gained counts as older.
-- Changes nothing, and so costs no flush, where nothing is due. The facts are as old as the statement, the card is as new as
-- its lock: where the planner came between, facts_of reads them again.
WITH RECURSIVE bots AS (
    SELECT g.bot_id, g.fence, g.free
    FROM unnest($1::bigint[], $2::bigint[], $8::integer[]) AS g (bot_id, fence, free)
    JOIN bot_lease AS l ON l.bot_id = g.bot_id AND l.fence = g.fence AND l.until > clock_timestamp()
    WHERE NOT EXISTS (
        SELECT FROM chat_limit AS c WHERE c.bot_id = g.bot_id AND c.chat_id = 0 AND (c.until IS NULL OR c.until > $5)
    )
),
chats AS (
    SELECT b.bot_id, b.fence, b.free, f.chat_id
    FROM bots AS b
    CROSS JOIN LATERAL (
        SELECT m.chat_id
        FROM telegram_messages AS m
        WHERE m.bot_id = b.bot_id AND m.due_at IS NOT NULL
        ORDER BY m.chat_id
        LIMIT 1
    ) AS f
    UNION ALL
    SELECT c.bot_id, c.fence, c.free, n.chat_id
    FROM chats AS c
    CROSS JOIN LATERAL (
        SELECT m.chat_id
        FROM telegram_messages AS m
        WHERE m.bot_id = c.bot_id AND m.due_at IS NOT NULL AND m.chat_id > c.chat_id
        ORDER BY m.chat_id
        LIMIT 1
    ) AS n
),
waiting AS (
    SELECT c.fence, c.free, b.*, row_number() OVER (PARTITION BY c.bot_id ORDER BY b.urgency, b.due_at) AS place
    FROM chats AS c
    CROSS JOIN LATERAL (
        SELECT m.part, m.enterprise, m.call_id, m.chat_id, m.urgency, m.due_at
        FROM telegram_messages AS m
        WHERE m.bot_id = c.bot_id AND m.chat_id = c.chat_id AND m.due_at <= $5
        ORDER BY m.urgency, m.due_at
        LIMIT $7
    ) AS b
    WHERE NOT EXISTS (
        SELECT FROM unnest($3::bigint[], $4::bigint[]) AS y (bot_id, chat_id)
        WHERE y.bot_id = c.bot_id AND y.chat_id = c.chat_id
    )
    AND NOT EXISTS (
        SELECT FROM chat_limit AS t
        WHERE t.bot_id = c.bot_id AND t.chat_id = c.chat_id AND (t.until IS NULL OR t.until > $5)
    )
),
best AS (
    SELECT * FROM waiting WHERE place <= free ORDER BY urgency, due_at LIMIT $6
),
taken AS (
    SELECT m.part, m.enterprise, m.call_id, m.chat_id, b.fence
    FROM best AS b
    JOIN telegram_messages AS m ON m.part = b.part AND m.enterprise = b.enterprise AND m.call_id = b.call_id
    WHERE m.chat_id + 0 = b.chat_id AND m.due_at + interval '0' <= $5  -- no way by the index of what is due: by key, with the lock
    FOR UPDATE OF m SKIP LOCKED
)
UPDATE telegram_messages AS m
SET claimed_stage =
        CASE WHEN m.claimed_fence IS NOT NULL AND (m.ambiguous OR m.claimed_fence <> t.fence) THEN m.claimed_stage ELSE m.stage END,
    claimed_at = CASE WHEN m.claimed_fence IS NOT NULL AND (m.ambiguous OR m.claimed_fence <> t.fence) THEN m.claimed_at ELSE $5 END,
    claimed_fence = t.fence,
    ambiguous = m.claimed_fence IS NOT NULL AND (m.ambiguous OR m.claimed_fence <> t.fence),
    shown = m.gained || CASE WHEN m.ambiguous AND m.claimed_fence <> t.fence
        THEN jsonb_build_array(jsonb_build_object('message_id', 0, 'stage', m.claimed_stage, 'digest', '', 'sent_at', $5))
        ELSE '[]'
    END || CASE WHEN m.claimed_fence <> t.fence AND jsonb_path_exists(
                m.gained, '$[*] ? (@.stage == $stage && @.message_id != 0)', jsonb_build_object('stage', m.claimed_stage))
            AND NOT jsonb_path_exists(
                m.shown, '$[*] ? (@.stage == $stage && @.message_id != 0)', jsonb_build_object('stage', m.claimed_stage))
        THEN jsonb_build_array(jsonb_build_object(
            'message_id', 0, 'stage', m.claimed_stage, 'digest', '', 'sent_at', m.claimed_at))
        ELSE '[]'
    END || m.shown,
    gained = '[]'
FROM taken AS t
WHERE m.part = t.part AND m.enterprise = t.enterprise AND m.call_id = t.call_id AND m.chat_id = t.chat_id
RETURNING m.part, m.enterprise, m.call_id, m.chat_id, m.bot_id, m.stage, m.replaces, m.version, m.mode, m.urgency, m.due_at,
    m.shown, m.claimed_stage, m.claimed_fence, m.claimed_at, m.attempts, m.ambiguous,
    (SELECT c.facts FROM calls AS c WHERE c.part = m.part AND c.enterprise = m.enterprise AND c.id = m.call_id) AS facts

-- name: facts_of
-- The facts of a call. Read behind the claim, they are at least as new as the claimed version.
SELECT c.facts FROM calls AS c WHERE c.part = $1 AND c.enterprise = $2 AND c.id = $3

-- name: next_due
-- The next moment at which a card of the bots $1 becomes due, or a limit of theirs ends.
SELECT least(
    (
        SELECT min(f.due_at)
        FROM unnest($1::bigint[]) AS b (bot_id)
        CROSS JOIN LATERAL (
            SELECT m.due_at
            FROM telegram_messages AS m
            WHERE m.bot_id = b.bot_id AND m.due_at > clock_timestamp()
            ORDER BY m.due_at
            LIMIT 1
        ) AS f
    ),
    (SELECT min(c.until) FROM chat_limit AS c WHERE c.bot_id = ANY($1::bigint[]) AND c.until > clock_timestamp())
)

-- name: sent_ids
-- What the bot $1 sent from $4 to $5 in the chats that count their message ids together with the chat $2: itself, or with
-- $3 every chat that is no supergroup.
SELECT a.message_id, a.at
FROM telegram_actions AS a
WHERE a.bot_id = $1 AND a.op = 'send' AND a.at BETWEEN $4 AND $5 AND a.outcome = 'ok' AND a.message_id > 0
    AND (a.chat_id = $2 OR ($3 AND a.chat_id > -1000000000000))
ORDER BY a.message_id

-- name: move_subscriber
-- Pass the subscription of the chat $2 at the bot $1 to the chat $3.
WITH gone AS (
    DELETE FROM telegram_users AS u
    WHERE split_part(u.bot_token, ':', 1) = $1::bigint::text AND u.tg_id = $2
    RETURNING u.bot_token, u.name
)
INSERT INTO telegram_users (bot_token, tg_id, name)
SELECT DISTINCT ON (gone.bot_token) gone.bot_token, $3::bigint, gone.name
FROM gone
WHERE NOT EXISTS (SELECT FROM telegram_users AS u WHERE u.bot_token = gone.bot_token AND u.tg_id = $3)

-- name: move_cards
-- Pass the cards of the chat $2 at the bot $1 to the chat $3, where nothing is visible yet and nothing in hand.
WITH gone AS (
    DELETE FROM telegram_messages AS m
    WHERE m.bot_id = $1 AND m.chat_id = $2
    RETURNING m.*
)
INSERT INTO telegram_messages (part, enterprise, call_id, chat_id, bot_id, stage, replaces, version, mode, urgency, due_at)
SELECT part, enterprise, call_id, $3, bot_id, stage, replaces, version + 1, mode, urgency, due_at FROM gone
ON CONFLICT DO NOTHING

-- name: limit_chat
-- Have a chat, or with chat 0 a bot, take nothing for a while. One that is suspended (no end) stays so until it is resumed;
-- what waits for a chat that is suspended now is decided against. Answers whether it was not suspended before.
WITH before AS (
    SELECT NOT EXISTS (SELECT FROM chat_limit AS l WHERE l.bot_id = $1 AND l.chat_id = $2 AND l.until IS NULL) AS free
),
limited AS (
    INSERT INTO chat_limit (bot_id, chat_id, until, reason) VALUES ($1, $2, $3, $4)
    ON CONFLICT (bot_id, chat_id) DO UPDATE SET until = excluded.until, reason = excluded.reason
    WHERE chat_limit.until IS NOT NULL OR excluded.until IS NULL
),
put_skips AS (
    INSERT INTO decisions (part, enterprise, at, call_id, unique_id, chat_id, bot_id, stage, op, message_id, text, outcome,
        reason, took_s)
    SELECT m.part, m.enterprise, now(), m.call_id,
        (SELECT c.unique_id FROM calls AS c WHERE c.part = m.part AND c.enterprise = m.enterprise AND c.id = m.call_id),
        m.chat_id, m.bot_id, m.stage, 'skip', 0, '', 'skipped', 'blocked: ' || $4, 0
    FROM telegram_messages AS m
    WHERE $3::timestamptz IS NULL AND (SELECT b.free FROM before AS b) AND m.bot_id = $1 AND ($2 = 0 OR m.chat_id = $2)
        AND m.due_at IS NOT NULL AND m.claimed_fence IS NULL
)
SELECT b.free FROM before AS b

-- name: lift_limit
-- End a limit, or clear away one that ran out; answers whether it was in force.
DELETE FROM chat_limit WHERE bot_id = $1 AND chat_id = $2 RETURNING until IS NULL OR until > clock_timestamp()

-- name: limits
-- The limits in force.
SELECT bot_id, chat_id, until, reason
FROM chat_limit
WHERE until IS NULL OR until > clock_timestamp()
ORDER BY bot_id, chat_id
