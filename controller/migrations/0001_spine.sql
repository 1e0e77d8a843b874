-- One text for SQLite and PostgreSQL: BIGINT and TEXT, nothing that may be NULL. Times are
-- microseconds since 1970; 0 is never. Maps are JSON objects with sorted keys.
CREATE TABLE hosts (
    name TEXT NOT NULL PRIMARY KEY,
    labels TEXT NOT NULL,
    agent_labels TEXT NOT NULL,
    facts TEXT NOT NULL,
    operations TEXT NOT NULL,
    agent_version TEXT NOT NULL,
    machine_id TEXT NOT NULL,
    key_fingerprint TEXT NOT NULL,
    certificate_until_us BIGINT NOT NULL,
    enrolled_us BIGINT NOT NULL,
    connection TEXT NOT NULL,
    since_us BIGINT NOT NULL,
    reason TEXT NOT NULL,
    address TEXT NOT NULL,
    last_seen_us BIGINT NOT NULL,
    revoked_us BIGINT NOT NULL
);

CREATE TABLE tokens (
    id TEXT NOT NULL PRIMARY KEY,
    secret_hash TEXT NOT NULL,
    host TEXT NOT NULL,
    labels TEXT NOT NULL,
    created_us BIGINT NOT NULL,
    expires_us BIGINT NOT NULL,
    uses_left BIGINT NOT NULL,
    created_by TEXT NOT NULL,
    replaces BIGINT NOT NULL
);

CREATE TABLE operators (
    name TEXT NOT NULL PRIMARY KEY,
    role TEXT NOT NULL,
    scope TEXT NOT NULL,
    serial TEXT NOT NULL,
    created_us BIGINT NOT NULL,
    certificate_until_us BIGINT NOT NULL,
    revoked_us BIGINT NOT NULL
);

CREATE TABLE audit (
    seq BIGINT NOT NULL PRIMARY KEY,
    time_us BIGINT NOT NULL,
    kind TEXT NOT NULL,
    principal TEXT NOT NULL,
    role TEXT NOT NULL,
    invocation TEXT NOT NULL,
    operation TEXT NOT NULL,
    subject TEXT NOT NULL,
    outcome TEXT NOT NULL,
    detail TEXT NOT NULL,
    hash TEXT NOT NULL
);

CREATE INDEX audit_invocation ON audit (invocation, subject);
CREATE INDEX audit_time ON audit (time_us);
