-- When a flexible downtime began on a host: with the first problem there. It lasts from then, once.
CREATE TABLE downtime_begins (
    downtime TEXT NOT NULL,
    host TEXT NOT NULL,
    begun_us BIGINT NOT NULL,
    PRIMARY KEY (downtime, host)
);
