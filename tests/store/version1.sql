-- A journal of version 1, as it was before subjects: certificates only, no host, no boot, no lease.
CREATE TABLE event (
  certificate TEXT NOT NULL, seq INTEGER NOT NULL, at TEXT NOT NULL, elapsed_s REAL NOT NULL, body BLOB NOT NULL,
  digest BLOB NOT NULL, PRIMARY KEY (certificate, seq)
) WITHOUT ROWID;
CREATE TABLE head (
  certificate TEXT PRIMARY KEY, seq INTEGER NOT NULL, state BLOB NOT NULL, digest BLOB NOT NULL,
  wake_at REAL, wake_s REAL, why TEXT NOT NULL DEFAULT ''
) WITHOUT ROWID;
CREATE INDEX head_wake_at ON head (wake_at);
CREATE INDEX head_wake_s ON head (wake_s);
CREATE TABLE lived (one INTEGER PRIMARY KEY CHECK (one = 1), boot_id TEXT NOT NULL, boot_s REAL NOT NULL,
  elapsed_s REAL NOT NULL, digest BLOB NOT NULL);
PRAGMA user_version=1;
