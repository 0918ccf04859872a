"""What may go wrong or be changed by people, one function each: `(world) -> None`, drawn by the history.

The first table strikes at any moment, also in the middle of a step; the second is done between two turns of the agent,
as a new config is read or a request is made (the agent's own lock sees to that).
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

from msgspec.structs import replace

from certagent.lifecycle import events as ev
from tests.simulation.ca import unmanaged
from tests.simulation.dns import NOTICE_S, RR, Server, Zone
from tests.simulation.mail import Host, Shown
from tests.simulation.web import WAYS

if TYPE_CHECKING:
    from tests.simulation.world import World

Mischief = Callable[["World"], object]
HOURS = (0.01, 0.1, 0.5, 2.0, 12.0)


def _span(world: World) -> float:
    return world.rng.choice(HOURS) * 3600 * world.rng.uniform(0.5, 1.5)


def _becomes(thing: object, **values: object) -> None:
    for name, value in values.items():
        setattr(thing, name, value)


def _server(world: World) -> tuple[Zone, Server]:
    zone = world.rng.choice(world.zones)
    return zone, world.rng.choice(zone.servers)


def _led_to(world: World, name: str) -> bool:
    """Somebody asks for the name now: what changes where an alias led until lately is seen by nobody but caches."""
    aliases = (world.dns.zone_of(n).current(n).content for n in world.answers)
    return name in world.answers or name in aliases


# -- DNS -------------------------------------------------------------------------------------------------------------


def deaf(world: World) -> None:
    """A server does not answer the agent for a while; others may still reach it."""
    _, server = _server(world)
    if server.stuck:
        return
    if world.rng.random() < 0.5:
        server.deaf = True
    else:
        server.refuses = True
    world.clock.note(f"   ! {server.label} is not heard")

    server.lasts(_span(world), partial(_heard_again, server))


def deaf_for_days(world: World) -> None:
    """A server does not answer the agent for longer than a short-lived certificate can wait for it."""
    zone, server = _server(world)
    if server.stuck:
        return
    server.deaf = True
    world.clock.note(f"   ! {server.label} of {zone.name} is not heard for days")

    server.lasts(world.rng.uniform(2, 8) * 86400, partial(_heard_again, server))


def away(world: World) -> None:
    """No server of a zone answers anybody for a while: caches that serve stale data use what they have."""
    zone = world.rng.choice(world.zones)
    if zone.away:
        return
    zone.away_since = world.clock.t
    world.clock.note(f"   ! {zone.name} is away")
    world.clock.at(_span(world), zone.is_back)


def stuck(world: World) -> None:
    """A secondary's transfers fail for a while."""
    zone, server = _server(world)
    if server.primary or server.stuck:
        return
    server.stuck = True
    world.clock.note(f"   ! {server.label} does not follow any more")
    server.lasts(_span(world), partial(_follow, zone, server))


def _follow(zone: Zone, server: Server) -> None:
    server.stuck = False
    zone.serve(server, len(zone.versions) - 1)


def cut_off(world: World) -> None:
    """A secondary is cut off from its primary and from the agent for a while; others still ask it."""
    zone, server = _server(world)
    if server.primary or server.stuck:
        return
    server.stuck = server.deaf = True
    world.clock.note(f"   ! {server.label} is cut off")

    server.lasts(_span(world), partial(_back_again, zone, server))


def _heard_again(server: Server) -> None:
    server.deaf = server.refuses = False
    server.heard_since = server.clock.t


def _back_again(zone: Zone, server: Server) -> None:
    _heard_again(server)
    _follow(zone, server)


def regress(world: World) -> None:
    """A server goes back to an older version, for as long as the agent needs to see it.

    A regression that comes and goes between two looks cannot be seen by anybody, so it is not the engine's fault: it
    lasts at least one interval of `schedule.observe_every` while the caches of just that set are waited for, else one
    `watch`, and time in which the agent does not run, cannot write its journal, or hears no server of the zone or of
    the aliases that lead there, does not count.
    """
    zone, server = _server(world)
    if server.primary or server.stuck or server.deaf or server.refuses or server.serial < 1 or zone.away:
        return
    back = world.rng.randrange(max(0, server.serial - 3), server.serial)
    check_interval_s = world.spec.check_interval.total_seconds()
    now_given = zone.versions[server.serial].sets
    given_again = [rr for name, rr in zone.versions[back].sets.items() if rr != now_given.get(name)]
    least = check_interval_s
    if back == server.serial - 1 and all(world.clock.t - zone.changed_at < rr.ttl_s for rr in given_again):
        retire_each_s = [rr.ttl_s + max(rr.ttl_s, zone.safety_margin_s) for rr in given_again]
        least = min(check_interval_s, 900.0, max([1.0, *(retire_s / 8 for retire_s in retire_each_s)]))
    server.stuck = True
    world.clock.note(f"   ! {server.label} goes back to version {back} of {len(zone.versions) - 1}")
    zone.serve(server, back, regressed=True)
    lasts = least + 120.0 + world.rng.choice((0.0, _span(world)))

    server.lasts(lasts, partial(_ahead_again, world, zone, server, lasts))


def _ahead_again(world: World, zone: Zone, server: Server, lasts: float) -> None:
    away = world.asleep_since is not None or world.journal.disk_full or world.awake_since > world.clock.t - lasts
    if away or not (zone.heard(lasts) and world.zones[0].heard(lasts)):
        server.lasts(lasts, partial(_ahead_again, world, zone, server, lasts))
    elif server.stuck:
        _follow(zone, server)


def raise_ttl(world: World) -> None:
    """The operator changes the TTL of a set."""
    zone = world.rng.choice(world.zones)
    if world.clock.t - zone.changed_at < NOTICE_S:
        return  # see `hurried`
    for name, rr in zone.versions[-1].sets.items():
        if world.rng.random() < 0.7 and _led_to(world, name):
            zone.put(name, replace_ttl(rr, world.rng.choice((60, 600, 3600, 14400))), since=world.clock.t)
            world.clock.note(f"   ! the TTL of {name} is now {zone.current(name).ttl_s}")


def hurried(world: World) -> None:
    """The operator lowers every TTL and asks for a rotation at once: caches go on by the old, longer TTL.

    Not within moments of another change: a TTL that nobody had time to see is not the engine's fault.
    """
    for zone in (z for z in world.zones if world.clock.t - z.changed_at > NOTICE_S):
        for name, rr in list(zone.versions[-1].sets.items()):
            zone.put(name, replace_ttl(rr, min(rr.ttl_s, world.rng.choice((30, 60)))), since=world.clock.t)
    world.clock.note("   ! every TTL is lowered")
    world.ask(rotate)


def prepared(world: World) -> None:
    """The operator raises every TTL, and asks for a rotation some minutes later; it is the provider's bad day."""
    world.provider.flaky = 8.0
    for zone in (z for z in world.zones if world.clock.t - z.changed_at > NOTICE_S):
        for name, rr in list(zone.versions[-1].sets.items()):
            if _led_to(world, name):
                zone.put(name, replace_ttl(rr, max(rr.ttl_s, world.rng.choice((3600, 14400)))), since=world.clock.t)
    world.clock.note("   ! every TTL is raised")

    world.clock.at(world.rng.uniform(1, 10) * NOTICE_S, partial(world.ask, rotate))


def rotate(world: World) -> None:
    """The operator asks for new keys."""
    world.clock.note("   ? operator: rotate")
    world.journal.append("mail", ev.Requested(what="rotate"))


def abort(world: World) -> None:
    """The operator wants to stay with the old keys."""
    world.clock.note("   ? operator: abort")
    world.journal.append("mail", ev.Requested(what="abort"))


def replace_ttl(rr: RR, ttl_s: int) -> RR:
    """Another TTL."""
    return RR(rr.content, ttl_s)


def meddle(world: World) -> None:
    """Somebody deletes or adds records."""
    zone = world.rng.choice(world.zones)
    for name, rr in list(zone.versions[-1].sets.items()):
        if isinstance(rr.content, str) or world.rng.random() < 0.3 or not _led_to(world, name):
            continue
        values = rr.content
        draw = world.rng.random()
        if draw < 0.3:
            values = frozenset[str]()
        elif draw < 0.7:
            values = frozenset(v for v in sorted(values) if world.rng.random() < 0.5)
        else:
            stray = world.rng.choice(("3 1 1 ", "2 1 1 ", "3 1 1 ")) + f"{world.rng.getrandbits(256):064x}"
            world.judge.unmanaged_values.add(stray)
            values |= {stray}
        world.clock.note(f"   ! somebody changes {name}")
        zone.put(name, RR(values, rr.ttl_s if values else 0), since=world.clock.t)


def unasked(world: World) -> None:
    """Somebody publishes what is served at a name that is not in the config; he may have rolled by hand before."""
    if not world.spec.undeclared:
        return
    name = world.rng.choice(sorted(world.spec.undeclared))
    kind = world.rng.choice(("3 1 1", "3 1 1", "2 1 1"))
    for host in (world.hosts[h] for h in world.answers[name]):
        if not host.ours and world.rng.random() < 0.5:
            life = timedelta(days=90)
            chains = {a: unmanaged(world.rng, world.clock, world.older_names, life) for a in host.files}
            host.place({a: Shown(chain, hand=True) for a, chain in chains.items()})
            host.restart()
    content = world.dns.zone_of(name).current(name).content
    place = content if isinstance(content, str) else name
    served = [s.chain for h in world.answers[name] for s in world.hosts[h].files.values()]
    digests = (c.spki if kind == "3 1 1" else (*c.issuers, "")[-1] for c in served)
    values = {f"{kind} {digest}" for digest in digests if digest}
    world.clock.note(f"   ! somebody publishes what is served at {name}")
    world.dns.zone_of(place).put(place, RR(frozenset(values), world.rng.choice((60, 3600))), since=world.clock.t)


def security(world: World) -> None:
    """Signing breaks or ends for a while, or the validating resolver cannot be asked."""
    zone = world.rng.choice(world.zones)
    zone.security = world.rng.choice(("insecure", "bogus", "unknown"))
    world.clock.note(f"   ! {zone.name} is {zone.security}")

    world.clock.at(_span(world), partial(_becomes, zone, security="secure"))


def wildcard(world: World) -> None:
    """Somebody puts records of one key at a wildcard: they are given for every name that has none itself."""
    zone = world.zones[0]
    host = world.rng.choice(list(world.hosts.values()))
    keys = [s.chain.spki for s in host.files.values()]
    if not keys or world.rng.random() < 0.3:
        keys = [f"{world.rng.getrandbits(256):064x}"]
    zone.put("*", RR(frozenset(f"3 1 1 {key}" for key in keys), world.rng.choice((60, 600, 3600))), since=world.clock.t)
    world.clock.note("   ! a wildcard gives records")


def withdraw(world: World) -> None:
    """A TLSA name is taken out of the config."""
    if tlsa_names := dict(world.spec.tlsa_names):
        del tlsa_names[world.rng.choice(sorted(tlsa_names))]
        world.configure(replace(world.spec, tlsa_names=tlsa_names), f"TLSA names {sorted(tlsa_names)}")


def inside(world: World) -> None:
    """The agent is shown an internal view of a zone for a while: no records, and nobody who validates that."""
    zone = world.rng.choice(world.zones)
    zone.inside = True
    world.clock.note(f"   ! the agent sees {zone.name} from inside")
    world.clock.at(_span(world), partial(_becomes, zone, inside=False))


def provider_down(world: World) -> None:
    """The provider's API is away."""
    world.provider.down = True
    world.clock.at(_span(world), partial(_becomes, world.provider, down=False))


def alias(world: World) -> None:
    """The operator lets an alias lead elsewhere, mostly to a copy of the records."""
    names = [n for n in world.answers for z in [world.dns.zone_of(n)] if isinstance(z.current(n).content, str)]
    if not names:
        return
    name = world.rng.choice(names)
    zone, old = world.dns.zone_of(name), world.dns.zone_of(name).current(name)
    assert isinstance(old.content, str)
    first, second = ("a.", "c.") if old.content.startswith("a.") else ("c.", "a.")
    server = old.content.replace(first, second, 1)
    here, there = world.dns.zone_of(old.content), world.dns.zone_of(server)
    if world.rng.random() < 0.8:
        there.put(server, here.current(old.content), since=world.clock.t)
    world.clock.note(f"   ! {name} leads to {server} from now on")
    zone.put(name, RR(server, old.ttl_s), since=world.clock.t)


def there_and_back(world: World) -> None:
    """An alias leads elsewhere, and back again shortly before the last cache has dropped what was given there."""
    alias(world)
    ttl_s = sum(max((rr.ttl_s for rr in z.versions[-1].sets.values()), default=0) for z in world.zones)
    retire_s = max(2 * ttl_s, ttl_s + world.spec.safety_margin.total_seconds())
    world.clock.at(retire_s * world.rng.uniform(0.8, 1), partial(_back, world))


def _back(world: World) -> None:
    if world.clock.hostile:
        alias(world)


def unresolved(world: World) -> None:
    """A TLSA name leads to the records of another, and this host cannot look it up for a while."""
    if len(world.spec.tlsa_names) < 2:
        return
    name, other = world.rng.sample(list(world.spec.tlsa_names), 2)
    place = world.dns.zone_of(other).current(other).content
    server = place if isinstance(place, str) else other
    world.dns.zone_of(name).put(name, RR(server, world.spec.ttl_s), since=world.clock.t)
    world.resolver.failing.add(name)
    world.clock.note(f"   ! {name} leads to {server}, and is not resolved")
    world.clock.at(_span(world), partial(world.resolver.failing.discard, name))


# -- mail servers, CA, this host -------------------------------------------------------------------------------------


def host_down(world: World) -> None:
    """A mail server is stopped for a while."""
    host = world.rng.choice(list(world.hosts.values()))
    host.down = True
    world.clock.note(f"   ! {host.name} is down")
    world.clock.at(_span(world), host.restart)


def gives_up(world: World) -> None:
    """Reloads go wrong often, and whenever a server has its own files back, the operator aborts the roll soon after."""
    for host in world.hosts.values():
        host.flaky = 8.0
        host.restored = partial(_aborts_soon, world, host)


def _aborts_soon(world: World, host: Host) -> None:
    world.clock.at(world.rng.random() * world.rng.choice((2.0, host.drain_s)), partial(world.ask, abort))


def host_misconfigured(world: World) -> None:
    """The mail server's own check fails, or its disk is full, for a while."""
    host = world.rng.choice(list(world.hosts.values()))
    if world.rng.random() < 0.5:
        host.misconfigured = True
    else:
        host.disk_full = True

    world.clock.at(_span(world), partial(_becomes, host, misconfigured=False, disk_full=False))


def by_hand(world: World) -> None:
    """Somebody replaces the files, by a certificate of his own or one from a backup, and restarts the server."""
    host = world.rng.choice(list(world.hosts.values()))
    old = [g for g in world.journal.head.generations if not g.unmanaged]
    if old and world.rng.random() < 0.5:
        chains = world.rng.choice(old).chains
    else:
        life = timedelta(days=90)
        chains = {a: unmanaged(world.rng, world.clock, world.spec.names, life) for a in world.spec.key_types}
    host.place({a: Shown(chain, hand=True) for a, chain in chains.items()})
    if host.style == "postfix" or world.rng.random() < 0.7:
        host.restart()
    world.clock.note(f"   ! somebody replaced the files of {host.name}")


def ca_down(world: World) -> None:
    """The CA is away."""
    world.ca.down = True
    world.clock.at(_span(world), partial(_becomes, world.ca, down=False))


def intermediate(world: World) -> None:
    """The CA signs with another intermediate from now on."""
    world.ca.intermediate = world.rng.choice(("a", "c", "d")) * 64


def urgent(world: World) -> None:
    """The CA wants everything renewed now (revocation)."""
    world.ca.urgent_before = world.clock.t


def disk_full(world: World) -> None:
    """The disk of the state directory is full for a while."""
    world.journal.disk_full = world.vault.disk_full = True
    world.clock.note("   ! disk full")

    world.clock.at(_span(world), partial(_space_again, world))


def _space_again(world: World) -> None:
    world.journal.disk_full = world.vault.disk_full = False
    world.awake_since = world.clock.t  # what cannot be journaled was not seen


def wall_jumps(world: World) -> None:
    """Somebody sets the wall clock, wrong or right again."""
    world.clock.wall_offset_s = world.rng.choice((0.0, 1.0, -1.0)) * world.rng.uniform(10, 6 * 3600)
    world.clock.note(f"   ! the wall clock is off by {world.clock.wall_offset_s:.0f} s")


ANYTIME: tuple[Mischief, ...] = (
    deaf,
    deaf,
    away,
    away,
    deaf_for_days,
    stuck,
    stuck,
    cut_off,
    regress,
    regress,
    regress,
    raise_ttl,
    hurried,
    prepared,
    meddle,
    unasked,
    security,
    provider_down,
    alias,
    host_down,
    host_misconfigured,
    by_hand,
    ca_down,
    intermediate,
    intermediate,
    urgent,
    disk_full,
    wall_jumps,
)


# -- people, between two turns ---------------------------------------------------------------------------------------


def request(world: World) -> None:
    """The operator asks for something."""
    what = world.rng.choice(
        ("retry", "renew", "renew", "rotate", "rotate", "rotate", "emergency", "emergency", "abort")
    )
    accept = what == "emergency" and world.rng.random() < 0.4
    world.clock.note(f"   ? operator: {what}{' --accept-deferrals' if accept else ''}")
    world.journal.append("mail", ev.Requested(what=what, accept_deferrals=accept))


def edit_rotation(world: World) -> None:
    """Another policy for keys."""
    rotate = world.rng.choice((None, timedelta(0), timedelta(days=30)))
    standby = world.rng.random() < 0.6
    world.configure(replace(world.spec, rotate_key=rotate, standby=standby), f"rotate {rotate}, standby {standby}")


def edit_tlsa_names(world: World) -> None:
    """A TLSA name is taken out, or put in (again)."""
    tlsa_names = dict(world.spec.tlsa_names)
    name = world.rng.choice(sorted(world.answers))
    if name in tlsa_names:
        del tlsa_names[name]
    elif set(world.answers[name]) <= {t.name for t in world.spec.mail_servers}:
        tlsa_names[name] = world.answers[name]
    world.configure(replace(world.spec, tlsa_names=tlsa_names), f"TLSA names {sorted(tlsa_names)}")


def edit_algorithms(world: World) -> None:
    """RSA beside ECDSA, or one of them alone."""
    key_types = world.rng.choice((("ecdsa-p256",), ("rsa-2048",), ("ecdsa-p256", "rsa-2048")))
    world.configure(replace(world.spec, key_types=key_types), f"algorithms {key_types}")


def edit_parameters(world: World) -> None:
    """`2 1 1` beside `3 1 1`, or not."""
    tlsa_parameters = ("3 1 1",) if "2 1 1" in world.spec.tlsa_parameters else ("3 1 1", "2 1 1")
    world.configure(replace(world.spec, tlsa_parameters=tlsa_parameters), f"records {tlsa_parameters}")


def edit_mail_servers(world: World) -> None:
    """A mail server more, with its TLSA names; or one less, whose names lead nowhere else."""
    missing = [t for t in world.mail_servers if t not in world.spec.mail_servers]
    if len(world.spec.mail_servers) > 1 and (not missing or world.rng.random() < 0.5):
        gone = world.rng.choice(world.spec.mail_servers)
        mail_servers = tuple(t for t in world.spec.mail_servers if t is not gone)
        tlsa_names = {o: a for o, a in world.spec.tlsa_names.items() if gone.name not in a}
        world.configure(
            replace(world.spec, mail_servers=mail_servers, tlsa_names=tlsa_names), f"no mail server {gone.name}"
        )
    elif missing:
        mail_servers = (*world.spec.mail_servers, missing[0])
        names = {t.name for t in mail_servers}
        mine = {o: a for o, a in world.answers.items() if set(a) <= names}
        tlsa_names = {o: a for o, a in mine.items() if o in world.spec.tlsa_names or missing[0].name in a}
        world.configure(
            replace(world.spec, mail_servers=mail_servers, tlsa_names=tlsa_names), f"mail servers {sorted(names)}"
        )


def edit_names(world: World) -> None:
    """The names of the certificate that was served before are given up, or are in the new one as well."""
    if world.rng.random() < 0.5:
        world.give_up_names()
    else:
        world.configure(replace(world.spec, names=tuple(sorted(world.older_names))), f"names {world.older_names}")


def edit_ca(world: World) -> None:
    """Another CA, which knows nothing of what the first has under way."""
    ca = "https://two.example/" if world.spec.cas != ("https://two.example/",) else "https://one.example/"
    world.configure(replace(world.spec, cas=(ca,)), f"CA {ca}")


def edit_challenge(world: World) -> None:
    """Challenges are met in another way: by a TXT record, or by a file in this or that directory."""
    way = world.rng.choice([way for way in WAYS if way != world.spec.challenge])
    world.configure(replace(world.spec, challenge=way), f"challenges by {way.type} {way.webroot}".rstrip())


BETWEEN: tuple[Mischief, ...] = (
    request,
    request,
    request,
    request,
    edit_rotation,
    edit_tlsa_names,
    edit_algorithms,
    edit_parameters,
    edit_mail_servers,
    edit_names,
    edit_ca,
    edit_challenge,
)
