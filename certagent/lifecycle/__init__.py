"""Pure: facts to the next step. Begin with `planner.py`; `caches.py` is the promise."""
