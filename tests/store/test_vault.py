from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from certagent.errors import Misconfigured, Transient, Unsafe
from certagent.secret import Secret
from certagent.store.vault import Vault

KEY, OTHER, PEM = Secret(b"key"), Secret(b"another key"), b"chain"
KEY_TYPE = "ecdsa-p256"


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    return Vault(tmp_path / "vault")


Use = Callable[[Vault, str], object]

USES: dict[str, Use] = {
    "put_key": lambda vault, text: vault.put_key(text, "k1", KEY_TYPE, KEY),
    "key": lambda vault, text: vault.key("mx1", text, KEY_TYPE),
    "put_chain": lambda vault, text: vault.put_chain("mx1", "g1", text, PEM),
    "drop_keys": lambda vault, text: vault.drop_keys(text, "k1"),
    "drop_chain": lambda vault, text: vault.drop_chain("mx1", text),
}


def files(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def test_a_key_and_a_chain_come_back_as_they_were_put(vault: Vault) -> None:
    vault.put_key("mx1", "k1", KEY_TYPE, KEY)
    vault.put_chain("mx1", "g1", KEY_TYPE, PEM)
    assert vault.key("mx1", "k1", KEY_TYPE).reveal() == b"key"
    assert vault.chain("mx1", "g1", KEY_TYPE) == PEM


def test_only_the_owner_can_read(vault: Vault, tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        vault.put_key("mx1", "k1", KEY_TYPE, KEY)
        vault.put_chain("mx1", "k1", KEY_TYPE, PEM)
    finally:
        os.umask(old)
    assert files(tmp_path) == {"vault/mx1/k1/ecdsa-p256.key", "vault/mx1/k1/ecdsa-p256.pem"}
    for path in (tmp_path / "vault").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600)
    assert stat.S_IMODE((tmp_path / "vault").stat().st_mode) == 0o700


def test_a_key_is_never_overwritten(vault: Vault) -> None:
    vault.put_key("mx1", "k1", KEY_TYPE, KEY)
    vault.put_key("mx1", "k1", KEY_TYPE, KEY)
    with pytest.raises(Unsafe) as caught:
        vault.put_key("mx1", "k1", KEY_TYPE, OTHER)
    assert caught.value.code == "vault.exists"
    assert vault.key("mx1", "k1", KEY_TYPE).reveal() == b"key"


def test_a_chain_is_replaced(vault: Vault) -> None:
    vault.put_chain("mx1", "g1", KEY_TYPE, PEM)
    vault.put_chain("mx1", "g1", KEY_TYPE, b"newer")
    assert vault.chain("mx1", "g1", KEY_TYPE) == b"newer"


def test_what_is_missing_is_named(vault: Vault, tmp_path: Path) -> None:
    with pytest.raises(Misconfigured) as caught:
        vault.key("mx1", "k1", KEY_TYPE)
    assert caught.value.code == "vault.missing"
    assert str(tmp_path / "vault/mx1/k1/ecdsa-p256.key") in caught.value.detail
    with pytest.raises(Misconfigured, match=r"vault\.missing"):
        vault.chain("mx1", "g1", KEY_TYPE)


def test_a_key_that_others_can_read_is_reported(vault: Vault, tmp_path: Path) -> None:
    vault.put_key("mx1", "k1", KEY_TYPE, KEY)
    (tmp_path / "vault/mx1/k1/ecdsa-p256.key").chmod(0o644)
    with pytest.raises(Misconfigured) as caught:
        vault.key("mx1", "k1", KEY_TYPE)
    assert caught.value.code == "secret.mode"


def test_dropping_forgets_one_kind_of_one_id_and_may_be_repeated(vault: Vault, tmp_path: Path) -> None:
    for name in ("one", "two"):
        vault.put_key("mx1", name, KEY_TYPE, KEY)
        vault.put_key("mx1", name, "rsa-2048", OTHER)
        vault.put_chain("mx1", name, KEY_TYPE, PEM)
    vault.drop_keys("mx1", "one")
    vault.drop_keys("mx1", "one")
    vault.drop_chain("mx1", "two")
    assert files(tmp_path) == {
        "vault/mx1/one/ecdsa-p256.pem",
        "vault/mx1/two/ecdsa-p256.key",
        "vault/mx1/two/rsa-2048.key",
    }
    vault.drop_chain("mx1", "one")
    vault.drop_chain("mx1", "one")
    assert not (tmp_path / "vault/mx1/one").exists()
    vault.drop_keys("mx2", "none")


def test_dropping_removes_what_a_killed_write_left(vault: Vault, tmp_path: Path) -> None:
    vault.put_key("mx1", "k1", KEY_TYPE, KEY)
    (tmp_path / "vault/mx1/k1/.ecdsa-p256.key.new-0123456789abcdef").write_bytes(b"half a key")
    vault.drop_keys("mx1", "k1")
    assert files(tmp_path) == set()


def test_a_disk_that_fails_while_dropping_is_reported(vault: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    vault.put_key("mx1", "k1", KEY_TYPE, KEY)

    def fail(fd: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(Transient) as caught:
        vault.drop_keys("mx1", "k1")
    assert caught.value.code == "store.disk"


def test_everything_is_synced_before_a_call_returns(
    vault: Vault, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file, its directory, and every directory that holds a new name."""
    synced: list[str] = []
    real = os.fsync

    def fsync(fd: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{fd}"))
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    vault.put_key("mx1", "k1", KEY_TYPE, KEY)
    directories = [tmp_path, tmp_path / "vault", tmp_path / "vault/mx1", tmp_path / "vault/mx1/k1"]
    assert [path for path in synced if ".new-" not in path] == [str(path) for path in directories]
    assert len(synced) == 5
    synced.clear()
    vault.drop_keys("mx1", "k1")
    assert synced[-1] == str(tmp_path / "vault/mx1")


@pytest.mark.parametrize("text", ["", ".", "..", "../mx1", "a/b", "/etc", ".hidden", "a\0b", "a\n", "a" * 128, "é"])
@pytest.mark.parametrize("use", USES)
def test_no_name_leaves_the_directory(vault: Vault, tmp_path: Path, use: str, text: str) -> None:
    with pytest.raises(Misconfigured) as caught:
        USES[use](vault, text)
    assert caught.value.code == "vault.name"
    assert not list(tmp_path.iterdir())


class TestKept:
    def test_files_come_back_byte_for_byte_and_nobody_else_may_read_them(self, tmp_path: Path) -> None:
        """Whatever bytes they are, under whatever path; and a second keeping takes the place of the first."""
        vault = Vault(tmp_path)
        for files in ({"/etc/tls/a.pem": b"\x00\xff-----BEGIN", "/etc/tls/ü": b""}, {"/b": b"2"}):
            vault.keep("mx1", "postfix", {path: Secret(data) for path, data in files.items()})
            assert {path: data.reveal() for path, data in vault.kept("mx1", "postfix").items()} == files
        [stored] = (tmp_path / "mx1").rglob("*.files")
        assert stored.stat().st_mode & 0o077 == 0

    def test_none_were_kept(self, tmp_path: Path) -> None:
        assert Vault(tmp_path).kept("mx1", "postfix") == {}

    def test_damaged(self, tmp_path: Path) -> None:
        """Told with the file's name; never taken for nothing."""
        vault = Vault(tmp_path)
        vault.keep("mx1", "postfix", {"/a": Secret(b"1")})
        [stored] = (tmp_path / "mx1").rglob("*.files")
        stored.write_bytes(stored.read_bytes()[:-1])
        with pytest.raises(Misconfigured) as caught:
            vault.kept("mx1", "postfix")
        assert caught.value.code == "vault.kept"
        assert str(stored) in caught.value.detail
