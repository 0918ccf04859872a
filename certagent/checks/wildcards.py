"""Mail hosts whose addresses are a wildcard's: they would lose them to the first record below their name."""

from __future__ import annotations

from collections.abc import Iterator

from certagent.agent.act import hiding
from certagent.agent.edges import Edges
from certagent.errors import Error
from certagent.lifecycle.spec import Spec
from certagent.report.findings import Finding


def findings(spec: Spec, edges: Edges) -> Iterator[Finding]:
    """What the real run would refuse. A zone that cannot be asked is reported with its records."""
    named, hosts = set[str](), hiding.mail_hosts(spec)
    challenges = [name for name in spec.challenge_names if name.partition(".")[2].rstrip(".") in hosts]
    for name in (*spec.tlsa_names, *challenges):
        try:
            zone, final = edges.resolver().final(name)
            found = edges.resolver().hidden(zone, final)
        except Error:
            continue
        for one in found:
            if one.host not in named:
                named.add(one.host)
                yield Finding("error", f"DNS {one.host}", *hiding.in_words(one, final))
