"""Whether mail is affected by what is wrong, as far as certagent knows: the first question of an admin who is woken."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from msgspec import Struct

from certagent.facts.dns import Answer
from certagent.lifecycle.spec import Spec
from certagent.lifecycle.state import State
from certagent.lifecycle.tlsaname import TlsaName, TlsaNames
from certagent.pki import tlsa
from certagent.report.conditions import in_service
from certagent.report.words import day


class Mail(Struct, frozen=True):
    """What senders and clients notice."""

    affected: Literal["no", "perhaps", "yes"]
    why: str


def mail(spec: Spec, state: State, names: TlsaNames, now: datetime) -> Mail:
    """The worst of what is known: what is served, and what DNS says of it, as they were last met."""
    served = in_service(spec, state)
    ends = [(chain.not_after, g.id) for g in served for chain in g.chains.values()]
    if ends and min(ends)[0] <= now:
        return Mail("yes", f"{min(ends)[1]} is served and has expired")
    for name in names.configured:
        if found := _dane(name):
            return found
    for server in spec.mail_servers:
        at = state.mail_servers.get(server.name)
        if at and at.phase in ("verify_failed", "drifted"):
            return Mail("perhaps", f"{server.name} does not serve everywhere what it should")
    if not ends:
        return Mail("no", "nothing of a mail server was changed")
    ids = " and ".join(dict.fromkeys(g.id for g in served))
    return Mail("no", f"{ids} is valid until {day(min(ends)[0])}")


def _dane(name: TlsaName) -> Mail | None:
    """Senders with DANE defer where a set has usable records and none matches (RFC 7672 section 2.2)."""
    seen = name.known.observation
    if seen is None:
        return None
    if seen.security == "bogus":
        return Mail("yes", f"DNSSEC of {name} is broken, and senders that validate cannot resolve it")
    for server, answer in sorted(seen.answers.items()):
        usable = [value for value in answer.values if tlsa.usable(value)] if isinstance(answer, Answer) else []
        if usable and any(all(tlsa.matches(value, chain) is False for value in usable) for chain in name.served):
            return Mail("yes", f"no record that {server} gives for {name} matches what is served")
    return None
