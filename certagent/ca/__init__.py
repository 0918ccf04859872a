"""Certificate authorities: the protocol, and ACME (RFC 8555)."""
