"""The real Postfix with tls_server_sni_maps: who asks for a name meets what was installed for it."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from certagent.errors import Error, Misconfigured, Transient
from certagent.mta.postfix import snimap
from certagent.mta.postfix.postconf import Instance
from certagent.mta.postfix.server import Options, Postfix, Sni
from tests.e2e.postfixes import EC, HOST, do_as_told, met, private, served, told
from tests.lab.postfix import Receiver
from tests.lab.wait import until
from tests.mta import chains

BELOW = ".a.example"
MAIL = "mail.b.example"
BY_A = (HOST, "imap.a.example", None)  # a name that nobody has gets what is served without a name
OLD_A, NEW_A = chains.make(name=HOST), chains.make(name=HOST)
OLD_B, NEW_B = chains.make(name=MAIL), chains.make(name=MAIL)
SOURCE = "# the operator's own\nother.example {file}\n   # about it\n  {file}.second\n\n"


@pytest.fixture
def tls(place: Path) -> Path:
    """The directory of the files, with the old ones and two of the operator's."""
    directory = place / "tls"
    directory.mkdir(mode=0o755)
    private(directory / "a.pem", OLD_A.pem)
    private(directory / "other.pem", chains.make().pem)
    private(directory / "other.pem.second", chains.make("rsa-2048").pem)
    return directory


@pytest.fixture
def receiver(place: Path, tls: Path) -> Iterator[Receiver]:
    receiver = Receiver(place / "mx1", chain_files=[tls / "a.pem"])
    receiver.start()
    yield receiver
    receiver.stop()


def entries(receiver: Receiver, tls: Path, kind: str = "hash") -> tuple[Postfix, Postfix]:
    """Two entries that share a map: one whose certificate is the default as well, one only for its name."""
    config_dir, source = str(receiver.config_dir), str(tls / "sni")
    a = Options({"ecdsa": str(tls / "a.pem")}, config_dir, sni=Sni(source, (HOST, BELOW), kind))
    b = Options({"ecdsa": str(tls / "b.pem")}, config_dir, sni=Sni(source, (MAIL,), kind, only=True))
    return Postfix("a", a), Postfix("b", b)


def install(postfix: Postfix, chain: chains.Chain) -> None:
    postfix.install({"ecdsa-p256": chain.credential})


def kept(postfix: Postfix) -> dict[str, bytes]:
    """The content of its files."""
    return {path: content.reveal() for path, content in postfix.saved().items()}


def set_up(receiver: Receiver, tls: Path, kind: str = "hash") -> tuple[Postfix, Postfix]:
    """Both entries with their old certificates, served."""
    a, b = entries(receiver, tls, kind)
    with pytest.raises(Misconfigured, match=f"does not name {kind}:{tls}/sni, which is installed") as caught:
        install(a, OLD_A)
    do_as_told(caught.value.hint)
    install(a, OLD_A)
    install(b, OLD_B)
    a.reload()
    until(lambda: served(BY_A, OLD_A) and served([MAIL], OLD_B), 5, "what was installed")
    return a, b


@pytest.mark.parametrize("kind", ["hash", "lmdb", "texthash"])
def test_each_name_meets_its_own_and_a_roll_of_one_leaves_the_other(receiver: Receiver, tls: Path, kind: str) -> None:
    instance = Instance("postfix", str(receiver.config_dir))
    if kind not in instance.postconf("-m").split():
        pytest.skip(f"needs postfix-{kind}")
    private(tls / "sni", SOURCE.format(file=tls / "other.pem").encode())
    a, b = set_up(receiver, tls, kind)
    for postfix in (a, b):
        postfix.check(EC)
        postfix.check(EC)
    assert b.advice(EC) == ()
    install(a, NEW_A)
    a.reload()
    until(lambda: served(BY_A, NEW_A) and served([MAIL], OLD_B), 5, "one new, one old")
    install(b, NEW_B)
    b.reload()
    until(lambda: served(BY_A, NEW_A) and served([MAIL], NEW_B), 5, "both new")
    assert a.installed() == {"ecdsa-p256": NEW_A.der}
    assert b.installed() == {"ecdsa-p256": NEW_B.der}
    ours = f"{HOST} {tls}/a.pem\n{BELOW} {tls}/a.pem\n{MAIL} {tls}/b.pem\n"
    assert (tls / "sni").read_text() == SOURCE.format(file=tls / "other.pem") + ours
    assert isinstance(met("other.example"), bytes)
    names = {path.name: path.stat().st_mode & 0o777 for path in tls.iterdir()}
    table = {"hash": {"sni.db"}, "lmdb": {"sni.lmdb"}, "texthash": set[str]()}[kind]
    ours_and_theirs = {"a.pem", "b.pem", "other.pem", "other.pem.second", "sni", ".sni.lock", *table}
    assert names == dict.fromkeys(ours_and_theirs, 0o600)


def test_without_a_reload_new_clients_meet_the_new_table(receiver: Receiver, tls: Path) -> None:
    """An smtpd whose table was replaced ends itself at its next client, who then meets another one."""
    a, _ = set_up(receiver, tls)
    install(a, NEW_A)
    until(lambda: served([HOST], NEW_A), 5, "the new key")


def test_files_and_table_are_put_back(receiver: Receiver, tls: Path) -> None:
    a, b = set_up(receiver, tls)
    saved, before = a.saved(), (tls / "sni").read_bytes()
    install(a, NEW_A)
    install(b, NEW_B)
    a.restore(saved)
    assert (tls / "sni").read_bytes() == before
    assert a.installed() == {"ecdsa-p256": OLD_A.der}
    assert b.installed() == {"ecdsa-p256": NEW_B.der}
    a.reload()
    until(lambda: served(BY_A, OLD_A) and served([MAIL], NEW_B), 5, "one put back, the other new")


def test_putting_back_the_first_installation_takes_away_only_what_it_brought(receiver: Receiver, tls: Path) -> None:
    a, b = entries(receiver, tls)
    nothing_of_a, nothing_of_b = a.saved(), b.saved()
    with pytest.raises(Misconfigured, match="does not name"):
        install(a, OLD_A)
    with pytest.raises(Misconfigured, match="does not name"):
        install(b, OLD_B)
    a.restore(nothing_of_a)
    assert (tls / "sni").read_text() == f"{MAIL} {tls}/b.pem\n"
    b.restore(nothing_of_b)
    assert sorted(path.name for path in tls.iterdir()) == [
        ".sni.lock",
        "a.pem",
        "other.pem",
        "other.pem.second",
    ]


def test_a_line_of_others_that_would_be_left_out_stops_it_and_the_old_table_serves(
    receiver: Receiver, tls: Path
) -> None:
    """postmap itself leaves such a line out, ends with success, and its clients would meet another certificate."""
    a, _ = set_up(receiver, tls)
    saved = kept(a)
    (tls / "b.pem").rename(tls / "away.pem")
    with pytest.raises(Misconfigured, match=r"line 3: open .*/b.pem: No such file or directory.* \[mta\.config\]") as e:
        install(a, NEW_A)
    assert f"{tls}/sni, line 3" in e.value.detail
    assert "PRIVATE KEY" not in f"{e.value.detail}{e.value.hint}{e.value.__cause__}"
    assert a.installed() == {"ecdsa-p256": OLD_A.der}
    assert kept(a) == saved
    a.reload()
    until(lambda: served([None, *BY_A], OLD_A) and served([MAIL], OLD_B), 5, "all as before")


def test_a_postmap_that_fails_leaves_all_as_it_was(receiver: Receiver, tls: Path) -> None:
    a, _ = set_up(receiver, tls)
    saved, table = kept(a), (tls / "sni.db").read_bytes()
    sound = (receiver.config_dir / "main.cf").read_text()
    receiver.configure("main.cf", sound + "\n=x broken\n")
    with pytest.raises(Misconfigured, match=rf"no table can be made of {tls}/sni: .* \[mta\.config\]") as caught:
        install(a, NEW_A)
    assert "PRIVATE KEY" not in f"{caught.value.detail}{caught.value.hint}"
    assert (tls / "sni.db").read_bytes() == table
    receiver.configure("main.cf", sound)
    assert kept(a) == saved
    a.reload()
    until(lambda: served(BY_A, OLD_A) and served([MAIL], OLD_B), 5, "all as before")


def test_a_disk_that_is_full_at_the_table_leaves_the_old_one(receiver: Receiver, tls: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=60k,mode=755", "small", tls], check=True)
    try:
        private(tls / "a.pem", OLD_A.pem)
        a, _ = entries(receiver, tls)
        with pytest.raises(Misconfigured) as caught:
            install(a, OLD_A)
        do_as_told(caught.value.hint)
        (tls / "ballast").write_bytes(b"x" * (5 * 4096))
        with pytest.raises(Transient, match=r"No space left on device.* \[mta\.disk\]"):
            install(a, NEW_A)
        assert {path.name for path in tls.iterdir()} == {".sni.lock", "a.pem", "ballast", "sni", "sni.db"}
        receiver.reload()
        until(lambda: served([HOST], OLD_A), 5, "the old table")
        (tls / "ballast").unlink()
        install(a, NEW_A)
        until(lambda: served([HOST], NEW_A), 5, "the new table")
    finally:
        receiver.stop()
        subprocess.run(["umount", tls], check=True)


def killed_after(renames: int, postfix: Postfix, chain: chains.Chain) -> None:
    """An installation in another process, which SIGKILL ends right after so many renames."""
    child = os.fork()
    if not child:
        real = os.rename

        def rename(*args: Any, **more: Any) -> None:
            nonlocal renames
            if not renames:
                os.kill(os.getpid(), signal.SIGKILL)
            renames -= 1
            real(*args, **more)

        try:
            with patch.object(os, "rename", rename):
                install(postfix, chain)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


@pytest.mark.parametrize("kind", ["hash", "texthash"])
def test_killed_between_any_two_renames_every_name_is_served_and_the_next_run_completes_it(
    receiver: Receiver, tls: Path, kind: str
) -> None:
    a, b = set_up(receiver, tls, kind)
    names = {path.name for path in tls.iterdir()}
    for renames in range({"hash": 3, "texthash": 2}[kind]):
        killed_after(renames, a, NEW_A)
        assert a.installed() != {"ecdsa-p256": NEW_A.der} or kind == "texthash"
        receiver.reload()
        for name in BY_A:
            until(lambda name=name: met(name) in {OLD_A.der, NEW_A.der}, 5, "the old key or the new one")
        assert served([MAIL], OLD_B)
        install(a, NEW_A)
        receiver.reload()
        until(lambda: served(BY_A, NEW_A), 5, "the new one")
        assert {path.name for path in tls.iterdir()} == names
        install(a, OLD_A)
    assert b.installed() == {"ecdsa-p256": OLD_B.der}


def test_no_file_is_placed_while_another_edits_the_map(
    receiver: Receiver, tls: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor if the table cannot take its place: a swap is whole, or not at all."""
    a, _ = set_up(receiver, tls)
    before = kept(a)
    monkeypatch.setattr(snimap, "TIMEOUT_S", 0.1)
    with (tls / ".sni.lock").open() as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(Transient, match=r"\[lock\.busy\]"):
            install(a, NEW_A)
    assert kept(a) == before
    monkeypatch.setattr(snimap, "TIMEOUT_S", 30.0)
    rename = os.rename

    def failing(source: str, target: str, **more: Any) -> None:
        if target == "sni.db":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        rename(source, target, **more)

    with patch.object(os, "rename", failing), pytest.raises(Transient, match=r"\[mta\.disk\]"):
        install(a, NEW_A)
    assert kept(a) == before
    assert a.installed() == {"ecdsa-p256": OLD_A.der}


def test_two_certificates_that_edit_the_map_at_once_lose_nothing(receiver: Receiver, tls: Path) -> None:
    a, b = set_up(receiver, tls)
    failed: list[Error] = []

    def roll(postfix: Postfix, *all_: chains.Chain) -> None:
        try:
            for chain in all_ * 4:
                install(postfix, chain)
        except Error as error:
            failed.append(error)

    threads = [
        threading.Thread(target=roll, args=(postfix, *two))
        for postfix, two in ((a, (OLD_A, NEW_A)), (b, (OLD_B, NEW_B)))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # whoever makes the last table reads the files of both
    for postfix, chain in ((a, NEW_A), (b, NEW_B)):
        assert postfix.installed() == {"ecdsa-p256": chain.der}
    assert failed == []


def test_what_is_not_there_yet_is_reported(receiver: Receiver, tls: Path) -> None:
    a, b = entries(receiver, tls)
    a.check(EC)
    b.check(EC)
    later = told(b, f"main.cf: tls_server_sni_maps does not name hash:{tls}/sni yet", EC)
    assert later.startswith("once it is there: postconf ")
    do_as_told(later)
    assert told(a, f"hash:{tls}/sni is not there: clients that ask for a name get no TLS", EC) == ""
    install(a, OLD_A)
    private(tls / "sni", (tls / "sni").read_bytes().replace(b"a.pem", b"other.pem"))
    assert told(a, f"{HOST} leads to {tls}/other.pem; the next run changes that", EC) == ""


@pytest.mark.parametrize(("mode", "code"), [("ro,mode=755", "mta.disk"), ("mode=777", "mta.files")])
def test_a_directory_where_no_map_can_be_placed_is_reported_by_the_check(
    receiver: Receiver, place: Path, tls: Path, mode: str, code: str
) -> None:
    """Before the files of the certificate are placed, which are in another one."""
    (maps := place / "maps").mkdir(mode=0o755)
    sni = Sni(f"{maps}/sni", (HOST,))
    postfix = Postfix("a", Options({"ecdsa": f"{tls}/a.pem"}, str(receiver.config_dir), sni=sni))
    postfix.check(EC)
    subprocess.run(["mount", "-t", "tmpfs", "-o", mode, "maps", maps], check=True)
    try:
        with pytest.raises(Error) as caught:
            postfix.check(EC)
        assert (caught.value.code, str(maps) in caught.value.detail) == (code, True)
    finally:
        subprocess.run(["umount", maps], check=True)
    postfix.check(EC)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (Options(cert_files={"rsa": "/a.pem"}, sni=Sni("/sni", (HOST,))), "sni needs combined files"),
        (Options({"rsa": "/a.pem"}, sni=Sni("/sni", (HOST,), "regexp")), "sni.type regexp is not known"),
        (Options({"rsa": "/a.pem"}, sni=Sni("sni", (HOST,))), "sni.map is relative"),
        (Options({"rsa": "/a.pem"}, sni=Sni("/sni", ())), "sni.names is empty"),
        (Options({"rsa": "/a.pem"}, sni=Sni("/sni", ("*.a.example",))), "has a label"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: Options, why: str) -> None:
    with pytest.raises(Misconfigured, match=why):
        Postfix("mx1", options)


def test_a_type_that_this_postfix_lacks_is_reported(receiver: Receiver, tls: Path) -> None:
    a, _ = entries(receiver, tls, "cdb")
    if "cdb" in Instance("postfix", str(receiver.config_dir)).postconf("-m").split():
        pytest.skip("this Postfix has it")
    with pytest.raises(Misconfigured, match="it has no tables of type cdb") as caught:
        a.check(EC)
    assert "apt install postfix-cdb" in caught.value.hint
