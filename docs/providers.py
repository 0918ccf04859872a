"""The generated page of the DNS providers: what each can do, what its token needs, an example."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator

import msgspec
from tables import WIDTH, linked

from certagent.agent.plugins import DNS_PROVIDERS, built_in
from certagent.dns.providers.about import About
from certagent.dns.providers.protocol import Capabilities

HEADS = {
    "atomic": "atomic",
    "precondition": "checks before it writes",
    "ttl_floor_s": "least TTL",
    "ttl_scope": "TTL of",
    "publish_lag_s": "publishes within",
    "propagation_status": "says when",
    "writes_per_day": "writes a day",
}


def known() -> Iterator[tuple[str, About, Capabilities | None]]:
    """Type, words, capabilities (None if they depend on the configuration)."""
    for name, plugin in built_in(DNS_PROVIDERS):
        yield name, plugin.about, plugin.capabilities if isinstance(plugin.capabilities, Capabilities) else None


def page() -> str:
    """A table of all, and a section for each."""
    lines = [f"| type | service | {' | '.join(HEADS.values())} |", "|---" * (2 + len(HEADS)) + "|"]
    for name, about, capabilities in known():
        values = msgspec.structs.asdict(capabilities) if capabilities else {}
        cells = " | ".join(_cell(key, values[key]) if values else "it says" for key in HEADS)
        lines.append(f"| `{name}` | {about.title} | {cells} |")
    for name, about, _ in known():
        lines += ["", f"## `{name}`: {about.title}", ""]
        for word, text in (("Rights", about.rights), ("Access", about.access), ("Limits", about.limits)):
            lines += [
                *textwrap.wrap(linked(f"**{word}.** {text}"), WIDTH, break_on_hyphens=False, break_long_words=False),
                "",
            ]
        if about.name_servers:
            ends = ", ".join(f"`{end}`" for end in about.name_servers)
            lines += [
                *textwrap.wrap(f"The names of its name servers end with {ends}.", WIDTH, break_on_hyphens=False),
                "",
            ]
        lines += ["```yaml", "dns:", "  providers:", "    mine:", *textwrap.indent(about.example, " " * 6).splitlines()]
        lines += ["```"]
    return "\n".join(lines) + "\n"


def _cell(key: str, value: object) -> str:
    match key, value:
        case (("atomic" | "propagation_status"), _):
            return "yes" if value else "no"
        case (("precondition" | "ttl_scope"), str()):
            return {"none": "nothing", "zone": "the zone", "new": "a new set"}.get(value, value)
        case (("ttl_floor_s" | "publish_lag_s"), 0):
            return "-"
        case (("ttl_floor_s" | "publish_lag_s"), int() | float()):
            return f"{value:g} s"
        case _:
            return "-" if value is None else str(value)


PARTS: dict[str, Callable[[], str]] = {"dns-providers": page}
