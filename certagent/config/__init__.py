"""The configuration: schema, reading, and a large one as it was last read."""
