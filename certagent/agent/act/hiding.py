"""What a wildcard gives to a host, a record below that host takes away: its address, and with it its mail."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from contextlib import contextmanager

from certagent.agent.edges import Edges
from certagent.errors import NoProvider, Unsafe
from certagent.facts.dns import Hidden
from certagent.lifecycle.spec import Spec


def refuse(zone: str, name: str, edges: Edges, only: frozenset[str] | None = None) -> None:
    """Before a record is added.

    `only`: the hosts that matter. A challenge takes the address of others away for minutes, as with every ACME client.

    Raises:
        Unsafe: `dns.wildcard_address`: It would take away an address.
    """
    for one in edges.resolver().hidden(zone, name):
        if only is None or one.host.rstrip(".") in only:
            raise Unsafe("dns.wildcard_address", *in_words(one, name))


def mail_hosts(spec: Spec) -> frozenset[str]:
    """The hosts of all services."""
    return frozenset(service.host for server in spec.mail_servers for service in server.services)


def in_words(one: Hidden, name: str) -> tuple[str, str]:
    """What is wrong, and the remedy."""
    detail = f"{one.host} has its address from the wildcard {one.wildcard} alone: a record at {name} would take it away"
    return detail, f"first give it its own records: {one.host} {', '.join(one.records)}"


@contextmanager
def explained(names: Iterable[str], edges: Edges) -> Generator[None]:
    """Nobody can write where one of these names leads: it may have the CNAME of a wildcard, meant for other names."""
    try:
        yield
    except NoProvider as error:
        for name in names:
            if wildcard := edges.resolver().wildcard_alias(name):
                host = ".".join(label for label in name.split(".") if not label.startswith("_"))
                detail = f"{error.detail}; {name} leads there by the wildcard {wildcard} alone"
                hint = f"give {host} its own address records: the wildcard then answers for no name below it"
                raise NoProvider(error.code, detail, hint) from None
        raise
