"""What is checked on request: what is served now, and the rehearsal against a test CA."""
