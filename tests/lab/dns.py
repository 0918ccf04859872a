"""A private, signed DNS: root, zones on several servers, and a validating resolver that trusts only that root.

What it must never do is answer more kindly than the real one: everything is asked of real servers over the network.
"""

from __future__ import annotations

import base64
import os
import signal
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, cast

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.query
import dns.rcode
import dns.rdata
import dns.rdatatype
import dns.tsig
import dns.update
from dns.rdtypes.ANY.DNSKEY import DNSKEY

from tests.lab import zones
from tests.lab.addresses import (
    ACME_ZONE,
    ALIAS_ZONE,
    CUT_ZONE,
    EXPIRED_ZONE,
    INSECURE_ZONE,
    KNOT,
    KNOT_ZONE,
    MX1,
    NSD,
    PRIMARY,
    RESOLVER,
    ROOT,
    SECONDARY,
    STEALTH_ZONE,
    TCP_ZONE,
    ZONE,
)
from tests.lab.process import Server, run
from tests.lab.templates import render
from tests.lab.wait import until

KEYS = ("acme-key", "dane-key", "xfer-key", "rndc-key")
SIGNED = (ZONE, ALIAS_ZONE, STEALTH_ZONE)
Parent = Literal["good", "bad", "none"]


class Dns:
    """The lab's DNS. Zones have TTL `ttl`; mx1 has the addresses `mx1`."""

    def __init__(self, directory: Path, *, ttl: int = 5, mx1: Sequence[str] = (MX1,), knot: bool = False) -> None:
        self.ttl = ttl
        self.tsig_secret = base64.b64encode(os.urandom(32)).decode()
        self._directory = directory
        self._mx1 = mx1
        self._knot = knot
        self._servers: dict[str, Server] = {}
        self._root, self._example = zones.Signer("."), zones.Signer("example")
        self._ds: dict[str, list[str]] = {}
        self._modes: dict[str, Parent] = {}
        self._added: dict[str, list[str]] = {}
        self._cut: set[str] = set()
        self._frozen: set[str] = set()
        self._serial = 0

    # ---- start and stop --------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Starts all servers; on return the resolver gives validated answers and the secondary is up to date."""
        for name in ("primary", "secondary", "root", "unbound", "knot", "nsd"):
            (self._directory / name).mkdir(parents=True)
        for name in KEYS:
            self._write_key(name)
        self._write_zones()
        self._start_bind("primary")
        if self._knot:
            self._start_knot()
        self._learn_ds()
        self._start_bind("secondary")  # not before the primary: it would wait half a second before it asks again
        self._write_parents()
        self._start_bind("root")
        self._start_unbound()
        until(self.in_step, 10, "the secondary has the primary's zones")

    def stop(self) -> None:
        """Ends all servers."""
        for server in self._servers.values():
            server.stop()
        self._servers.clear()
        if self._lagging():
            run(self._log, "nft", "delete", "table", "inet", "lag")

    @property
    def _log(self) -> Path:
        return self._directory / "tools.log"

    def _write_key(self, name: str) -> None:
        path = self._directory / f"{name}.conf"
        path.touch(0o600)
        path.write_text(f'key "{name}" {{ algorithm hmac-sha256; secret "{self.tsig_secret}"; }};\n')

    def _write_zones(self) -> None:
        primary = self._directory / "primary"
        for zone in (ZONE, CUT_ZONE, ALIAS_ZONE, STEALTH_ZONE, INSECURE_ZONE):
            (primary / f"{zone}.zone").write_text(zones.child(zone, self.ttl, self._mx1))
        expired = zones.Signer(EXPIRED_ZONE)
        (primary / f"{EXPIRED_ZONE}.zone").write_text(expired.sign(zones.child(EXPIRED_ZONE, self.ttl), expired=True))
        self._ds = {INSECURE_ZONE: [], EXPIRED_ZONE: expired.ds()}

    @property
    def knot_socket(self) -> Path:
        """The control socket of knotd."""
        return self._directory / "knot" / "knot.sock"

    def _start_bind(self, role: str) -> None:
        directory = self._directory / role
        (directory / "named.conf").write_text(self._render(f"{role}.conf"))
        # without -u it stays root and may write in its directory
        argv = ["named", "-4", "-n", "1", "-f", "-c", directory / "named.conf"]
        self._servers[role] = Server(directory / "output.log", *argv)

    def _start_knot(self) -> None:
        directory = self._directory / "knot"
        for zone in (KNOT_ZONE, TCP_ZONE, ACME_ZONE):
            (directory / f"{zone}.zone").write_text(zones.child(zone, self.ttl))
        (directory / "knot.conf").write_text(self._render("knot.conf"))
        self._servers["knot"] = Server(directory / "output.log", "knotd", "-c", directory / "knot.conf")

    def _start_nsd(self) -> None:
        directory = self._directory / "nsd"
        (directory / "nsd.conf").write_text(self._render("nsd.conf"))
        self._servers["nsd"] = Server(directory / "output.log", "nsd", "-d", "-c", directory / "nsd.conf")
        until(lambda: self._has_cuts(NSD), 10, "NSD has Knot's zones")

    def _has_cuts(self, address: str) -> bool:
        return all(self._answers("nsd", address, zone, "DNSKEY") for zone in (TCP_ZONE, ACME_ZONE))

    def _start_unbound(self) -> None:
        directory = self._directory / "unbound"
        (directory / "unbound.conf").write_text(self._render("unbound.conf"))
        (directory / "root.hints").write_text(f". 3600 NS a.root.\na.root. 3600 A {ROOT}\n")
        (directory / "root.key").write_text(f". 5 IN DNSKEY {self._root.dnskey.to_text()}\n")
        until(lambda: self._answers("root", ROOT, "example", "SOA"), 10, "the root server answers")
        self._servers["unbound"] = Server(directory / "output.log", "unbound", "-d", "-c", directory / "unbound.conf")
        until(lambda: self._answers("unbound", RESOLVER, ZONE, "SOA", dns.flags.AD), 10, "the resolver validates")

    def _render(self, template: str) -> str:
        return render(template, DIR=self._directory, SECRET=self.tsig_secret)

    def _answers(self, server: str, address: str, name: str, rdtype: str, flags: int = 0) -> bool:
        self._servers[server].alive()
        try:  # by TCP: over UDP, "nobody listens yet" would be a time-out
            answer = dns.query.tcp(_question(name, rdtype), address, timeout=1)
        except (dns.exception.Timeout, OSError, EOFError):
            return False
        return bool(answer.answer) and answer.flags & flags == flags

    # ---- asking and changing ---------------------------------------------------------------------------------------

    def ask(self, address: str, name: str, rdtype: str, seconds: float = 10) -> dns.message.Message:
        """The answer of the server at `address`; OSError or dns.exception.Timeout when there is none."""
        return dns.query.udp_with_fallback(_question(name, rdtype), address, timeout=seconds)[0]

    def values(self, address: str, name: str, rdtype: str) -> list[str]:
        """The values that the server at `address` has at `name`, sorted; CNAMEs are followed as far as it knows."""
        return sorted(record.to_text() for record in records(self.ask(address, name, rdtype), rdtype))

    def update(self, name: str, rdtype: str, values: Sequence[str], ttl: int | None = None) -> None:
        """Replaces all values at `name` in one step, none deletes them; RuntimeError when it is refused."""
        self._update(self.zone_of(name), name, rdtype, values, ttl)

    def _in_zone(self, name: str, rdtype: str, values: Sequence[str]) -> None:
        self._update(ZONE, name, rdtype, values, None)

    def _update(self, zone: str, name: str, rdtype: str, values: Sequence[str], ttl: int | None) -> None:
        message = dns.update.UpdateMessage(zone)
        message.use_tsig({dns.name.from_text("dane-key"): dns.tsig.Key("dane-key", self.tsig_secret, "hmac-sha256")})
        owner = dns.name.from_text(name)
        message.delete(owner, rdtype)
        for value in values:
            message.add(owner, self.ttl if ttl is None else ttl, rdtype, value)
        rcode = dns.query.tcp(message, KNOT if zone == KNOT_ZONE else PRIMARY, timeout=5).rcode()
        if rcode != dns.rcode.NOERROR:
            raise RuntimeError(f"update of {name} {rdtype}: {dns.rcode.to_text(rcode)}")

    def zone_of(self, name: str) -> str:
        """The zone that `name` is in."""
        owner = dns.name.from_text(name)
        return next(zone for zone in zones.NAME_SERVERS if owner.is_subdomain(dns.name.from_text(zone)))

    @property
    def trust_anchor(self) -> Path:
        """The private root's key, as `trust-anchors` of named.conf."""
        path = self._directory / "trust-anchors.conf"
        flags, protocol, algorithm, key = self._root.dnskey.to_text().split(None, 3)
        path.write_text(f'trust-anchors {{ . static-key {flags} {protocol} {algorithm} "{key}"; }};\n')
        return path

    def keyfile(self, name: str) -> Path:
        """The key "acme-key" or "dane-key" as a file in BIND's format."""
        return self._directory / f"{name}.conf"

    def in_step(self) -> bool:
        """Whether the secondary has the primary's version of every zone."""
        return all(self._serial_at(PRIMARY, zone) == self._serial_at(SECONDARY, zone) for zone in SIGNED)

    def _serial_at(self, address: str, zone: str) -> list[str]:
        return self.values(address, zone, "SOA")

    def settle(self) -> None:
        """Waits until the secondary is up to date and lets the resolver forget: everyone sees what was published."""
        until(self.in_step, 10, "the secondary has the primary's zones")
        self.flush_resolver()

    # ---- faults ----------------------------------------------------------------------------------------------------

    def lag(self) -> None:
        """From now on the secondary hears nothing of the primary; it goes on answering what it knows."""
        pairs = [(PRIMARY, SECONDARY), (SECONDARY, PRIMARY)]
        rules = "".join(f"ip saddr {a} ip daddr {b} drop; " for a, b in pairs)
        run(self._log, "nft", f"table inet lag {{ chain input {{ type filter hook input priority 0; {rules}}}; }}")

    def catch_up(self) -> None:
        """Ends lag(); on return the secondary is up to date."""
        if self._lagging():
            run(self._log, "nft", "delete", "table", "inet", "lag")
        for zone in SIGNED:
            self._rndc(SECONDARY, "refresh", zone)
        until(self.in_step, 10, "the secondary catches up")

    def _lagging(self) -> bool:
        listed = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=True)
        return "table inet lag\n" in listed.stdout

    def freeze(self, zone: str = ZONE) -> None:
        """From now on the primary refuses updates."""
        self._rndc(PRIMARY, "freeze", zone)
        self._frozen.add(zone)

    def thaw(self, zone: str = ZONE) -> None:
        self._rndc(PRIMARY, "thaw", zone)
        self._frozen.discard(zone)

    def _rndc(self, address: str, *command: str) -> None:
        run(self._log, "rndc", "-s", address, "-k", self.keyfile("rndc-key"), *command)

    def stop_primary(self) -> None:
        """From now on the primary is silent; after cont_primary() it carries out the updates it received meanwhile."""
        self._servers["primary"].pause()

    def cont_primary(self) -> None:
        self._servers["primary"].resume()

    def stop_secondary(self) -> None:
        """From now on the secondary is silent."""
        self._servers["secondary"].pause()

    @property
    def secondary_pid(self) -> int:
        """For a command that silences it at a moment of its own."""
        return self._servers["secondary"].pid

    def cont_secondary(self) -> None:
        self._servers["secondary"].resume()

    def parent(self, zone: str, mode: Parent) -> None:
        """What example. says of `zone`: its DS, one that matches no key (the zone is bogus), or none (insecure)."""
        self._modes[zone] = mode
        self._reload_parents()

    def delegate(self, zone: str, *records: str) -> None:
        """What example. has of `zone` besides its name servers, as lines of a zone file; nothing: no more than them."""
        self._added[zone] = list(records)
        self._reload_parents()

    def _reload_parents(self) -> None:
        self._write_parents()
        self._servers["root"].signal(signal.SIGHUP)
        serial = str(self._serial)
        until(lambda: serial in self._serial_at(ROOT, "example")[0].split(), 5, "the parent zone is loaded")
        self.flush_resolver()

    def cut(self, zone: str) -> None:
        """From now on a zone below ZONE is another one, at Knot and NSD."""
        if "nsd" not in self._servers:
            self._start_nsd()
        keys = records(self.ask(KNOT, zone, "DNSKEY"), "DNSKEY")
        self._in_zone(zone, "NS", list(zones.CUT_SERVERS))
        self._in_zone(zone, "DS", zones.ds(zone, [key for key in keys if isinstance(key, DNSKEY)]))
        self._cut.add(zone)
        self.settle()

    def _join(self, zone: str) -> None:
        for rdtype in ("DS", "NS"):
            self._in_zone(zone, rdtype, [])
        self._cut.discard(zone)

    def adopt(self, zone: str, server: str) -> None:
        """From now on example. refers to the server for a zone that it has signed by itself."""
        keys = records(self.ask(server, zone, "DNSKEY"), "DNSKEY")
        self._ds[zone] = zones.ds(zone, [key for key in keys if isinstance(key, DNSKEY)])
        self.parent(zone, "good")

    def flush_resolver(self) -> None:
        """Makes the resolver forget everything, also which servers it found dead."""
        log = self._directory / "unbound" / "unbound.log"
        before = log.read_text().count("start of service")
        self._servers["unbound"].signal(signal.SIGHUP)
        until(lambda: log.read_text().count("start of service") > before, 5, "the resolver restarts")

    def heal(self) -> None:
        """Ends all faults, in whatever state a test left them."""
        self.cont_primary()
        self.cont_secondary()
        for zone in list(self._frozen):
            self.thaw(zone)
        if self._lagging():
            self.catch_up()
        for zone in list(self._cut):
            self._join(zone)
        for zone in [zone for zone, mode in self._modes.items() if mode != "good"]:
            self.parent(zone, "good")
        for zone in [zone for zone, added in self._added.items() if added]:
            self.delegate(zone)

    # ---- the parents -----------------------------------------------------------------------------------------------

    def _learn_ds(self) -> None:
        """Asks the servers that make their own keys for them."""
        own: dict[str, tuple[str, str]] = dict.fromkeys(SIGNED, ("primary", PRIMARY))
        if self._knot:
            own[KNOT_ZONE] = ("knot", KNOT)
        for zone, (server, address) in own.items():
            until(lambda s=server, a=address, z=zone: self._answers(s, a, z, "DNSKEY"), 10, f"{zone} is signed")
            keys = records(self.ask(address, zone, "DNSKEY"), "DNSKEY")
            self._ds[zone] = zones.ds(zone, [key for key in keys if isinstance(key, DNSKEY)])

    def _write_parents(self) -> None:
        self._serial += 1
        delegations = {zone: self._ds_in_parent(zone) for zone in self._ds}
        signed = self._example.sign(
            zones.example(delegations, self._serial, [line for added in self._added.values() for line in added])
        )
        (self._directory / "root" / "example.zone").write_text(signed)
        if self._serial == 1:
            signed = self._root.sign(zones.root(self._example.ds()))
            (self._directory / "root" / "root.zone").write_text(signed)

    def _ds_in_parent(self, zone: str) -> list[str]:
        mode = self._modes.get(zone, "good")
        if mode == "none":
            return []
        return [record[:-6] + "000000" if mode == "bad" else record for record in self._ds[zone]]


def records(answer: dns.message.Message, rdtype: str) -> list[dns.rdata.Rdata]:
    """The records of one type in an answer, wherever CNAMEs led to."""
    wanted = dns.rdatatype.from_text(rdtype)
    rrsets = [cast("Iterable[dns.rdata.Rdata]", rrset) for rrset in answer.answer if rrset.rdtype == wanted]
    return [record for rrset in rrsets for record in rrset]


def _question(name: str, rdtype: str) -> dns.message.QueryMessage:
    return dns.message.make_query(name, rdtype, use_edns=0, want_dnssec=True, payload=1232)
