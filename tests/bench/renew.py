"""One certificate from Pebble, by certagent and by other clients: `python -m tests.bench.renew`, as root.

Same machine, same CA (its validation sleep is off), same challenge (dns-01, an RFC 2136 update at BIND), same key
(ECDSA P-256); the medians of RUNS runs. certagent does more than the others in that time: it asks every authoritative
server before the challenge is answered, verifies and rehearses the chain, puts it into a running Postfix, reloads it
and proves by handshakes at three ports what it serves.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from certagent import __version__
from tests.bench import measure
from tests.bench.peers import NAME, Peer, make_certbot, peers
from tests.lab import Lab, namespace
from tests.lab.addresses import PRIMARY, RESOLVER, ZONE

RUNS = 5

CONFIG = """\
state_dir: {state}
ca:
  pebble: {{directory: "{acme}", test: true, agree_tos: true, ca_bundle: {acme_ca}}}
dns:
  resolvers: [{resolver}]
  providers:
    corp: {{type: rfc2136, server: {primary}, zones: [{zone}.], key_file: {key_file}}}
certificates:
  {name}:
    ca: pebble
    standby: false
    drain: 0s
    mail_servers:
      postfix:
        type: postfix
        config_dir: {config_dir}
        chain_files: {{ecdsa: {chain_file}}}
        services:
          - {{host: {name}, port: 25, mode: smtp}}
          - {{host: {name}, port: 465, mode: tls}}
          - {{host: {name}, port: 587, mode: smtp}}
"""


def certagent() -> list[str]:
    """The command, as it is installed beside this Python."""
    program = Path(sys.executable).with_name("certagent")
    return [str(program)] if program.exists() else [sys.executable, "-m", "certagent"]


def configure(lab: Lab, directory: Path) -> Path:
    """A configuration with one mail server and no TLSA records, so that nothing waits for caches."""
    path = directory / "config.yaml"
    text = CONFIG.format(
        state=directory / "state",
        acme=lab.pebble.directory,
        acme_ca=lab.pebble.https_ca,
        resolver=RESOLVER,
        primary=PRIMARY,
        zone=ZONE,
        key_file=lab.dns.keyfile("dane-key"),
        name=NAME,
        config_dir=lab.mx1.config_dir,
        chain_file=lab.chain_file,
    )
    path.write_text(text)
    return path


class Rows:
    """The table of one kind of work."""

    def __init__(self, title: str) -> None:
        self._lines = [
            f"**{title}**",
            "",
            "| client | wall s | | CPU s | | largest process MB | |",
            "|---|---|---|---|---|---|---|",
        ]
        self._reference: measure.Run | None = None

    def add(self, client: str, runs: list[measure.Run]) -> None:
        """A client's medians, and how they compare with the first one's."""
        middle = measure.Run(*(measure.median(values) for values in zip(*runs, strict=True)))
        reference = self._reference = self._reference or middle
        cells: list[str] = []
        for value, of, digits in (
            (middle.wall_s, reference.wall_s, 2),
            (middle.cpu_s, reference.cpu_s, 2),
            (middle.rss_mb, reference.rss_mb, 0),
        ):
            cells += [f"{value:.{digits}f}", f"{value / of:.1f} x"]
        self._lines.append(f"| {client} | {' | '.join(cells)} |")

    def note(self, client: str, text: str) -> None:
        """A client that could not be measured."""
        self._lines.append(f"| {client} | {text} | | | | | |")

    def __str__(self) -> str:
        return "\n".join(self._lines)


def measure_certagent(lab: Lab, directory: Path, first: Rows, again: Rows) -> None:
    """Account and first certificate, then a renewal, each from process start to the end and to the installed file."""
    runs: dict[str, list[measure.Run]] = {"first": [], "again": []}
    installed: dict[str, list[measure.Run]] = {"first": [], "again": []}
    for n in range(RUNS):
        place = directory / f"certagent-{n}"
        place.mkdir()
        environment = {"CERTAGENT_CONFIG": str(configure(lab, place))}
        lab.chain_file.unlink(missing_ok=True)
        for kind, arguments in (("first", ["renew"]), ("again", ["renew", "--force"])):
            run = measure.run([*certagent(), *arguments], environment)
            runs[kind].append(run)
            installed[kind].append(run._replace(wall_s=_installed(environment) - run.began))
        if "PRIVATE KEY" not in lab.chain_file.read_text():
            raise measure.Failed("nothing was installed")
    for kind, rows in (("first", first), ("again", again)):
        rows.add(f"certagent {__version__}, until the PEM file is installed", installed[kind])
        rows.add(f"certagent {__version__}, until Postfix serves it, proven", runs[kind])


def _installed(environment: dict[str, str]) -> float:
    """When the newest chain was in place, by the journal."""
    argv = [*certagent(), "history", NAME, "--json"]
    done = subprocess.run(argv, stdout=subprocess.PIPE, check=True, env={**os.environ, **environment})
    dates = [one["at"] for one in json.loads(done.stdout)["events"] if one["event"] == "Installed"]
    return datetime.fromisoformat(dates[-1]).timestamp()


def measure_peer(peer: Peer, directory: Path, first: Rows, again: Rows) -> None:
    """The same of another client."""
    label = f"{peer.name} {peer.version}"
    runs: list[list[measure.Run]] = [[], []]
    try:
        for n in range(RUNS):
            place = directory / f"{peer.name}-{n}"
            place.mkdir()
            for argv, into in zip((peer.first, peer.again), runs, strict=True):
                into.append(measure.run([part.replace("{}", str(place)) for part in argv], peer.environment))
            if "BEGIN CERTIFICATE" not in (place / peer.result).read_text():
                raise measure.Failed("there is no certificate")
    except (measure.Failed, OSError, subprocess.TimeoutExpired) as error:
        for rows in (first, again):
            rows.note(label, f"not measured, it failed: {' '.join(str(error).split())[-300:]}")
        return
    first.add(label, runs[0])
    again.add(label, runs[1])


def main(tell: Callable[[str], None] = print) -> int:
    """The exit code."""
    if not namespace.inside():
        if os.geteuid() == 0:
            make_certbot()  # needs a network, which the lab has not
        namespace.enter([sys.executable, "-m", "tests.bench.renew"])
    directory = namespace.directory() / "bench"
    directory.mkdir()
    first, again = Rows("Account and first certificate"), Rows("Renewal, the account exists")
    with Lab() as lab:
        measure_certagent(lab, directory, first, again)
        found, missing = peers(lab, directory)
        for peer in found:
            measure_peer(peer, directory, first, again)
        for name, why in missing.items():
            first.note(name, why)
            again.note(name, why)
    tell(f"{first}\n\n{again}\n")
    system = f"Python {platform.python_version()}, {os.cpu_count()} processors"
    tell(f"Medians of {RUNS} runs; {system}. x: of the first line.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
