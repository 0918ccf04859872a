"""Who writes DNS: the protocol, and one file per provider."""
