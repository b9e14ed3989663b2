-- name: directory_mark
-- A fingerprint of both tables that any change of a row changes, made by whomever.
SELECT md5(
    (SELECT count(*) || ' ' || coalesce(sum(hashtextextended(e::text, 0)), 0) FROM enterprises AS e)
    || ' '
    || (SELECT count(*) || ' ' || coalesce(sum(hashtextextended(u::text, 0)), 0) FROM telegram_users AS u)
)

-- name: all_enterprises
-- Every enterprise.
SELECT e.number::text AS number, coalesce(e.name, '') AS name, coalesce(e.name2, '') AS token,
    coalesce(e.bot_token, '') AS bot_token, array_remove(coalesce(e.allowed_addresses, '{}'), NULL) AS addresses,
    coalesce(e.webhook_secrets, '{}') AS secrets, coalesce(e.require_signature, false) AS require_signature
FROM enterprises AS e
WHERE e.number IS NOT NULL
ORDER BY e.number::text

-- name: one_enterprise
-- An enterprise; columns as in all_enterprises.
SELECT e.number::text AS number, coalesce(e.name, '') AS name, coalesce(e.name2, '') AS token,
    coalesce(e.bot_token, '') AS bot_token, array_remove(coalesce(e.allowed_addresses, '{}'), NULL) AS addresses,
    coalesce(e.webhook_secrets, '{}') AS secrets, coalesce(e.require_signature, false) AS require_signature
FROM enterprises AS e
WHERE e.number = $1

-- name: all_subscribers
-- Every subscriber of every bot.
SELECT u.bot_token, u.tg_id::bigint AS tg_id, coalesce(u.name, '') AS name, u.muted_until
FROM telegram_users AS u
WHERE u.bot_token IS NOT NULL AND u.tg_id IS NOT NULL
ORDER BY u.bot_token, u.tg_id::bigint

-- name: lock_directory
-- Changes of the directory come one after another; the adopted tables need not have the keys that would sort them out.
LOCK TABLE enterprises, telegram_users IN SHARE ROW EXCLUSIVE MODE

-- name: token_owner
-- The other enterprise that has the token.
SELECT e.number::text FROM enterprises AS e WHERE e.name2 = $2 AND e.number::text <> $1 LIMIT 1

-- name: change_enterprise
-- Change an enterprise; answers whether there is one.
UPDATE enterprises
SET name = $2, name2 = $3, bot_token = $4, allowed_addresses = $5, webhook_secrets = $6, require_signature = $7
WHERE number = $1
RETURNING true

-- name: renew_bot_token
-- A bot has one token: the new one $2 takes the place of $1 in its enterprises and for its subscribers.
WITH enterprises_of_bot AS (
    UPDATE enterprises SET bot_token = $2 WHERE bot_token = $1
)
UPDATE telegram_users AS u SET bot_token = $2
WHERE u.bot_token = $1
    AND NOT EXISTS (SELECT FROM telegram_users AS n WHERE n.bot_token = $2 AND n.tg_id = u.tg_id)

-- name: add_enterprise
-- Add an enterprise.
INSERT INTO enterprises (number, name, name2, bot_token, allowed_addresses, webhook_secrets, require_signature)
VALUES ($1, $2, $3, $4, $5, $6, $7)

-- name: bot_of
-- The bot of an enterprise.
SELECT coalesce(e.bot_token, '') AS bot_token FROM enterprises AS e WHERE e.number = $1

-- name: change_subscriber
-- Rename a subscriber; answers whether there is one.
UPDATE telegram_users SET name = coalesce(nullif($3, ''), name) WHERE bot_token = $1 AND tg_id = $2 RETURNING true

-- name: add_subscriber
-- Add a subscriber.
INSERT INTO telegram_users (bot_token, tg_id, name) VALUES ($1, $2, $3)

-- name: mute
-- Start nothing in the chat $2 before $3; answers whether it is subscribed.
UPDATE telegram_users SET muted_until = $3 WHERE bot_token = $1 AND tg_id = $2 RETURNING true

-- name: remove_subscriber
-- Remove a subscriber; answers whether there was one.
DELETE FROM telegram_users WHERE bot_token = $1 AND tg_id = $2 RETURNING true
