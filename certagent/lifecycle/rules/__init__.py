"""The rules of the planner, each file one subject. `planner.py` has their order, and the theory.

`rule.py`        what a rule is, and what it may offer
`deployment.py`  a generation goes into service at a mail server: inspect, deploy, finish, verify
`records.py`     TLSA records: observe, publish, unpublish
`undeclared.py`  records of others at services without `tlsa: true`, before a key changes
`rotation.py`    when new keys are made, and whether there is time to roll
`issuance.py`    from an order to a stored chain; challenges; the CA's renewal window
`disposal.py`    what is not needed any more goes: abort, revoke, delete
"""
