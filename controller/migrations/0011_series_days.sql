-- The last day on which a series was measured: a number that no day holds any more can be forgotten.
ALTER TABLE series ADD COLUMN day_us BIGINT NOT NULL DEFAULT 0;
UPDATE series SET day_us = (SELECT coalesce(max(day_us), 0) FROM figure_days);
