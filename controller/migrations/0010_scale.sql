-- Each change of a link or a check looks for what waits of the same, and for whom it was told.
CREATE INDEX notices_of ON notices (host, check_name, target);
DROP INDEX notices_due;
CREATE INDEX notices_due ON notices (target, due_us);
CREATE INDEX told_of ON told (host, check_name);

-- The status that a target was sent and did not confirm, 0 when it confirmed the last: it may have heard it.
ALTER TABLE told ADD COLUMN attempted BIGINT NOT NULL DEFAULT 0;

-- What is listed of the audit, the newest first.
CREATE INDEX audit_subject ON audit (subject, seq);
CREATE INDEX audit_principal ON audit (principal, seq);

-- Up to which record every intent has its outcome, so that a start looks at none of them again.
CREATE TABLE audit_settled (seq BIGINT NOT NULL PRIMARY KEY);
