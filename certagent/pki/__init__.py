"""Pure: bytes to facts. Names, keys, chains, TLSA values; no I/O, no clock."""
