"""Services of declared commands, on a real one: HAProxy before a mail server, or as an appliance of PKCS#12 files."""

from __future__ import annotations

import contextlib
import re
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import cast

import pytest
from msgspec.structs import replace

from certagent.agent.act import serving
from certagent.agent.edges import Edges
from certagent.checks import served
from certagent.errors import Misconfigured, Transient, Unsafe
from certagent.facts.tls import Served, Service
from certagent.facts.unknown import Unknown
from certagent.host import mounts
from certagent.lifecycle import steps as st
from certagent.lifecycle.events import Failed
from certagent.lifecycle.spec import MailServer
from certagent.lifecycle.state import Generation, Installation, State
from certagent.mta.command import Command, Options
from certagent.mta.files import Files
from certagent.mta.server import written
from certagent.pki.bundle import facts
from certagent.probe import handshake
from docs.draw import SPEC, START
from tests.e2e.site import fill, tmpfs
from tests.lab.addresses import MX2, ZONE
from tests.lab.container import alone
from tests.lab.wait import until
from tests.mta import chains

HOST = f"mx2.{ZONE}"
SERVICE = Service(HOST, 465, "tls")
BOTH = ("ecdsa-p256", "rsa-2048")

OLD, OLD_RSA = chains.make(name=HOST), chains.make("rsa-2048", HOST)
NEW, NEW_RSA = chains.make(name=HOST), chains.make("rsa-2048", HOST)
OLDS = {"ecdsa-p256": OLD.credential, "rsa-2048": OLD_RSA.credential}
NEWS = {"ecdsa-p256": NEW.credential, "rsa-2048": NEW_RSA.credential}


def met() -> list[Served]:
    return handshake.probe_all([SERVICE], lambda _: (MX2,), BOTH, 5)


def keys() -> set[str]:
    """What is served: the keys, or why none was seen."""
    return {one.chain.why if isinstance(one.chain, Unknown) else one.chain.spki for one in met()}


class HaProxy:
    """One that ends TLS at port 465, with a certificate of each kind; the files are `tls`/KIND.pem with `extra`."""

    def __init__(self, place: Path, *, split: bool = False) -> None:
        self.tls, self.config, self.pid = place / "tls", place / "haproxy.cfg", place / "haproxy.pid"
        self.tls.mkdir(mode=0o755)
        crts = " ".join(f"crt {self.tls}/{kind}.pem" for kind in ("ecdsa", "rsa"))
        self.text = f"""
global
  stats socket {place}/socket mode 600 level admin expose-fd listeners
  ssl-load-extra-files key
defaults
  mode tcp
  retries 0
  timeout connect 1s
  timeout client 5s
  timeout server 5s
frontend submissions
  bind {MX2}:465 ssl {crts}
  default_backend mail
backend mail
  server mail 127.0.0.1:9
"""
        self.config.write_text(self.text)
        self.master = place / "master"
        self.start: tuple[str, ...] = (
            *("/usr/sbin/haproxy", "-D", "-W", "-f", str(self.config)),
            *("-p", str(self.pid), "-S", str(self.master)),
        )
        files: dict[str, str | Files] = {}
        for kind in ("ecdsa", "rsa"):
            path = f"{self.tls}/{kind}.pem"
            files[kind] = Files(fullchain=path, key=f"{path}.key") if split else path
        self.options = Options(
            files=files,
            check=("/usr/sbin/haproxy", "-c", "-q", "-f", str(self.config)),
            reload=("/usr/bin/pkill", "-USR2", "-F", str(self.pid)),  # the one process whose number is in the file
            restart=self.start,
            timeout="10s",
        )
        self.command = Command("mx2", self.options)

    def run(self) -> None:
        self.command.install(OLDS)
        self.command.check(frozenset(BOTH))
        self.go()

    def go(self) -> None:
        subprocess.run(self.start, check=True, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until(self.answers, 5, "haproxy's master answers")
        until(lambda: keys() == {OLD.spki, OLD_RSA.spki}, 5, "the old keys are served")

    def workers(self) -> set[str]:
        """Those of the master; none while it executes itself anew, and its file is written."""
        try:
            pid = self.pid.read_text().strip()
        except FileNotFoundError:
            return set()
        return set(subprocess.run(["pgrep", "-P", pid], capture_output=True, check=False, text=True).stdout.split())

    def answers(self) -> bool:
        """Whether the master does; a reload before that would be lost, with success."""
        with socket.socket(socket.AF_UNIX) as master, contextlib.suppress(OSError):
            master.settimeout(2)
            master.connect(str(self.master))
            master.sendall(b"show proc\n")
            return b"# workers" in master.recv(4096)
        return False

    def stop(self) -> None:
        """Ends it with its workers, and waits."""
        done = subprocess.run(["pkill", "-TERM", "-F", self.pid], check=False, capture_output=True)
        if done.returncode == 0:
            until(lambda: keys() == {"Connection refused"}, 10, "haproxy ends")
        self.pid.unlink(missing_ok=True)


@pytest.fixture
def haproxy(place: Path) -> Iterator[HaProxy]:
    haproxy = HaProxy(place)
    haproxy.run()
    yield haproxy
    haproxy.stop()


@pytest.fixture
def container(place: Path) -> Iterator[HaProxy]:
    """One that has each of its files as a mount of its own, as many guides for containers have it."""
    haproxy = HaProxy(place)
    haproxy.start = (*alone(*written(haproxy.command)), *haproxy.start)
    haproxy.run()
    yield haproxy
    haproxy.stop()


def old_keys_stay(haproxy: HaProxy) -> None:
    """Also when all files have been read anew."""
    before = haproxy.workers()
    haproxy.command.reload()
    until(lambda: (now := haproxy.workers()) and now.isdisjoint(before), 5, "new workers, and only they")
    assert keys() == {OLD.spki, OLD_RSA.spki}


class TestHaProxy:
    def test_a_roll_of_both_keys_under_load_fails_no_handshake(
        self, haproxy: HaProxy, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """At least 50 new connections a second, each with a complete chain of the old keys or the new ones."""
        good = {chain.spki: (chain.issuer_spki,) for chain in (OLD, OLD_RSA, NEW, NEW_RSA)}
        stop, seen = Event(), list[Served]()

        def connect(key_type: str) -> None:
            due = time.monotonic()
            while not stop.is_set():
                seen.append(handshake.probe(SERVICE, MX2, key_type, 5))
                due = max(due + 1 / 20, time.monotonic())
                stop.wait(due - time.monotonic())

        with ThreadPoolExecutor(4) as pool:
            began = time.monotonic()
            running = [pool.submit(connect, key_type) for key_type in BOTH * 2]
            try:
                until(lambda: len(seen) >= 50, 10, "connections before the swap")
                haproxy.command.check(frozenset(BOTH))
                haproxy.command.install(NEWS)
                haproxy.command.reload()
                until(lambda: keys() == {NEW.spki, NEW_RSA.spki}, 10, "the new keys are served")
                done = len(seen)
                until(lambda: len(seen) >= done + 50, 10, "connections after the swap")
            finally:
                stop.set()
            for one in running:
                one.result()
            rate = len(seen) / (time.monotonic() - began)
        failed = [one.chain.why for one in seen if isinstance(one.chain, Unknown)]
        wrong = [
            one for one in seen if not isinstance(one.chain, Unknown) and good.get(one.chain.spki) != one.chain.issuers
        ]
        with capsys.disabled():
            print(f"\nhaproxy: {len(seen)} handshakes, {rate:.0f}/s, {len(failed)} failed, {len(wrong)} wrong chains")
        assert (failed, wrong) == ([], [])
        assert {one.chain.spki for one in seen if not isinstance(one.chain, Unknown)} == set(good)
        assert haproxy.command.installed() == {"ecdsa-p256": NEW.der, "rsa-2048": NEW_RSA.der}

    def test_what_was_saved_is_served_again_after_a_restore(self, haproxy: HaProxy) -> None:
        saved = haproxy.command.saved()
        haproxy.command.install(NEWS)
        haproxy.command.restore(saved)
        old_keys_stay(haproxy)

    def test_a_bad_configuration_is_reported_before_the_swap(self, haproxy: HaProxy) -> None:
        haproxy.config.write_text(haproxy.text + "nonsense\n")
        with pytest.raises(Misconfigured, match=r"service mx2: its check fails: .*\[mta\.config\]") as caught:
            haproxy.command.check(frozenset(BOTH))
        assert caught.value.hint == f"run: /usr/sbin/haproxy -c -q -f {haproxy.config}"
        haproxy.config.write_text(haproxy.text)
        haproxy.command.check(frozenset(BOTH))

    def test_one_that_is_down_is_reported_and_restarted_only_where_the_config_says_how(self, haproxy: HaProxy) -> None:
        haproxy.stop()
        options = haproxy.options
        no_restart = Options(files=options.files, check=options.check, reload=options.reload)
        with pytest.raises(Transient, match=r"service mx2: reload fails: .*\[mta\.reload\]"):
            Command("mx2", no_restart).reload()
        haproxy.command.install(NEWS)
        haproxy.command.reload()
        until(lambda: keys() == {NEW.spki, NEW_RSA.spki}, 5, "it runs again")

    def test_one_that_could_not_start_again_is_not_restarted(self, haproxy: HaProxy) -> None:
        """With a broken configuration: what runs goes on."""
        broken = Options(
            files=haproxy.options.files,
            check=haproxy.options.check,
            reload=("/bin/false",),
            restart=("/usr/bin/pkill", "-TERM", "-F", str(haproxy.pid)),
        )
        haproxy.config.write_text(haproxy.text + "nonsense\n")
        with pytest.raises(Transient, match="reload fails"):
            Command("mx2", broken).reload()
        assert keys() == {OLD.spki, OLD_RSA.spki}

    @pytest.mark.parametrize("leave", [0, 4096])
    def test_a_disk_that_is_full_at_the_first_or_second_file_leaves_both(self, place: Path, leave: int) -> None:
        haproxy = HaProxy(place)
        with tmpfs(haproxy.tls, "64k"):
            try:
                haproxy.run()
                before = {path.name: (path.stat().st_ino, path.read_bytes()) for path in haproxy.tls.iterdir()}
                ballast = fill(haproxy.tls, leave)
                with pytest.raises(Transient, match=r"No space left on device \[mta\.disk\]"):
                    haproxy.command.install(NEWS)
                ballast.unlink()
                assert {p.name: (p.stat().st_ino, p.read_bytes()) for p in haproxy.tls.iterdir()} == before
                old_keys_stay(haproxy)
                haproxy.command.install(NEWS)
                haproxy.command.reload()
                until(lambda: keys() == {NEW.spki, NEW_RSA.spki}, 5, "the new keys are served")
            finally:
                haproxy.stop()

    def test_a_file_that_another_process_made_unreadable_or_immutable_stops_the_swap(self, haproxy: HaProxy) -> None:
        path = haproxy.tls / "rsa.pem"
        for spoil, heal in ((["chmod", "0"], None), (["chown", "mail"], None), (["chattr", "+i"], ["chattr", "-i"])):
            if subprocess.run([*spoil, path], check=False, capture_output=True).returncode != 0:
                continue  # a file system without such flags
            with pytest.raises(Misconfigured, match=rf"{path} is .*\[mta\.files\]") as caught:
                haproxy.command.install(NEWS)
            subprocess.run([*heal, path] if heal else ["sh", "-c", caught.value.hint.removeprefix("run: ")], check=True)
            old_keys_stay(haproxy)
        haproxy.command.install(NEWS)

    def test_a_broken_chain_stops_the_swap(self, haproxy: HaProxy) -> None:
        with pytest.raises(Unsafe, match=r"mta\.pem"):
            haproxy.command.install({**NEWS, "rsa-2048": chains.paired(NEW, NEW_RSA)})
        old_keys_stay(haproxy)

    def test_certificate_and_key_in_two_files(self, place: Path) -> None:
        haproxy = HaProxy(place, split=True)
        try:
            haproxy.run()
            haproxy.command.install(NEWS)
            haproxy.command.reload()
            until(lambda: keys() == {NEW.spki, NEW_RSA.spki}, 5, "the new keys are served")
            assert {one.chain.issuers for one in met() if not isinstance(one.chain, Unknown)} == {
                (NEW.issuer_spki,),
                (NEW_RSA.issuer_spki,),
            }
        finally:
            haproxy.stop()


def test_an_appliance_imports_a_bundle_and_serves_all_of_it(place: Path) -> None:
    """Its import is OpenSSL, which reads both ciphers with the password; a reload imports and serves."""
    haproxy = HaProxy(place)
    password, script = place / "password", place / "import"
    password.touch(mode=0o600)
    password.write_text("long and secret\n")
    bundles = {kind: place / f"{kind}.p12" for kind in ("ecdsa", "rsa")}
    lines = [
        f"openssl pkcs12 -in {path} -passin file:{password} -nodes -out {haproxy.tls}/{kind}.pem"
        for kind, path in bundles.items()
    ]
    script.write_text(
        "\n".join(["#!/bin/sh -e", "umask 077", *lines, f"test ! -e {haproxy.pid} || pkill -USR2 -F {haproxy.pid}"])
    )
    script.chmod(0o755)
    files: dict[str, str | Files] = {
        "ecdsa": Files(pkcs12=str(bundles["ecdsa"]), password_file=str(password)),
        "rsa": Files(pkcs12=str(bundles["rsa"]), password_file=str(password), pkcs12_cipher="TripleDES_SHA1"),
    }
    appliance = Command("appliance", Options(files=files, reload=(str(script),)))
    appliance.install(OLDS)
    appliance.reload()
    try:
        haproxy.go()
        saved = appliance.saved()
        for change, chains_served in (
            (lambda: appliance.install(NEWS), (NEW, NEW_RSA)),
            (lambda: appliance.restore(saved), (OLD, OLD_RSA)),
        ):
            change()
            appliance.reload()
            until(lambda wanted=chains_served: keys() == {chain.spki for chain in wanted}, 5, "it was imported")
            issuers = {one.chain.issuers for one in met() if not isinstance(one.chain, Unknown)}
            assert issuers == {(chain.issuer_spki,) for chain in chains_served}
    finally:
        haproxy.stop()


# -- a container that has single files ---------------------------------------------------------------------------------


class One:
    """The edges of a certificate with this server alone."""

    def __init__(self, server: Command) -> None:
        self.servers = {"mx2": server}

    def check(self, server: str, key_types: frozenset[str]) -> None:
        self.servers[server].check(key_types)

    def probe(self, *_: object, **_options: object) -> list[Served]:
        return met()


def test_the_cause_of_a_swap_that_does_not_reach_a_container_is_named(container: HaProxy) -> None:
    """`check` says so before; the verification after the swap fails, and its hint says it; what serves goes on."""
    spec = replace(SPEC, mail_servers=(MailServer("mx2", (SERVICE,)),), key_types=BOTH)
    edges = cast("Edges", One(container.command))
    said = [one for one in served.configuration("mx2", frozenset(BOTH), edges) if one.outcome == "warning"]
    assert [one.hint for one in said] == [mounts.REMEDY] * 2
    assert re.search(r"ecdsa\.pem is mounted alone for process \d+ \(haproxy\)", said[0].detail)
    container.command.install(NEWS)
    old_keys_stay(container)
    new = Generation("g1", "k1", {"ecdsa-p256": facts([NEW.der]), "rsa-2048": facts([NEW_RSA.der])}, START)
    state = State("mx2", generations=(new,), mail_servers={"mx2": Installation(generation="g1")})
    step = st.Verify(because="reloaded", server="mx2", generation="g1", drained=False)
    [failed] = [event for event in serving.verify(step, spec, state, edges) if isinstance(event, Failed)]
    assert failed.code == "mta.not_served"
    assert "which keeps the old file when it is replaced: mount the directory" in failed.hint
