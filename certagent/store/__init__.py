"""The disk: atomic files, the vault of keys, the journal, the lock."""
