"""`certagent dns`: what DNS providers can do, and whether they do it on this host.

A trial writes one TXT value at a challenge name, beside whatever is there, and takes it away again. No sender and no
CA looks for it: a CA that finds several values needs one that matches (RFC 8555 section 8.4).
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import msgspec

from certagent.agent.act.challenges import TXT_TTL_S
from certagent.agent.act.records import add_txt, remove_txt
from certagent.agent.act.spending import Spend, uncounted
from certagent.agent.plugins import DNS_PROVIDERS, built_in, of_others
from certagent.agent.wiring import Wiring
from certagent.checks.counted import Counted
from certagent.dns.providers.about import About
from certagent.dns.providers.child import InChild
from certagent.dns.providers.program import printable
from certagent.dns.providers.protocol import Capabilities
from certagent.errors import Error, Misconfigured, NotYet
from certagent.report.findings import Finding
from certagent.report.providers import VERSION, Provider, Providers
from certagent.report.terminal import say
from certagent.report.words import brief

PATIENCE_S = 60.0
"""Until every authoritative server gives a value; providers that publish late get as long again as they say."""
BUDGET = timedelta(seconds=10)
"""Of one round of questions."""
LATE_S = 30.0
"""A provider that takes longer to publish is asked about less often, and what is waited for is said first."""
ROUNDS = 20
"""So often within the time that such a provider states."""


def known(configured: dict[str, tuple[str, ...]]) -> Providers:
    """All that are installed, certagent's own first; `configured` has zones by type."""
    found = [_view(name, plugin, configured, "certagent") for name, plugin in built_in(DNS_PROVIDERS)]
    for name, entry_point in sorted(of_others(DNS_PROVIDERS).items()):
        package = entry_point.dist.name if entry_point.dist else "?"
        try:
            found.append(_view(name, entry_point.load(), configured, package))
        except Exception as error:  # noqa: BLE001 -- whatever is wrong with it, the others are shown
            trouble = printable(f"cannot be loaded: {type(error).__name__}: {error}; see the package {package}")
            found.append(Provider(name, name, None, configured.get(name, ()), "", package, trouble))
    return Providers(VERSION, tuple(found))


def _view(name: str, plugin: Any, configured: dict[str, tuple[str, ...]], package: str) -> Provider:
    able = getattr(plugin, "capabilities", None)
    about = getattr(plugin, "about", None)
    missing = plugin.missing() if isinstance(plugin, type) and issubclass(plugin, InChild) else None
    return Provider(
        type=name,
        service=about.title if isinstance(about, About) else name,
        capabilities=able if isinstance(able, Capabilities) else None,
        zones=configured.get(name, ()),
        access=about.access if isinstance(about, About) else "",
        package=package,
        trouble=f"{missing.detail}; {missing.hint}" if missing else "",
    )


def zones_by_type(wiring: Wiring) -> dict[str, tuple[str, ...]]:
    """The zones of the configuration, by the type of their provider."""
    found: dict[str, tuple[str, ...]] = {}
    for section in wiring.config.providers.values():
        zones = msgspec.convert(section.options.get("zones", ()), tuple[str, ...])
        found[section.type] = (*found.get(section.type, ()), *zones)
    return found


def zones(wiring: Wiring) -> list[str]:
    """Every zone that some provider writes, absolute."""
    return list(dict.fromkeys(zone for provider in wiring.providers() for zone in provider.zones))


def trial(wiring: Wiring, zone: str) -> Iterator[Finding]:
    """Write, read back, see everywhere, remove: each as it is done.

    Whatever fails, and also if it is interrupted, the value is removed. Where that fails it is named, so that somebody
    can remove it.
    """
    value = f"certagent-test-{secrets.token_urlsafe(21)}"  # 43 characters, as a challenge has: acme-dns takes no other
    what, values = f"zone {zone}", frozenset({value})
    try:
        able = next(provider.capabilities for provider in wiring.providers() if zone in provider.zones)
        name = _led_into(wiring, zone) if able.challenges_only else _name_in(wiring, zone)
        zone, final = wiring.resolver().final(name)
        with wiring.zones.writing(zone, final) as provider:
            able = provider.capabilities
    except Error as error:
        yield Finding("error", what, str(error), error.hint)
        return
    ended = False
    try:
        try:
            took_s = _timed(lambda: add_txt(wiring.zones, zone, final, values, TXT_TTL_S, _counted(wiring)))
            yield Finding("ok", what, f"wrote a TXT value at {final} in {took_s:.2f} s")
            if not able.challenges_only:
                yield _read_back(wiring, zone, final, values, what)
            lag_s = 0.0 if able.propagation_status else able.publish_lag_s  # its write has waited for it
            if lag_s > LATE_S:
                lag, most = (brief(timedelta(seconds=seconds)) for seconds in (lag_s, PATIENCE_S + 2 * lag_s))
                yield Finding("note", what, f"the provider publishes within {lag}; waiting for at most {most}")
            yield _seen(wiring, final, value, lag_s, what)
        except Error as error:
            yield Finding("error", what, str(error), error.hint)
        ended = True
    finally:
        if not ended:  # there may be little time for it
            say(f"certagent: interrupted; now the TXT value {value} at {final} is removed", err=True)
        removed = _removed(wiring, zone, final, values, what)
        if not ended:
            say(f"certagent: {removed.detail}", err=True)
    stays = "it stays there until newer values take its place: this provider removes nothing"
    yield Finding("ok", what, stays) if able.challenges_only else removed


def _counted(wiring: Wiring, *, removes: bool = False) -> Spend:
    """In whose journal it is does not matter: those of all certificates are added up. Without one nobody writes here
    but trials.
    """
    certificate = next(iter(wiring.config.certificates), None)
    return Counted(wiring, certificate, removes=removes) if certificate else uncounted


def _read_back(wiring: Wiring, zone: str, name: str, values: frozenset[str], what: str) -> Finding:
    began = time.monotonic()
    with wiring.zones.writing(zone, name) as provider:
        found = provider.get(name, "TXT")
    took_s = time.monotonic() - began
    if found and values <= found.values:
        return Finding("ok", what, f"read it back in {took_s:.2f} s")
    hint = "look for it at the provider; something else may write the same name"
    return Finding("error", what, f"the provider took it, and does not have it {took_s:.2f} s later", hint)


def _removed(wiring: Wiring, zone: str, name: str, values: frozenset[str], what: str) -> Finding:
    try:
        took_s = _timed(lambda: remove_txt(wiring.zones, zone, name, values, _counted(wiring, removes=True)))
    except Error as error:
        detail = f"not removed: the TXT value {', '.join(values)} at {name}: {error}"
        return Finding("error", what, detail, "remove it by hand; it does no harm")
    return Finding("ok", what, f"removed it in {took_s:.2f} s")


def _seen(wiring: Wiring, name: str, value: str, lag_s: float, what: str) -> Finding:
    """Whether every authoritative server gives it in time, and in what time."""
    began, patience_s = time.monotonic(), PATIENCE_S + 2 * lag_s
    pause_s = lag_s / ROUNDS if lag_s > LATE_S else 0.0
    while True:
        try:
            wiring.resolver().wait_for_txt(name, frozenset({value}), BUDGET)
        except NotYet as error:
            if time.monotonic() - began >= patience_s:
                waited = brief(timedelta(seconds=patience_s))
                return Finding("error", what, f"not everywhere after {waited}: {error.detail}", error.hint)
            time.sleep(pause_s)
        except Error as error:
            return Finding("error", what, str(error), error.hint)
        else:
            return Finding("ok", what, f"every authoritative server gave it after {time.monotonic() - began:.2f} s")


def _challenges(wiring: Wiring) -> Iterator[str]:
    """The names of the configuration at which challenges are written."""
    return (name for entry in wiring.config.certificates.values() for name in entry.spec.challenge_names)


def _name_in(wiring: Wiring, zone: str) -> str:
    """A challenge name of the configuration in that zone, because a key may be allowed to write nothing else."""
    ours = (name for name in _challenges(wiring) if f".{name}".endswith(f".{zone}"))
    return next(ours, f"_acme-challenge.certagent-test.{zone}")


def _led_into(wiring: Wiring, zone: str) -> str:
    """A challenge name of the configuration that leads into that zone, since others cannot be written there.

    Raises:
        Misconfigured: `dns.no_provider`: There is none.
    """
    for name in _challenges(wiring):
        if f".{wiring.resolver().final(name)[1]}".endswith(f".{zone}"):
            return name
    hint = "make _acme-challenge.NAME a CNAME to the name of an account there"
    raise Misconfigured("dns.no_provider", f"no challenge name of the configuration leads into {zone}", hint)


def _timed(do: Callable[[], object]) -> float:
    began = time.monotonic()
    do()
    return time.monotonic() - began
