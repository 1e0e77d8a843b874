-- When a host comes back it is asked for the outcomes that were lost; there are few.
CREATE INDEX audit_unknown ON audit (subject) WHERE outcome = 'outcome-unknown';
