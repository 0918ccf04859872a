"""The main job on real servers, told as it goes on: `make demo`.

A Postfix that takes mail under DANE gets its first certificate and its first TLSA records, then two new keys, while a
Postfix that sends only where DANE vouches for the receiver (dane-only) mails all the time, and a witness compares the
records in DNS with the key that is served. Exit code 0: not one mail was deferred, not one comparison failed.
Everything runs in namespaces of its own (tests/lab), and ends with them. It needs the Debian packages of the group
"demo" (tests/setup/debian.sh) and the Python packages of requirements.lock, and nothing else.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from tests.lab import Lab, namespace
from tests.lab.addresses import PRIMARY, RESOLVER, ZONE
from tests.lab.sender import Mailed, Mailer, Prober
from tests.lab.wait import until

NAME = f"mx1.{ZONE}"
TTL_S = 5
LIMIT_S = 170
"""The whole demonstration; it needs about half a minute."""
CERTAGENT = [sys.executable, "-m", "certagent"]
TOLD = ("KeysMade", "Issued", "Published", "Unpublished", "Installed", "Reloaded", "Verified", "Deleted")

CONFIG = """\
state_dir: {directory}/state
ca:
  pebble: {{directory: "{acme}", test: true, agree_tos: true, ca_bundle: {acme_ca}}}
dns:
  resolvers: [{resolver}]
  providers:
    corp: {{type: rfc2136, server: {primary}, zones: [{zone}.], key_file: {key_file}}}
certificates:
  {name}:
    ca: pebble
    drain: 1s
    dane: {{ttl: {ttl}s, safety_margin: 2s}}
    mail_servers:
      postfix:
        type: postfix
        config_dir: {config_dir}
        chain_files: {{ecdsa: {chain_file}}}
        services:
          - {{host: {name}, port: 25, mode: smtp, tlsa: true}}
          - {{host: {name}, port: 465, mode: tls}}
          - {{host: {name}, port: 587, mode: smtp}}
"""


class Failure(Exception):
    """The demonstration did not show what it should."""


def say(text: str) -> None:
    """A line of narration."""
    print(text, flush=True)


def certagent(*arguments: str, quiet: bool = False) -> str:
    """Runs the real command and shows what it prints, unless `quiet`; Failure unless its exit code is 0."""
    if not quiet:
        say(f"\n$ certagent {' '.join(arguments)}")
    began = time.monotonic()
    out = subprocess.PIPE if quiet else None
    done = subprocess.run([*CERTAGENT, *arguments], stdin=subprocess.DEVNULL, stdout=out, text=True, check=False)
    if not quiet:
        say(f"(exit code {done.returncode}, {time.monotonic() - began:.2f} s)")
    if done.returncode != 0:
        raise Failure(f"certagent {' '.join(arguments)} ended with exit code {done.returncode}")
    return done.stdout or ""


def history(after: int) -> list[dict[str, Any]]:
    """The journal after an entry."""
    return json.loads(certagent("history", NAME, "--after", str(after), "--json", quiet=True))["events"]


def rolled(generation: str) -> bool:
    """Whether this is all that is served, and nothing is under way."""
    time.sleep(0.3)  # each status is a process
    [certificate] = json.loads(certagent("status", "--json", "--no-daemon", quiet=True))["certificates"]
    return certificate["verdict"] == "well" and [one["id"] for one in certificate["served"]] == [generation]


class Daemon:
    """`certagent run` in the background; its log is shown where it tells something."""

    def __init__(self, log: Path) -> None:
        self._log = log
        say("\n$ certagent run &")
        with log.open("wb") as file:
            self._process = subprocess.Popen([*CERTAGENT, "run"], stdin=subprocess.DEVNULL, stdout=file, stderr=file)
        self._shown = 0
        until(lambda: "event=wait" in self._text(), 20, "the daemon has looked after its certificate once")
        self.show()

    def _text(self) -> str:
        if self._process.poll() is not None:
            raise Failure(f"the daemon ended with {self._process.returncode}:\n{self._log.read_text()}")
        return self._log.read_text()

    def show(self) -> None:
        """Prints what it logged since."""
        text = self._text()
        last, more = "", 0
        for line in text[self._shown :].splitlines():
            one = re.sub(r" took=\S+", "", line)
            more = more + 1 if one == last else 0
            if more == 0:
                say(f"  daemon: {line}")
            elif more == 1:
                say("  daemon: … and again each second: what is seen is what was seen before, so nothing is journaled")
            last = one
        self._shown = len(text)

    def stop(self) -> None:
        """Asks it to end, as systemd would."""
        self.show()
        self._process.send_signal(signal.SIGTERM)
        code = self._process.wait(20)
        say(f"SIGTERM: the daemon has ended with exit code {code}")
        if code != 0:
            raise Failure(f"the daemon ended with exit code {code}")


def show_roll(entries: list[dict[str, Any]]) -> None:
    """The timeline of what happened, from the journal."""
    started = issued = _at(entries[0])
    for entry in entries:
        kind, at = entry["event"], _at(entry)
        if kind == "Issued":
            issued = at
        if kind in TOLD:
            late = f", {(at - issued).total_seconds():.1f} s after it was issued" if kind == "Installed" else ""
            say(f"  +{(at - started).total_seconds():6.2f} s  {kind:<11}  {_words(entry)}{late}")


def _at(entry: Mapping[str, Any]) -> datetime:
    return datetime.fromisoformat(entry["at"])


def _words(event: Mapping[str, Any]) -> str:
    if event["event"] == "Verified":
        everywhere = ", ".join(one["where"] for one in event["served"])
        return f"{event['generation']} at {everywhere}{', and nothing else' if event.get('drained') else ''}"
    return event["what"]


def judge(mailed: Mailed, prober: Prober, published: float) -> None:
    """Prints the counts; Failure where the promise was not kept."""
    late = [failure for failure in prober.failures if failure.time >= published]
    early = prober.no_record - sum(failure.kind == "no record" for failure in late)
    say("\n== The count")
    say(f"mails of the dane-only Postfix: {mailed.sent} sent, {mailed.deferred} deferred, {mailed.bounced} bounced")
    say(
        f"DANE handshakes compared with DNS: {prober.match} matched, {prober.mismatch} mismatched"
        f" (and {early} times, before the first publication, there was no record, as it must be)"
    )
    for trouble in mailed.troubles:
        say(f"  {trouble.status}: {trouble.dsn} {trouble.detail}")
    for failure in late:
        say(f"  {failure.kind}: {failure.detail}")
    if mailed.deferred or mailed.bounced or prober.mismatch or late:
        raise Failure("a DANE sender noticed the change of keys")
    if not mailed.sent or not prober.match:
        raise Failure("nobody watched")


def show(lab: Lab, directory: Path) -> None:
    """The demonstration."""
    say("== 1. What would be done: a rehearsal that goes the whole way and changes nothing")
    certagent("renew", "--dry-run")

    say("\n== 2. First issue and first publication: serve, prove, then publish")
    with Prober() as prober:
        certagent("renew", "--wait")
        until(lambda: prober.match, 15, "the resolver gives the records, and what is served matches them")
        published = time.time()
        say("\nThe records are in DNS and match. From now on the dane-only Postfix mails without a pause.")
        with Mailer(lab.sender) as mailer:
            say("\n== 3. The daemon looks after the certificate")
            daemon = Daemon(directory / "daemon.log")

            say("\n== 4. A new certificate with a new key: the standby key is in every cache already, so nothing waits")
            before = history(0)[-1]["seq"]
            certagent("renew", "--force", "--wait")
            until(lambda: rolled("g2"), 60, "the old key is gone from DNS and disk")
            daemon.show()
            say("What happened:")
            show_roll(history(before))

            say("\n== 5. And another at once: the next key is too young now, and the daemon waits for caches")
            before = history(0)[-1]["seq"]
            certagent("renew", "--force")
            certagent("plan")
            say("\nThe daemon goes on by itself …")
            until(lambda: rolled("g3"), 90, "the daemon ends the roll")
            daemon.show()
            say("What happened:")
            show_roll(history(before))

            say("\n== 6. How it stands")
            certagent("status", "--no-daemon")
            certagent("check")
            daemon.stop()
            mailed = mailer.stop()
        prober.stop()
    judge(mailed, prober, published)


def main() -> int:
    """The exit code."""
    if not namespace.inside():
        print("this starts real servers: run it with `make demo`", file=sys.stderr)
        return 2
    signal.signal(signal.SIGALRM, _too_long)
    signal.alarm(LIMIT_S)
    directory = namespace.directory()
    began = time.monotonic()
    try:
        with Lab(ttl=TTL_S) as lab:
            say(
                f"Pebble (a CA), BIND (signing primary, secondary, a private root), unbound and two Postfix are up"
                f" after {time.monotonic() - began:.1f} s.\n"
                f"{NAME} has no certificate and no TLSA record. All TTLs: {TTL_S} s.\n"
            )
            config = directory / "config.yaml"
            config.write_text(
                CONFIG.format(
                    directory=directory,
                    acme=lab.pebble.directory,
                    acme_ca=lab.pebble.https_ca,
                    resolver=RESOLVER,
                    primary=PRIMARY,
                    zone=ZONE,
                    key_file=lab.dns.keyfile("dane-key"),
                    name=NAME,
                    ttl=TTL_S,
                    config_dir=lab.mx1.config_dir,
                    chain_file=lab.chain_file,
                )
            )
            os.environ["CERTAGENT_CONFIG"] = str(config)
            show(lab, directory)
    except (Failure, TimeoutError) as error:
        say(f"\ndemo: FAILED: {error}")
        return 1
    say(f"\ndemo: done in {time.monotonic() - began:.0f} s; three keys, one after the other, and no sender noticed")
    return 0


def _too_long(_number: int, _frame: object) -> None:
    raise TimeoutError(f"not within {LIMIT_S} s: the demonstration")


if __name__ == "__main__":
    sys.exit(main())
