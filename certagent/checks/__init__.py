"""What is looked at on request: what is served now, and the rehearsal against a test CA."""
