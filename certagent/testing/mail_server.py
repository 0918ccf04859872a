"""Checks for authors of a mail server's plug-in: what passes `mail_server_suite` can be used by certagent.

    from certagent.testing import Running, mail_server_suite

    @pytest.mark.parametrize("check", mail_server_suite, ids=lambda check: check.__name__)
    def test_server(check):
        with my_daemon() as daemon:
            check(Running(MyServer("mx1", options), services=[Service("mx1.example.org", 465, "tls", ("127.0.0.1",))]))

Each check is a plain function of a running server. Its docstring is the rule, and it raises AssertionError if that is
broken. The daemon must be real and serve files that `claims` names; it may serve any certificate before the check. Each
check leaves it sound, with certificates of this suite, so that several may use one daemon. Nothing else may write into
the directories of the files meanwhile.
"""

from __future__ import annotations

import errno
import os
import shlex
import socket
import stat
import subprocess
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from functools import wraps
from pathlib import Path
from typing import Any
from unittest.mock import patch

from certagent.errors import Error, Misconfigured, Transient, Unsafe
from certagent.pki.credential import Credential
from certagent.pki.keytypes import algorithm
from certagent.secret import Secret
from certagent.testing.credentials import issued
from certagent.testing.running import (
    PROBE_S,
    Running,
    changed,
    claimed,
    credentials,
    deploy,
    files,
    leaves,
    refuses,
    unchanged,
    until_served,
)

_RELOAD_S = 60.0
"""A reload is done in seconds, a restart in ten; longer, and the command waits for somebody."""
_SYSTEMD = Path("/run/systemd/system")
"""Is there on a host that systemd runs; sd_booted(3)."""

MailServerCheck = Callable[[Running], None]
_checks: list[MailServerCheck] = []


def _check(rule: MailServerCheck) -> MailServerCheck:
    """Makes a rule a check that begins and ends with a sound server."""

    @wraps(rule)
    def check(running: Running) -> None:
        deploy(running)
        try:
            rule(running)
        finally:
            with suppress(Error, AssertionError):
                deploy(running)

    _checks.append(check)
    return check


# -- the rules ---------------------------------------------------------------------------------------------------------


@_check
def check_accepts_a_sound_configuration(running: Running) -> None:
    """`check` and `advice` raise nothing for a configuration that names the files, and change nothing."""
    with unchanged(running):
        running.server.check(frozenset(running.key_types))
        for what, _ in running.server.advice(frozenset(running.key_types)):
            assert what


@_check
def check_refuses_files_that_are_not_named(running: Running) -> None:
    """Files that the server's own settings do not name are refused with `mta.config` and a remedy: by `install` once
    they are in their places, and by `check` from then on.
    """
    other = running.unnamed
    if other is None:
        return
    refuses(Misconfigured, {"mta.config"}, lambda: other.install(credentials(running)))
    refuses(Misconfigured, {"mta.config"}, lambda: other.check(frozenset(running.key_types)))
    for claim in (one for one in other.claims() if one.written):
        Path(claim.path).unlink(missing_ok=True)


@_check
def what_is_installed_is_served_after_the_reload(running: Running) -> None:
    """A fresh handshake meets the new certificate with its issuers in their order, for each key type and service."""
    deploy(running)


@_check
def installed_says_what_is_there(running: Running) -> None:
    """`installed` gives the leaf of each key type; one whose file is gone or damaged is missing, and nothing raises."""
    new = credentials(running)
    running.server.install(new)
    assert running.server.installed() == leaves(new)
    saved = running.server.saved()
    for path in saved:
        content, mode = Path(path).read_bytes(), Path(path).stat().st_mode
        Path(path).write_bytes(b"damaged")
        assert running.server.installed().items() <= leaves(new).items()
        Path(path).unlink()
        assert running.server.installed().items() <= leaves(new).items()
        Path(path).touch(mode=stat.S_IMODE(mode))
        Path(path).write_bytes(content)
    for path in saved:
        Path(path).unlink()
    assert running.server.installed() == {}
    running.server.restore(saved)
    assert running.server.installed() == leaves(new)


@_check
def installing_again_changes_nothing_that_is_served(running: Running) -> None:
    """`install` may be repeated, as after a crash: the same is in place, and is served."""
    new = credentials(running)
    for _ in range(3):
        running.server.install(new)
        assert running.server.installed() == leaves(new)
    running.server.reload()
    until_served(running, new)


@_check
def what_does_not_fit_is_refused_and_nothing_changes(running: Running) -> None:
    """Another key, no leaf, a damaged key, leaf or issuer: `mta.pem`; no file changes, and the old ones are served."""
    old = deploy(running)
    for key_type, good in credentials(running).items():
        other = issued(key_type, running.services[0].host)
        broken = (
            Credential(other.key, good.leaf, good.issuers),
            Credential(good.key, b"", good.issuers),
            Credential(good.key, good.issuers, good.leaf),
            Credential(good.key, good.leaf[:-40], good.issuers),
            Credential(good.key, good.leaf, good.issuers[:-40]),
            Credential(Secret(good.key.reveal()[:-40]), good.leaf, good.issuers),
            Credential(Secret(b""), good.leaf, good.issuers),
        )
        for one in broken:
            new = {**credentials(running), key_type: one}
            with unchanged(running):
                refuses(Unsafe, {"mta.pem"}, lambda new=new: running.server.install(new))
    running.server.reload()
    until_served(running, old)


@_check
def restore_puts_back_what_was_saved(running: Running) -> None:
    """Every file that `saved` gave is back, byte for byte; one that was not there is removed; the old is served."""
    old = deploy(running)
    saved = running.server.saved()
    running.server.install(credentials(running))
    running.server.restore(saved)
    again = running.server.saved()
    assert {p: c.reveal() for p, c in again.items()} == {p: c.reveal() for p, c in saved.items()}
    assert running.server.installed() == leaves(old)
    running.server.reload()
    until_served(running, old)
    running.server.restore({})
    assert running.server.saved() == {}
    running.server.restore(saved)


@_check
def the_claimed_files_are_those_that_change(running: Running) -> None:
    """Two installations replace every file that `claims` names, and no other beside them; nothing is left behind."""
    before = files(running)
    replaced: set[str] = set()
    for _ in range(2):
        running.server.install(credentials(running))
        replaced |= changed(before, files(running))
    assert replaced == claimed(running), f"replaced {sorted(replaced)}, claimed {sorted(claimed(running))}"


@_check
def a_key_is_never_open_to_others(running: Running) -> None:
    """No new file can be read by others from the moment it is made, whatever the umask; at the end at most a group may
    read what holds a key.
    """
    made: list[str] = []
    before, real = files(running), os.open

    def watched(path: Any, flags: int, mode: int = 0o777, **more: Any) -> int:
        fd = real(path, flags, mode, **more)
        if flags & os.O_CREAT and os.fstat(fd).st_mode & 0o077:
            made.append(str(path))
        return fd

    umask = os.umask(0)
    try:
        with patch.object(os, "open", watched):
            running.server.install(credentials(running))
    finally:
        os.umask(umask)
    assert not made, f"made open to others: {made}"
    after = files(running)
    for path in changed(before, after):
        kept = after[path]
        assert b"PRIVATE KEY" not in kept.content or not kept.mode & 0o137, f"{path}: {kept.mode:o}"


@_check
def a_full_disk_leaves_the_old_files(running: Running) -> None:
    """When a file cannot be written, or the first cannot take its place, `mta.disk` is raised; no file has changed."""
    old = deploy(running)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for name in ("fsync", "rename"):
        with unchanged(running), patch.object(os, name, full), patch.object(os, "replace", full):
            refuses(Transient, {"mta.disk"}, lambda: running.server.install(credentials(running)))
    assert running.server.installed() == leaves(old)
    running.server.reload()
    until_served(running, old)


@_check
def the_reload_command_does_it_too(running: Running) -> None:
    """An operator who types `reload_command` has the new files served.

    If it is of systemd, and systemd does not run here, the check is skipped.
    """
    command = running.server.reload_command
    assert command
    if shlex.split(command)[0] == "systemctl" and not _SYSTEMD.is_dir():
        import pytest  # an author's tests have it; who only reads the suite need not

        pytest.skip(f"systemd does not run here, so {command} cannot be tried")
    new = credentials(running)
    running.server.install(new)
    done = subprocess.run(
        ["/bin/sh", "-c", command],
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_RELOAD_S,
    )
    assert done.returncode == 0, f"{command}: {done.stderr}"
    until_served(running, new)


@_check
def it_can_what_it_says(running: Running) -> None:
    """`capabilities` are true: both key types are served or refused together; each name of SNI has its certificate; a
    file with a key has the certificate or not; no connection is refused during a reload that keeps the ports.
    """
    can = running.server.capabilities
    algorithms = set(map(algorithm, running.key_types))
    assert can.both_key_types is not True or algorithms == {"ecdsa", "rsa"}, "the test configures one algorithm"
    if can.both_key_types is False:
        both = frozenset({"ecdsa-p256", "rsa-2048"})
        refuses(Misconfigured, {"mta.config"}, lambda: running.server.check(both))
    holding = [kept.content for path, kept in files(running).items() if path in claimed(running)]
    alone = [c for c in holding if b"PRIVATE KEY" in c and b"CERTIFICATE" not in c]
    assert can.one_step == (not alone), f"{len(alone)} files hold a key alone"
    assert can.sni is not False or not running.by_name, "it serves a second name all the same"
    if running.by_name:
        other, _ = deploy(running.by_name), deploy(running)
        until_served(running.by_name, other)
    if can.keeps_ports:
        with _connecting(running) as refused:
            for _ in range(3):
                deploy(running)
        assert not refused, f"{len(refused)} connections failed: {refused[0]}"


@contextmanager
def _connecting(running: Running) -> Generator[list[OSError]]:
    """New connections to every service without a pause; those that were refused."""
    refused: list[OSError] = []
    ended = threading.Event()

    def connect() -> None:
        while not ended.is_set():
            for service in running.services:
                try:
                    socket.create_connection((service.addresses[0], service.port), timeout=PROBE_S).close()
                except OSError as error:
                    refused.append(error)
                ended.wait(0.01)

    thread = threading.Thread(target=connect)
    thread.start()
    try:
        yield refused
    finally:
        ended.set()
        thread.join()


mail_server_suite: tuple[MailServerCheck, ...] = tuple(_checks)
"""Every check, for `pytest.mark.parametrize`."""
