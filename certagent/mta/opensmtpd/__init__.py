"""OpenSMTPD."""
