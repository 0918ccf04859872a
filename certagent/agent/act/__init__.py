"""Steps become events here: the only place that changes the world.

- `dispatch`: which step is which act
- `issuing`: keys, orders, certificates, revocations
- `records`: TLSA sets and challenges
- `serving`: mail servers
- `outcome`: gates, failures
"""
