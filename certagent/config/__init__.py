"""The configuration. `schema` has its sections as types, `load` reads and checks it, `yaml` remembers the lines for
errors, `cache` keeps a large one as it was last read.
"""
