"""All files of a layout take their places, or none; whoever could read the key before still can, and nobody else."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.hazmat.primitives.serialization.pkcs12 import load_pkcs12
from hypothesis import given, settings
from hypothesis import strategies as st

from certagent.errors import Error, Misconfigured, Transient, Unsafe
from certagent.host import replace
from certagent.mta.access import Access
from certagent.mta.files import Files
from certagent.mta.layout import Layout
from certagent.pki.credential import Credential
from certagent.secret import Secret
from tests.mta import chains

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away and sets attributes")

OLD, NEW, RSA = chains.make(), chains.make(), chains.make("rsa-2048")
PASSWORD = b"g\xc3\xa4nse"
SHAPES = ("combined", "fullchain", "parts", "pkcs12")


def files(place: Path, shape: str, stem: str = "ecdsa") -> Files:
    def at(suffix: str) -> str:
        return str(place / f"{stem}.{suffix}")

    match shape:
        case "combined":
            return Files(combined=at("pem"))
        case "fullchain":
            return Files(fullchain=at("fullchain"), key=at("key"))
        case "parts":
            return Files(cert=at("crt"), chain=at("ca"), key=at("key"))
        case _:
            return Files(pkcs12=at("p12"), password_file=str(place / "password"))


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory of mode 0755 with the password of PKCS#12 files."""
    with tempfile.TemporaryDirectory() as name:
        yield prepared(Path(name))


def prepared(place: Path) -> Path:
    place.chmod(0o755)
    (place / "password").touch(mode=0o600)
    (place / "password").write_bytes(PASSWORD + b"\n")
    return place


@pytest.fixture(params=SHAPES)
def layout(place: Path, request: pytest.FixtureRequest) -> Layout:
    """Of each shape, with the old chain installed."""
    return installed(place, request.param)


def installed(place: Path, shape: str, access: Access | None = None) -> Layout:
    layout = Layout("test mx1", {"ecdsa": files(place, shape)}, access)
    layout.install({"ecdsa-p256": OLD.credential})
    return layout


def snapshot(place: Path) -> dict[str, tuple[object, ...]]:
    """Every file with its inode, access and content: what must not change."""
    found: dict[str, tuple[object, ...]] = {}
    for path in sorted(place.rglob("*")):
        status = path.lstat()
        content = path.read_bytes() if stat.S_ISREG(status.st_mode) else b""
        found[path.name] = (status.st_ino, status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns, content)
    return found


def put(layout: Layout, chain: chains.Chain = NEW) -> None:
    layout.install({"ecdsa-p256": chain.credential})


def refused(layout: Layout, place: Path, match: str) -> Misconfigured:
    """`check` and `install` both say so, in the same words, and nothing is changed."""
    before = snapshot(place)
    with pytest.raises(Misconfigured, match=match) as first:
        layout.check()
    with pytest.raises(Misconfigured, match=match) as second:
        put(layout)
    assert (second.value.code, str(first.value)) == ("mta.files", str(second.value))
    assert first.value.hint
    assert snapshot(place) == before
    return second.value


def do_as_told(error: Error) -> None:
    """Runs the command of the hint, as the operator would."""
    assert error.hint.startswith("run: ")
    subprocess.run(["sh", "-c", error.hint.removeprefix("run: ")], check=True, stdin=subprocess.DEVNULL)


class TestShapes:
    @pytest.mark.parametrize(
        ("shape", "expected"),
        [
            ("combined", {"ecdsa.pem": NEW.pem}),
            ("fullchain", {"ecdsa.key": NEW.key, "ecdsa.fullchain": NEW.leaf + NEW.issuer}),
            ("parts", {"ecdsa.ca": NEW.issuer, "ecdsa.key": NEW.key, "ecdsa.crt": NEW.leaf}),
        ],
    )
    def test_each_file_holds_its_part_and_keys_are_placed_right_before_their_certificates(
        self, place: Path, shape: str, expected: dict[str, bytes]
    ) -> None:
        layout = installed(place, shape)
        put(layout)
        assert {path.name: path.read_bytes() for path in layout.paths()} == expected
        assert [path.name for path in layout.paths(["ecdsa-p256"])] == list(expected)
        assert layout.split == ("ecdsa.key" in expected)

    def test_a_bundle_opens_with_the_password_and_has_the_chain_in_order(self, place: Path) -> None:
        layout = installed(place, "pkcs12")
        # two issuers: their order can be wrong
        layout.install({"ecdsa-p256": Credential(Secret(OLD.key), OLD.leaf, OLD.issuer + NEW.issuer)})
        bundle = load_pkcs12((place / "ecdsa.p12").read_bytes(), PASSWORD)
        assert bundle.cert is not None
        chain = [bundle.cert, *bundle.additional_certs]
        assert (
            b"".join(one.certificate.public_bytes(Encoding.PEM) for one in chain) == OLD.leaf + OLD.issuer + NEW.issuer
        )
        assert not layout.split

    @pytest.mark.parametrize(
        ("cipher", "said"),
        [("AES256_SHA256", "PBES2, PBKDF2, AES-256-CBC"), ("TripleDES_SHA1", "pbeWithSHA1And3-KeyTripleDES-CBC")],
    )
    def test_openssl_reads_a_bundle_of_either_cipher(self, place: Path, cipher: str, said: str) -> None:
        one = Files(pkcs12=str(place / "b.p12"), password_file=str(place / "password"), pkcs12_cipher=cipher)  # type: ignore
        Layout("test mx1", {"ecdsa": one}).install({"ecdsa-p256": NEW.credential})
        command = ["openssl", "pkcs12", "-in", place / "b.p12", "-passin", f"file:{place}/password", "-info", "-nodes"]
        done = subprocess.run(command, capture_output=True, check=True)
        assert said in done.stderr.decode()
        assert NEW.key in done.stdout
        assert -1 < done.stdout.find(NEW.leaf) < done.stdout.find(NEW.issuer)

    def test_what_is_installed_is_reported_and_put_back_byte_for_byte(self, layout: Layout) -> None:
        layout.check()
        assert layout.installed() == {"ecdsa-p256": OLD.der}
        before = {path: path.read_bytes() for path in layout.paths()}
        saved = layout.saved()
        put(layout)
        assert layout.installed() == {"ecdsa-p256": NEW.der}
        layout.restore(saved)
        assert {path: path.read_bytes() for path in layout.paths()} == before
        layout.check()

    def test_what_was_not_there_is_removed_again(self, place: Path, layout: Layout) -> None:
        layout.restore({})
        assert [path.name for path in place.iterdir()] == ["password"]
        assert (layout.saved(), layout.installed()) == ({}, {})
        layout.restore({})
        layout.check()

    def test_both_key_types_in_shapes_of_their_own(self, place: Path) -> None:
        layout = Layout("test mx1", {"rsa": files(place, "parts", "rsa"), "ecdsa-p256": str(place / "ecdsa.pem")})
        layout.install({"rsa-2048": RSA.credential, "ecdsa-p256": NEW.credential})
        assert layout.installed() == {"rsa-2048": RSA.der, "ecdsa-p256": NEW.der}
        assert [path.name for path in layout.paths(["ecdsa-p256"])] == ["ecdsa.pem"]
        assert len(layout.paths()) == 4

    def test_keys_are_private_and_certificates_are_not_whatever_the_umask(self, place: Path) -> None:
        before = os.umask(0o077)
        try:
            layout = installed(place, "parts", Access(mode="0640"))
        finally:
            os.umask(before)
        assert {p.suffix: f"{p.stat().st_mode & 0o777:o}" for p in layout.paths()} == {
            ".ca": "644",
            ".key": "640",
            ".crt": "644",
        }

    @as_root
    def test_the_files_belong_to_the_user_and_group_of_the_config(self, place: Path) -> None:
        for access, owner in (
            (Access(owner="nobody"), ("nobody", "nogroup")),
            (Access(owner="nobody", group="mail"), ("nobody", "mail")),
            (Access(group="mail", mode="0640"), ("root", "mail")),
        ):
            layout = installed(place, "fullchain", access)
            assert {(path.owner(), path.group()) for path in layout.paths()} == {owner}
            layout.restore({})


class TestInstalled:
    """What does not fit together is not installed."""

    @pytest.mark.parametrize("shape", ["fullchain", "parts"])
    @pytest.mark.parametrize("key", [None, NEW.key, RSA.key, b"", OLD.leaf])
    def test_without_the_leafs_own_key_it_is_missing(self, place: Path, shape: str, key: bytes | None) -> None:
        layout = installed(place, shape)
        (place / "ecdsa.key").unlink()
        if key is not None:
            (place / "ecdsa.key").write_bytes(key)
        assert layout.installed() == {}

    @pytest.mark.parametrize(
        "content", [b"", b"nonsense", OLD.leaf, OLD.key, NEW.key + OLD.leaf, RSA.pem, b"x" * 2**21]
    )
    def test_a_file_of_something_else_is_missing(self, place: Path, content: bytes) -> None:
        layout = installed(place, "combined")
        (place / "ecdsa.pem").write_bytes(content)
        assert layout.installed() == {}

    def test_a_bundle_with_another_password_is_missing(self, place: Path) -> None:
        layout = installed(place, "pkcs12")
        (place / "password").write_bytes(b"other")
        assert layout.installed() == {}
        (place / "password").unlink()
        assert layout.installed() == {}


class TestNothingChanges:
    """Each refusal names the place and the remedy, and leaves every old file as it was, to the inode."""

    @pytest.mark.parametrize(
        "wrong",
        [
            b"",
            b"\xff",
            NEW.key,
            OLD.key + NEW.leaf,
            NEW.leaf + NEW.key,
            NEW.pem + RSA.pem,
            NEW.pem[:-40],
            NEW.pem[:500],
        ],
        ids=["empty", "no PEM", "no leaf", "other key", "leaf first", "two", "cut at the end", "cut"],
    )
    def test_by_a_broken_pem(self, place: Path, layout: Layout, wrong: bytes) -> None:
        before = snapshot(place)
        with pytest.raises(Unsafe, match=r"\[mta\.pem\]") as caught:
            layout.install({"ecdsa-p256": chains.text(wrong)})
        assert (str(layout.paths()[-1]) in caught.value.detail, ".new-" in caught.value.detail) == (True, False)
        assert snapshot(place) == before

    def test_by_a_broken_pem_of_the_other_kind(self, place: Path) -> None:
        layout = Layout("test mx1", {"ecdsa": files(place, "parts"), "rsa": files(place, "fullchain", "rsa")})
        layout.install({"ecdsa-p256": OLD.credential, "rsa-2048": RSA.credential})
        before = snapshot(place)
        with pytest.raises(Unsafe):
            layout.install({"ecdsa-p256": NEW.credential, "rsa-2048": chains.paired(RSA, OLD)})
        assert snapshot(place) == before

    def test_by_a_key_that_another_process_made_unreadable(self, place: Path, layout: Layout) -> None:
        key = next(path for path in layout.paths() if path.suffix in {".key", ".pem", ".p12"})
        key.chmod(0)
        error = refused(layout, place, rf"{key} is of .* with mode 00, not of .* with 0600 as configured")
        do_as_told(error)
        layout.check()
        put(layout)

    @pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
    def test_by_a_key_that_more_may_read_than_configured(self, place: Path, layout: Layout, mode: int) -> None:
        """One of them may be the server."""
        layout.paths()[0].chmod(mode)
        key = next(path for path in layout.paths() if path.suffix in {".key", ".pem", ".p12"})
        key.chmod(mode)
        do_as_told(refused(layout, place, rf"{key} is of .* with mode 0{mode:o}, not"))
        layout.check()

    @as_root
    def test_by_a_key_that_was_given_to_another_user(self, place: Path, layout: Layout) -> None:
        key = next(path for path in layout.paths() if path.suffix in {".key", ".pem", ".p12"})
        os.chown(key, 65534, 65534)
        error = refused(layout, place, rf"{key} is of nobody:nogroup with mode 0600, not of root:root")
        do_as_told(error)
        put(layout)

    def test_by_a_symlink(self, place: Path, layout: Layout) -> None:
        for path in layout.paths():
            moved = path.rename(f"{path}.real")
            path.symlink_to(moved)
            refused(layout, place, rf"{path} is a symlink")
            moved.rename(path)
        put(layout)

    def test_by_a_second_name(self, place: Path, layout: Layout) -> None:
        for path in layout.paths():
            os.link(path, f"{path}.second")
            refused(layout, place, rf"{path} has 2 names")
            Path(f"{path}.second").unlink()
        put(layout)

    @as_root
    def test_by_an_immutable_file(self, place: Path, layout: Layout) -> None:
        for path in layout.paths():
            if subprocess.run(["chattr", "+i", path], check=False, capture_output=True).returncode != 0:
                pytest.skip("this file system has no such flag")
            try:
                error = refused(layout, place, rf"{path} is immutable")
                assert error.hint == f"chattr -ia {path}"
            finally:
                subprocess.run(["chattr", "-i", path], check=True)
        put(layout)

    def test_by_a_directory_into_which_others_may_write(self, place: Path, layout: Layout) -> None:
        place.chmod(0o775)
        assert refused(layout, place, "others may write into").hint == f"chmod go-w {os.path.realpath(place)}"

    @as_root
    def test_by_a_directory_of_another_user(self, place: Path, layout: Layout) -> None:
        os.chown(place, 65534, 65534)
        refused(layout, place, "belongs to user 65534")

    @pytest.mark.parametrize("missing", ["none", "none/below"])
    def test_by_a_missing_directory(self, place: Path, missing: str) -> None:
        """The hint is the command that makes it, with all that is missing on the way."""
        layout = Layout("test mx1", {"ecdsa": str(place / missing / "a.pem")})
        what, command = refused(layout, place, f"{missing}: No such file").hint.split(": ", 1)
        assert what == "make the directory"
        subprocess.run(["sh", "-c", command], check=True)
        layout.check()

    @pytest.mark.parametrize("access", [Access(owner="nosuch"), Access(group="nosuch")])
    def test_by_an_owner_who_does_not_exist(self, place: Path, access: Access) -> None:
        installed(place, "fullchain")
        layout = Layout("exim mx1", {"ecdsa": files(place, "fullchain")}, access)
        assert "getent" in refused(layout, place, "exim mx1: there is no (user|group) nosuch").hint

    @pytest.mark.parametrize("content", [b"", b"\n", b"\xff\xfe\n"])
    def test_by_a_password_that_is_none(self, place: Path, content: bytes) -> None:
        layout = installed(place, "pkcs12")
        (place / "password").write_bytes(content)
        refused(layout, place, "has no password")

    def test_by_a_password_that_others_may_read(self, place: Path) -> None:
        layout = installed(place, "pkcs12")
        (place / "password").chmod(0o640)
        refused(layout, place, "others may read")

    @pytest.mark.parametrize("full", range(1, 5))
    def test_by_a_disk_that_is_full_at_any_file(self, place: Path, monkeypatch: pytest.MonkeyPatch, full: int) -> None:
        layout = Layout("test mx1", {"ecdsa": files(place, "parts"), "rsa": str(place / "rsa.pem")})
        both = {"ecdsa-p256": OLD.credential, "rsa-2048": RSA.credential}
        layout.install(both)
        before, real, written = snapshot(place), replace._write_all, 0  # pyright: ignore[reportPrivateUsage]

        def write(fd: int, data: bytes) -> None:
            nonlocal written
            written += 1
            if written == full:
                raise OSError(28, "No space left on device")
            real(fd, data)

        monkeypatch.setattr(replace, "_write_all", write)
        with pytest.raises(Transient, match=r"No space left on device \[mta\.disk\]"):
            layout.install(both)
        assert snapshot(place) == before
        written = 0
        with pytest.raises(Transient, match=r"No space left on device \[mta\.disk\]"):
            layout.restore(layout.saved())
        assert snapshot(place) == before

    @pytest.mark.parametrize("shape", ["combined", "fullchain", "parts"])
    @pytest.mark.parametrize("failing", [1, 2, 3])
    def test_by_a_rename_that_fails_those_before_it_are_taken_back(
        self, place: Path, monkeypatch: pytest.MonkeyPatch, shape: str, failing: int
    ) -> None:
        layout = installed(place, shape)
        before = {path: path.read_bytes() for path in layout.paths()}
        real, done = os.rename, 0

        def rename(*args: Any, **more: Any) -> None:
            nonlocal done
            done += 1
            if done == failing:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            real(*args, **more)

        monkeypatch.setattr(os, "rename", rename)
        if failing <= len(before):
            with pytest.raises(Transient, match=r"\[mta\.disk\]"):
                layout.install({"ecdsa-p256": NEW.credential})
            assert {path: path.read_bytes() for path in layout.paths()} == before
            assert layout.installed() == {"ecdsa-p256": OLD.der}

    def test_an_error_never_carries_the_key_or_the_password(self, place: Path, layout: Layout) -> None:
        lines = {line for line in NEW.key.decode().splitlines() if "-----" not in line} | {PASSWORD.decode()}
        wrong = NEW.key + NEW.leaf[:300] + b"!!!" + NEW.leaf[300:] + NEW.issuer
        with pytest.raises(Unsafe) as caught:
            layout.install({"ecdsa-p256": chains.text(wrong)})
        error: BaseException | None = caught.value
        while error:
            assert not any(line in repr(error) + repr(vars(error)) + repr(error.args) for line in lines)
            error = error.__context__


def _directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _symlink(path: Path) -> None:
    path.rename(f"{path}.real")
    path.symlink_to(f"{path}.real")


def _nothing(_: Path) -> None:
    pass


SABOTAGE: dict[str, Callable[[Path], None]] = {
    "directory": _directory,
    "symlink": _symlink,
    "second name": lambda path: os.link(path, f"{path}.second"),
    "disk": _nothing,
}
"""What makes a file one that cannot be prepared; `disk`: writing it fails."""


@contextlib.contextmanager
def failing_disk(names: set[str]) -> Generator[None]:
    """Bytes for files of these names cannot be written."""
    real = replace._write_all  # pyright: ignore[reportPrivateUsage]

    def write(fd: int, data: bytes) -> None:
        name = os.path.basename(os.readlink(f"/proc/self/fd/{fd}"))
        if any(name.startswith(f".{one}.new-") for one in names):
            raise OSError(5, "Input/output error")
        real(fd, data)

    replace._write_all = write  # pyright: ignore[reportPrivateUsage]
    try:
        yield
    finally:
        replace._write_all = real  # pyright: ignore[reportPrivateUsage]


@given(
    shapes=st.tuples(st.sampled_from(SHAPES), st.sampled_from(SHAPES)),
    failing=st.dictionaries(st.integers(0, 5), st.sampled_from(sorted(SABOTAGE)), max_size=4),
)
@settings(max_examples=40, deadline=None)
def test_where_any_files_cannot_be_prepared_none_is_placed(shapes: tuple[str, str], failing: dict[int, str]) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as name:
        place = prepared(Path(name))
        layout = Layout("test mx1", {"ecdsa": files(place, shapes[0]), "rsa": files(place, shapes[1], "rsa")})
        layout.install({"ecdsa-p256": OLD.credential, "rsa-2048": RSA.credential})
        broken = {layout.paths()[at]: how for at, how in failing.items() if at < len(layout.paths())}
        for path, how in broken.items():
            SABOTAGE[how](path)
        before = snapshot(place)
        new = {"ecdsa-p256": NEW.credential, "rsa-2048": RSA.credential}
        with failing_disk({path.name for path, how in broken.items() if how == "disk"}):
            if broken:
                with pytest.raises((Misconfigured, Transient), match=r"mta\.(files|disk)"):
                    layout.install(new)
                assert snapshot(place) == before
            else:
                layout.install(new)
                assert layout.installed() == {"ecdsa-p256": NEW.der, "rsa-2048": RSA.der}


class TestKilled:
    SCRIPT = """
import os, signal, sys
from pathlib import Path
from certagent.mta.files import Files
from certagent.mta.layout import Layout
from certagent.pki.credential import Credential
from certagent.secret import Secret
place, left = Path(sys.argv[1]), int(sys.argv[2])
key, leaf, issuers = (Path(path).read_bytes() for path in sys.argv[3:])
credential = Credential(Secret(key), leaf, issuers)
rename = os.rename
def counted(*args, **kwargs):
    global left
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    left -= 1
    rename(*args, **kwargs)
os.rename = counted
crt, ca, key = (str(place / f"ecdsa.{suffix}") for suffix in ("crt", "ca", "key"))
files = Files(cert=crt, chain=ca, key=key)
Layout("test mx1", {"ecdsa": files}).install({"ecdsa-p256": credential})
"""

    @pytest.mark.parametrize("renames", [0, 1, 2])
    def test_between_two_files_every_one_is_whole_and_the_next_install_completes_it(
        self, place: Path, tmp_path: Path, renames: int
    ) -> None:
        layout = installed(place, "parts")
        saved = layout.saved()
        new = {"key": NEW.key, "leaf": NEW.leaf, "issuers": NEW.issuer}
        for name, part in new.items():
            (tmp_path / name).write_bytes(part)
        argv = [sys.executable, "-c", self.SCRIPT, place, str(renames), *(tmp_path / name for name in new)]
        done = subprocess.run(argv, cwd=Path(__file__).parents[2], check=False)
        assert done.returncode == -signal.SIGKILL
        contents = [path.read_bytes() for path in layout.paths()]
        wanted = [NEW.issuer, NEW.key, NEW.leaf][:renames] + [OLD.issuer, OLD.key, OLD.leaf][renames:]
        assert contents == wanted
        assert layout.installed() == ({"ecdsa-p256": OLD.der} if renames < 2 else {})
        put(layout)
        assert layout.installed() == {"ecdsa-p256": NEW.der}
        assert not [path for path in place.iterdir() if ".new-" in path.name]
        layout.restore(saved)
        assert layout.installed() == {"ecdsa-p256": OLD.der}


class TestPkcs12:
    def bundle(self, place: Path) -> bytes:
        return (place / "ecdsa.p12").read_bytes()

    def test_the_same_content_keeps_its_bytes(self, place: Path) -> None:
        layout = installed(place, "pkcs12")
        before = self.bundle(place)
        put(layout, OLD)
        assert self.bundle(place) == before

    @pytest.mark.parametrize(
        "other",
        [
            NEW.credential,
            Credential(Secret(OLD.key), OLD.leaf, NEW.issuer),
            Credential(Secret(OLD.key), OLD.leaf, OLD.issuer + NEW.issuer),
        ],
    )
    def test_another_chain_is_another_bundle(self, place: Path, other: Credential) -> None:
        layout = installed(place, "pkcs12")
        before = self.bundle(place)
        layout.install({"ecdsa-p256": other})
        assert self.bundle(place) != before

    def test_another_password_or_cipher_is_another_bundle(self, place: Path) -> None:
        installed(place, "pkcs12")
        before = self.bundle(place)
        (place / "password").write_bytes(b"other")
        layout = installed(place, "pkcs12")
        assert load_pkcs12(self.bundle(place), b"other").key is not None
        again = self.bundle(place)
        assert again != before
        one = Files(
            pkcs12=str(place / "ecdsa.p12"), password_file=str(place / "password"), pkcs12_cipher="TripleDES_SHA1"
        )
        Layout("test mx1", {"ecdsa": one}).install({"ecdsa-p256": OLD.credential})
        third = self.bundle(place)
        assert third != again
        put(layout, OLD)
        assert self.bundle(place) not in {again, third}


def acl(path: Path) -> str:
    return subprocess.run(["getfacl", "--omit-header", "-pn", path], capture_output=True, check=True, text=True).stdout


def set_acl(path: Path, *entries: str) -> None:
    for entry in entries:
        done = subprocess.run(["setfacl", "-m", entry, path], check=False, capture_output=True)
        if b"not supported" in done.stderr:
            pytest.skip("this file system has no ACLs")
        done.check_returncode()


@pytest.mark.skipif(shutil.which("setfacl") is None, reason="needs the package acl")
class TestAcl:
    def test_users_and_groups_of_the_old_files_acl_may_read_the_new_one(self, place: Path, layout: Layout) -> None:
        for path in layout.paths():
            set_acl(path, "u:12345:r", "g:23456:r")
        before = [acl(path) for path in layout.paths()]
        assert "user:12345:r--" in before[0]
        layout.check()
        saved = layout.saved()
        put(layout)
        assert [acl(path) for path in layout.paths()] == before
        layout.restore(saved)
        assert [acl(path) for path in layout.paths()] == before
        layout.check()

    def test_one_that_was_switched_off_stays_off(self, place: Path) -> None:
        layout = installed(place, "combined")
        set_acl(layout.paths()[0], "u:12345:r")
        layout.paths()[0].chmod(0o600)  # the mask is empty now
        before = acl(layout.paths()[0])
        put(layout)
        assert acl(layout.paths()[0]) == before
        assert "#effective:---" in before

    def test_one_that_opens_a_key_to_everybody_is_refused(self, place: Path) -> None:
        layout = installed(place, "combined")
        set_acl(layout.paths()[0], "u:12345:r", "o::r")
        refused(layout, place, "with mode 0644, not")

    def test_the_directorys_default_does_not_open_a_file_that_had_none(self, place: Path) -> None:
        layout = installed(place, "combined", Access(mode="0640"))
        set_acl(place, "d:u:12345:rw")
        before = acl(layout.paths()[0])
        put(layout)
        assert acl(layout.paths()[0]) == before
        assert "12345" not in before

    @as_root
    def test_the_selinux_context_stays(self, place: Path, layout: Layout) -> None:
        context = b"system_u:object_r:postfix_etc_t:s0\0"
        for path in layout.paths():
            try:
                os.setxattr(path, "security.selinux", context)
            except OSError as error:
                pytest.skip(f"no contexts here: {error}")
        put(layout)
        assert {os.getxattr(path, "security.selinux") for path in layout.paths()} == {context}


class TestLinks:
    """Where the operator says that paths are links."""

    def linked(self, place: Path) -> tuple[Layout, Path]:
        """A layout whose path leads by two links, over another directory, to the file."""
        for name in ("real", "etc"):
            (place / name).mkdir(mode=0o755)
        (place / "etc" / "second.pem").symlink_to("../real/ecdsa.pem")
        (place / "ecdsa.pem").symlink_to(place / "etc" / "second.pem")
        layout = Layout("test mx1", {"ecdsa": str(place / "ecdsa.pem")}, Access(follow_links=True))
        return layout, place / "real" / "ecdsa.pem"

    def test_the_file_is_replaced_and_the_links_stay(self, place: Path) -> None:
        layout, real = self.linked(place)
        layout.check()
        assert (layout.saved(), layout.installed()) == ({}, {})
        for chain in (OLD, NEW):
            put(layout, chain)
            assert (real.read_bytes(), real.is_symlink()) == (chain.pem, False)
            assert layout.installed() == {"ecdsa-p256": chain.der}
        assert (place / "ecdsa.pem").is_symlink()
        assert (place / "etc" / "second.pem").is_symlink()
        saved = layout.saved()
        put(layout, OLD)
        layout.restore(saved)
        assert real.read_bytes() == NEW.pem
        layout.restore({})
        assert (real.exists(), (place / "ecdsa.pem").is_symlink()) == (False, True)

    @pytest.mark.parametrize("directory", [".", "etc", "real"])
    def test_every_directory_on_the_way_is_trusted(self, place: Path, directory: str) -> None:
        layout, _ = self.linked(place)
        put(layout)
        (place / directory).chmod(0o777)
        refused(layout, place, "others may write into")

    def test_a_second_name_of_the_file_is_refused(self, place: Path) -> None:
        layout, real = self.linked(place)
        put(layout)
        os.link(real, place / "second")
        refused(layout, place, "has 2 names")

    def test_two_links_to_one_file_are_refused(self, place: Path) -> None:
        for name in ("key", "fullchain"):
            (place / f"ecdsa.{name}").symlink_to("one")
        layout = Layout("test mx1", {"ecdsa": files(place, "fullchain")}, Access(follow_links=True))
        refused(layout, place, "and another path lead to .*/one")

    def test_links_in_a_circle_are_refused(self, place: Path) -> None:
        (place / "a").symlink_to("b")
        (place / "b").symlink_to("a")
        refused(Layout("test mx1", {"ecdsa": str(place / "a")}, Access(follow_links=True)), place, "too many symlinks")


class TestRestore:
    def test_it_does_not_judge_owner_and_mode(self, layout: Layout) -> None:
        saved = layout.saved()
        for path in layout.paths():
            path.chmod(0)
        layout.restore(saved)
        layout.check()

    def test_a_file_that_is_none_of_its_own_is_refused(self, place: Path, layout: Layout) -> None:
        before = snapshot(place)
        with pytest.raises(Misconfigured, match=r"/etc/passwd is none of its files \[mta\.files\]"):
            layout.restore({**layout.saved(), "/etc/passwd": Secret(b"x")})
        assert snapshot(place) == before

    def test_what_is_too_large_is_not_saved(self, layout: Layout) -> None:
        layout.paths()[-1].write_bytes(b"x" * (2**20 + 1))
        with pytest.raises(Misconfigured, match=r"larger than 1048576 bytes \[mta\.files\]"):
            layout.saved()

    def test_a_file_that_cannot_be_read_is_reported_not_taken_for_missing(self, layout: Layout) -> None:
        """Else `restore` would remove it."""
        path = layout.paths()[0]
        path.unlink()
        path.mkdir()
        with pytest.raises(Misconfigured, match=r"not a regular file \[mta\.files\]"):
            layout.saved()


class TestOptions:
    @pytest.mark.parametrize(
        ("given", "match"),
        [
            ({"rsa": "rsa.pem"}, "relative or used twice"),
            ({"rsa": "/a.pem", "ecdsa": "/a.pem"}, "relative or used twice"),
            ({"rsa": "/a.pem", "ecdsa": "/b/../a.pem"}, "relative or used twice"),
            ({"rsa": Files(fullchain="/a", key="/a")}, "relative or used twice"),
            ({"rsa": Files(pkcs12="/a", password_file="/a")}, "relative or used twice"),
            ({"rsa": Files()}, r"files\.rsa has no file"),
            ({"rsa": Files(key="/k")}, r"files\.rsa has key"),
            ({"rsa": Files(cert="/c", key="/k")}, "files.rsa has key and cert"),
            ({"rsa": Files(combined="/c", key="/k")}, "files.rsa has combined and key"),
            ({"rsa": Files(fullchain="/f", chain="/c", key="/k")}, "files.rsa has"),
            ({"rsa": Files(pkcs12="/p")}, "files.rsa has pkcs12"),
        ],
    )
    def test_a_set_of_files_that_is_none_is_reported(self, given: dict[str, str | Files], match: str) -> None:
        with pytest.raises(Misconfigured, match=match) as caught:
            Layout("test mx1", given)
        assert (caught.value.code, caught.value.detail.startswith("test mx1: ")) == ("mta.config", True)

    @pytest.mark.parametrize("mode", ["0644", "0660", "0700", "0200", "600 ", "", "1600", "0o600", "888"])
    def test_a_mode_wider_than_0640_or_that_is_none_is_reported(self, mode: str) -> None:
        with pytest.raises(Misconfigured, match=r"mode is .*\[mta\.config\]"):
            Layout("test mx1", {"rsa": "/a.pem"}, Access(mode=mode))

    @pytest.mark.parametrize("mode", ["600", "0600", "0640", "0400", "0440"])
    def test_other_modes_are_taken(self, mode: str) -> None:
        Layout("test mx1", {"rsa": "/a.pem"}, Access(mode=mode))

    def test_key_types(self) -> None:
        with pytest.raises(Misconfigured, match=r"pem\.key_type"):
            Layout("test mx1", {"dsa": "/a.pem"})
        layout = Layout("test mx1", {"ecdsa": "/a.pem", "ecdsa-p384": "/b.pem"})
        assert [layout.of(f"ecdsa-p{bits}").combined for bits in (256, 384)] == ["/a.pem", "/b.pem"]
        with pytest.raises(Misconfigured, match=r"no file for rsa-2048 \[mta\.config\]") as caught:
            layout.install({"rsa-2048": RSA.credential})
        assert "rsa: " in caught.value.hint


def test_names_of_users_and_paths_do_not_break_the_command_of_the_hint(place: Path) -> None:
    odd = place / "a b'c.pem"
    layout = Layout("test mx1", {"ecdsa": str(odd)})
    put(layout)
    odd.chmod(0o640)
    with contextlib.suppress(KeyError), pytest.raises(Misconfigured) as caught:
        layout.check()
    do_as_told(caught.value)
    layout.check()
