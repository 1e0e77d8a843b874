-- A notice that a check flaps; and when one was first tried in vain, 0 when it was not.
ALTER TABLE notices ADD COLUMN flapping BIGINT NOT NULL DEFAULT 0;
ALTER TABLE notices ADD COLUMN failed_us BIGINT NOT NULL DEFAULT 0;

-- Besides: whether that it flaps, since when it is so, and in which words. Alertmanager is told again and
-- again of what goes on.
ALTER TABLE told ADD COLUMN flapping BIGINT NOT NULL DEFAULT 0;
ALTER TABLE told ADD COLUMN since_us BIGINT NOT NULL DEFAULT 0;
ALTER TABLE told ADD COLUMN summary TEXT NOT NULL DEFAULT '';
UPDATE told SET since_us = at_us;

-- How bad the problem was of which somebody knows: 1 warning, 2 unknown, 3 critical. One goes with its
-- problem from now on; of those that are here nobody can tell any more whether theirs is over.
DELETE FROM acknowledgements;
ALTER TABLE acknowledgements ADD COLUMN severity BIGINT NOT NULL DEFAULT 3;
