-- Where the events of an enterprise may come from (anywhere when there is nothing), what they may be signed with (newest first), and
-- whether they have to be.
ALTER TABLE enterprises ADD COLUMN IF NOT EXISTS allowed_addresses cidr[];
ALTER TABLE enterprises ADD COLUMN IF NOT EXISTS webhook_secrets text[];
ALTER TABLE enterprises ADD COLUMN IF NOT EXISTS require_signature boolean;
