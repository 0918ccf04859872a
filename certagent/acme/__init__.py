"""Certificate authorities: ACME (RFC 8555), accounts, renewal information."""
