"""Names that a first swap would take away: served today, and not in the certificate that takes the place.

Clients that connect by such a name would meet a wrong certificate. It concerns only what was served before certagent
came: a name that is taken out of a certificate of certagent's own was taken out by the operator.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from certagent.facts.tls import Chain
from certagent.lifecycle.spec import Spec
from certagent.lifecycle.state import State
from certagent.pki.names import covers


def dropped(spec: Spec, served: Iterable[Chain], names: Iterable[str], now: datetime) -> tuple[str, ...]:
    """Names of what is served that are in none of `names` and that the operator does not give up (`drop_names`).

    A certificate that is expired or signed by its own key is good for no client, and a name of one label is none that
    a public CA certifies.
    """
    good = (chain for chain in served if not chain.self_signed and chain.not_before <= now <= chain.not_after)
    found = {name for chain in good for name in chain.names if "." in name}
    kept = (*names, *spec.drop_names)
    return tuple(sorted(name for name in found if not any(covers(one, name) for one in kept)))


def at_first_swap(spec: Spec, state: State, server: str, names: Iterable[str], now: datetime) -> tuple[str, ...]:
    """The same of what a mail server was last seen to serve, as long as that is nothing of certagent's."""
    at = state.mail_servers.get(server)
    if at is None or at.phase != "inspected":
        return ()
    found = [g for id_ in at.inspected if (g := state.generation(id_)) and g.unmanaged]
    return dropped(spec, (chain for g in found for chain in g.chains.values()), names, now)


def in_words(spec: Spec, names: tuple[str, ...]) -> tuple[str, str]:
    """What is wrong, and the line of the configuration that puts it right."""
    detail = f"the certificate that is served today is also for {', '.join(names)}; the new one would not be"
    both, given_up = _yaml({*spec.names, *names}), _yaml({*spec.drop_names, *names})
    return detail, f"under certificates.{spec.name}: `names: {both}` to keep them, or `drop_names: {given_up}`"


def _yaml(names: Iterable[str]) -> str:
    # a star at the beginning would be an alias
    quoted = (f'"{name}"' if name.startswith("*") else name for name in sorted(names))
    return f"[{', '.join(quoted)}]"
