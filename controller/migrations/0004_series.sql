-- What figures are of; rows of `figures` name them by their numbers.
CREATE TABLE series (
    number BIGINT NOT NULL PRIMARY KEY,
    check_name TEXT NOT NULL,
    name TEXT NOT NULL,
    subject TEXT NOT NULL,
    unit TEXT NOT NULL
);

CREATE INDEX figures_hour ON figures (hour_us);
