"""The disk: the vault of keys, the journal, the lock."""
