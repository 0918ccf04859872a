"""Steps become events here: the only place that changes the world.

- `dispatch`: which step is which act
- `issuing`: keys, orders, certificates, revocations
- `challenges`: presented, seen, answered, cleaned up
- `records`: TLSA sets, TXT values
- `serving`: mail servers
- `outcome`: gates, failures
"""
