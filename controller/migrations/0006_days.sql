-- What is over, of one host in one day, encoded and compressed (store/days.rs): changes of hard
-- states, which `turns` holds until their hour is over, and figures, which had a row for each hour.
CREATE TABLE turn_days (
    host TEXT NOT NULL,
    day_us BIGINT NOT NULL,
    data BYTEA NOT NULL,
    PRIMARY KEY (host, day_us)
);

CREATE TABLE figure_days (
    host TEXT NOT NULL,
    day_us BIGINT NOT NULL,
    data BYTEA NOT NULL,
    PRIMARY KEY (host, day_us)
);

CREATE INDEX figure_days_day ON figure_days (day_us);

DROP TABLE figures;
