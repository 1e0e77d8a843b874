-- How the link of a host was lost ('closed', 'silent', 'broken', 'cut', 'restart'), and what its agent told of
-- itself when it was linked last: when it comes back, both together tell where it was.
ALTER TABLE hosts ADD COLUMN lost TEXT NOT NULL DEFAULT '';
ALTER TABLE hosts ADD COLUMN boot_id TEXT NOT NULL DEFAULT '';
ALTER TABLE hosts ADD COLUMN instance TEXT NOT NULL DEFAULT '';
