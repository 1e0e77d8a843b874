-- How the checks of a host stood when something changed last: an encoded report, in base64.
CREATE TABLE health (
    host TEXT NOT NULL PRIMARY KEY,
    memory TEXT NOT NULL,
    last_turn BIGINT NOT NULL,
    heard_us BIGINT NOT NULL,
    -- The agent said that it was being stopped.
    leaving BIGINT NOT NULL,
    states TEXT NOT NULL
);

-- Changes of hard states, for ever. Statuses are 1 OK, 2 WARNING, 3 CRITICAL, 4 UNKNOWN.
CREATE TABLE turns (
    host TEXT NOT NULL,
    at_us BIGINT NOT NULL,
    check_name TEXT NOT NULL,
    was BIGINT NOT NULL,
    became BIGINT NOT NULL,
    flapping BIGINT NOT NULL,
    summary TEXT NOT NULL
);

CREATE INDEX turns_host ON turns (host, at_us);

-- Figures of a host in one hour, encoded.
CREATE TABLE figures (
    host TEXT NOT NULL,
    hour_us BIGINT NOT NULL,
    data TEXT NOT NULL,
    PRIMARY KEY (host, hour_us)
);

CREATE TABLE downtimes (
    id TEXT NOT NULL PRIMARY KEY,
    hosts TEXT NOT NULL,
    checks TEXT NOT NULL,
    begins_us BIGINT NOT NULL,
    ends_us BIGINT NOT NULL,
    -- Of a flexible one: how long it lasts from the problem's beginning; 0 for a fixed one.
    lasts_us BIGINT NOT NULL,
    made_by TEXT NOT NULL,
    comment TEXT NOT NULL
);

-- The link of a host is acknowledged under the empty name.
CREATE TABLE acknowledgements (
    host TEXT NOT NULL,
    check_name TEXT NOT NULL,
    at_us BIGINT NOT NULL,
    -- 0: until it recovers.
    expires_us BIGINT NOT NULL,
    made_by TEXT NOT NULL,
    comment TEXT NOT NULL,
    PRIMARY KEY (host, check_name)
);
