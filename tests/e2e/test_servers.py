"""The main job on every kind of mail server: a first certificate, then a roll of every key, under new connections.

`make servers` prints the figures. A handshake that a server began never fails, and nobody ever meets a wrong key or
chain: with STARTTLS and with TLS at once, in TLS 1.2 and 1.3. What OpenSMTPD, Sendmail and Exim at SIGHUP cannot do
without, to close their ports for a moment, is counted and timed apart.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

import pytest

from tests.e2e import servers
from tests.lab import dovecot, exim, opensmtpd
from tests.lab.dns import Dns
from tests.lab.load import Door
from tests.lab.pebble import Pebble
from tests.lab.wait import until

Start = Callable[[Path], AbstractContextManager[servers.Host]]


def rolls(who: str, start: Start, place: Path, dns: Dns, pebble: Pebble) -> None:
    with start(place) as host:
        site = servers.Site(place, host, dns, pebble)
        try:
            site.run("renew", "--wait", code=None)
            host.after_first()
            site.run("renew", "--wait")
            with servers.Clients(host, pebble.root()) as clients:
                site.run("renew", "--rotate", "--wait")
            swaps = site.swaps()
            print(f"\n{clients.report(who, swaps)}")
            told = "\n".join(clients.troubles[:20])
            cut = clients.counts["failed handshake"] + (0 if host.closes else clients.counts["port closed"])
            assert cut == 0, told
            assert clients.counts["wrong or incomplete chain"] == 0, told
            assert clients.counts["TLSA mismatch"] == 0, told
            assert set(clients.counts) <= {"good", "port closed", "failed handshake"}, told
            assert {len(keys) for keys in clients.keys.values()} == {2}, "every key was met before and after, each way"
            assert len({key for keys in clients.keys.values() for key in keys}) == 2 * len(host.keys())
            assert clients.counts["good"] > 100
            assert clients.within(swaps) > 20
        finally:
            site.close()


def skip_without(why: str) -> None:
    """Where the server is not to be had here."""
    if why:
        pytest.skip(why)


class TestDoor:
    """What the clients count by."""

    @pytest.mark.parametrize("taken", [False, True])
    def test_only_a_connection_that_no_process_took_has_met_a_closed_port(self, taken: bool) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            door = Door(*server.getsockname())
            door.look()
            began = time.monotonic()
            with socket.create_connection(server.getsockname()) as client:
                client.sendall(b"what is never read")
                if taken:
                    server.accept()[0].close()
                else:
                    server.close()
                with pytest.raises(ConnectionResetError):
                    client.recv(1)
                assert door.untaken(client, began) is not taken


class TestPostfix:
    def test_two_names_and_both_key_types_roll_under_load(self, place: Path, lab_dns: Dns, pebble: Pebble) -> None:
        rolls("Postfix", servers.postfix, place, lab_dns, pebble)


class TestExim:
    def test_both_key_types_roll_under_load_by_sighup(self, place: Path, lab_dns: Dns, pebble: Pebble) -> None:
        rolls("Exim by SIGHUP", servers.exim_by_signal, place, lab_dns, pebble)

    @pytest.mark.parametrize("build", exim.BUILDS)
    def test_two_names_and_both_key_types_roll_under_load(
        self, place: Path, lab_dns: Dns, pebble: Pebble, build: str
    ) -> None:
        skip_without(exim.missing(build))
        rolls(f"Exim with {build}", partial(servers.exim, build=build), place, lab_dns, pebble)


class TestDovecot:
    @pytest.mark.parametrize("version", dovecot.VERSIONS)
    def test_two_names_and_both_key_types_roll_under_load(
        self, place: Path, lab_dns: Dns, pebble: Pebble, version: str
    ) -> None:
        skip_without(dovecot.missing(version))
        rolls(f"Dovecot {version}", partial(servers.dovecot, version=version), place, lab_dns, pebble)


class TestOpenSmtpd:
    def test_two_names_with_a_key_type_each_roll_under_load(self, place: Path, lab_dns: Dns, pebble: Pebble) -> None:
        skip_without(opensmtpd.missing())
        rolls("OpenSMTPD", servers.open_smtpd, place, lab_dns, pebble)

    def test_killed_in_the_pause_with_all_it_started_it_makes_the_restart_when_it_runs_again(
        self, place: Path, lab_dns: Dns, pebble: Pebble
    ) -> None:
        skip_without(opensmtpd.missing())
        with servers.open_smtpd(place) as host:
            for section in host.sections.values():
                section["pause"] = "20s"
            site = servers.Site(place, host, lab_dns, pebble)
            try:
                site.run("renew", "--wait")
                with opensmtpd.session() as client, site.start("renew", "--rotate", "--wait") as certagent:
                    until(opensmtpd.paused, 20, "it is paused")
                    certagent.send_signal(signal.SIGSTOP)  # or it would see that the other is gone
                    until(lambda: os.waitid(os.P_PID, certagent.pid, os.WSTOPPED | os.WNOHANG), 5, "it stops")
                    for pid in [*children(certagent.pid), certagent.pid]:
                        os.kill(pid, signal.SIGKILL)
                    certagent.wait()
                    assert opensmtpd.asked(client, "NOOP").startswith("250 ")
                assert opensmtpd.paused()
                site.run("renew", "--wait")
                assert not opensmtpd.paused()
                with opensmtpd.session():
                    pass
            finally:
                site.close()


def children(pid: int) -> list[int]:
    """Of a process, whichever of its threads began them."""
    return [int(child) for path in Path(f"/proc/{pid}/task").glob("*/children") for child in path.read_text().split()]


class TestSendmail:
    def test_both_key_types_roll_under_load(self, place: Path, lab_dns: Dns, pebble: Pebble) -> None:
        rolls("Sendmail", servers.send_mail, place, lab_dns, pebble)


class TestToy:
    def test_one_file_and_an_entry_point_are_all_that_a_server_needs(
        self, place: Path, lab_dns: Dns, pebble: Pebble
    ) -> None:
        """A kind that certagent does not ship gets its first certificate, and rolls under load like all others."""
        rolls("the toy of a test", servers.a_toy, place, lab_dns, pebble)
