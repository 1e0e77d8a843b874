-- The key that an operator's certificates are for: one that is renewed keeps it.
ALTER TABLE operators ADD COLUMN key_fingerprint TEXT NOT NULL DEFAULT '';
-- Whether the operator may renew its certificate itself.
ALTER TABLE operators ADD COLUMN renewable BIGINT NOT NULL DEFAULT 0;
-- Patterns of the operations that it may ask for; empty is all.
ALTER TABLE operators ADD COLUMN operations TEXT NOT NULL DEFAULT '';
