-- Notices that wait to be delivered. One goes when it was, or when it is too old to matter.
CREATE TABLE notices (
    id TEXT NOT NULL PRIMARY KEY,
    target TEXT NOT NULL,
    host TEXT NOT NULL,
    -- Empty for the host itself.
    check_name TEXT NOT NULL,
    was BIGINT NOT NULL,
    became BIGINT NOT NULL,
    at_us BIGINT NOT NULL,
    due_us BIGINT NOT NULL,
    attempts BIGINT NOT NULL,
    summary TEXT NOT NULL
);

CREATE INDEX notices_due ON notices (due_us);

-- What each target was told last of a problem: a recovery is told to those who heard of the problem.
CREATE TABLE told (
    target TEXT NOT NULL,
    host TEXT NOT NULL,
    check_name TEXT NOT NULL,
    status BIGINT NOT NULL,
    at_us BIGINT NOT NULL,
    PRIMARY KEY (target, host, check_name)
);
