"""Nothing takes its place that a mail server could not serve."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from certagent.errors import Misconfigured, Transient, Unsafe
from certagent.host import replace
from certagent.mta import pemfile
from certagent.mta.layout import Layout
from certagent.pki.credential import Credential
from tests.mta import chains

ONE = chains.make()
OTHER = chains.make()
RSA = chains.make("rsa-2048")


def install(path: Path, credential: Credential) -> None:
    Layout("postfix mx1", {"ecdsa": str(path)}).install({"ecdsa-p256": credential})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file in service."""
    tmp_path.chmod(0o755)
    path = tmp_path / "chain.pem"
    install(path, ONE.credential)
    return path


def encrypted() -> bytes:
    command = ["openssl", "pkcs8", "-topk8", "-passout", "pass:x"]
    return subprocess.run(command, input=ONE.key, capture_output=True, check=True).stdout


def traditional_encrypted() -> bytes:
    command = ["openssl", "ec", "-aes128", "-passout", "pass:x"]
    return subprocess.run(command, input=ONE.key, capture_output=True, check=True).stdout


WRONG = {
    "empty": b"",
    "not PEM": b"\xff\xfe key",
    "key of another certificate": OTHER.key + ONE.leaf + ONE.issuer,
    "leaf before key": ONE.leaf + ONE.key + ONE.issuer,
    "issuer before leaf": ONE.key + ONE.issuer + ONE.leaf,
    "no key": ONE.leaf + ONE.issuer,
    "no certificate": ONE.key,
    "two keys": ONE.pem + RSA.pem,
    "key twice": ONE.key + ONE.pem,
    "truncated in the key": ONE.pem[:100],
    "truncated in the leaf": ONE.pem[: len(ONE.key) + 200],
    "truncated in the issuer": ONE.pem[:-40],
    "damaged leaf": ONE.key + ONE.leaf[:100] + b"!!!!" + ONE.leaf[104:] + ONE.issuer,
    "encrypted": encrypted() + ONE.leaf,
    "encrypted, traditional": traditional_encrypted() + ONE.leaf,
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG.keys())
def test_a_broken_file_is_refused_and_the_old_one_stays(path: Path, wrong: bytes) -> None:
    with pytest.raises(Unsafe) as caught:
        install(path, chains.text(wrong))
    assert caught.value.code == "mta.pem"
    assert str(path) in caught.value.detail
    assert ".new-" not in caught.value.detail
    assert (path.read_bytes(), list(path.parent.iterdir())) == (ONE.pem, [path])


@given(cut=st.integers(0, len(ONE.pem) - len(ONE.issuer) - 2))
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_cut_before_the_end_of_the_leaf_is_accepted(path: Path, cut: int) -> None:
    with pytest.raises(Unsafe, match=r"mta\.pem"):
        install(path, chains.text(ONE.pem[:cut]))


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG.keys())
def test_an_error_never_carries_the_key(path: Path, wrong: bytes) -> None:
    lines = [line for line in ONE.key.decode().splitlines() if len(line) > 20 and "-----" not in line]
    with pytest.raises(Unsafe) as caught:
        install(path, chains.text(wrong))
    error: BaseException | None = caught.value
    while error:
        assert not any(line in repr(error) + repr(vars(error)) + repr(error.args) for line in lines)
        assert not isinstance(error, UnicodeDecodeError)
        error = error.__context__


@pytest.mark.parametrize("chain", [ONE, RSA, chains.make("ecdsa-p384")])
def test_a_good_file_takes_its_place(path: Path, chain: chains.Chain) -> None:
    install(path, chain.credential)
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (chain.pem, 0o600)
    assert pemfile.leaf_der(path) == chain.der


def test_the_rehearsal_takes_a_name(path: Path) -> None:
    pemfile.rehearse(path, "mx1.corp.example")


def test_when_one_of_several_is_broken_none_is_placed(path: Path) -> None:
    second = path.with_name("rsa.pem")
    both = Layout("postfix mx1", {"ecdsa": str(path), "rsa": str(second)})
    with pytest.raises(Unsafe):
        both.install({"ecdsa-p256": OTHER.credential, "rsa-2048": chains.text(RSA.key)})
    assert (path.read_bytes(), list(path.parent.iterdir())) == (ONE.pem, [path])
    both.install({"ecdsa-p256": OTHER.credential, "rsa-2048": RSA.credential})
    assert (path.read_bytes(), second.read_bytes()) == (OTHER.pem, RSA.pem)


def test_a_directory_that_others_may_write_is_refused(path: Path) -> None:
    path.parent.chmod(0o775)
    with pytest.raises(Misconfigured, match=r"others may write.*mta\.files") as caught:
        install(path, OTHER.credential)
    assert caught.value.hint.startswith("chmod go-w ")


def test_a_symlink_and_a_missing_directory_are_refused(path: Path) -> None:
    path.with_name("link").symlink_to(path)
    for place in (path.with_name("link"), path.parent / "none" / "chain.pem"):
        with pytest.raises(Misconfigured, match=r"mta\.files"):
            install(place, OTHER.credential)
    assert path.read_bytes() == ONE.pem


@pytest.mark.parametrize("below", ["link/chain.pem", "link/etc/chain.pem"])
def test_a_directory_that_is_a_symlink_is_refused(path: Path, tmp_path: Path, below: str) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    (tmp_path / "etc").mkdir()
    with pytest.raises(Misconfigured, match=rf"{tmp_path}/link is a symlink \[mta\.files\]") as caught:
        install(tmp_path / below, OTHER.credential)
    assert caught.value.hint.startswith("name the real one in the config: realpath ")
    assert path.read_bytes() == ONE.pem


def test_a_directory_that_others_could_exchange_is_refused(path: Path, tmp_path: Path) -> None:
    place = tmp_path / "open" / "etc" / "chain.pem"
    place.parent.mkdir(parents=True)
    place.parent.parent.chmod(0o777)
    with pytest.raises(Misconfigured, match=rf"others may write into {tmp_path}/open: anybody \[mta\.files\]"):
        install(place, OTHER.credential)
    place.parent.parent.chmod(0o1777)  # as /tmp: nobody renames what is another's
    install(place, OTHER.credential)
    assert place.read_bytes() == OTHER.pem


def test_a_full_disk_is_reported_in_the_words_of_a_mail_server(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(replace, "_write_all", full)
    with pytest.raises(Transient, match=r"No space left on device \[mta\.disk\]"):
        install(path, OTHER.credential)


class TestParts:
    """A key in a file of its own is rehearsed together with its certificates."""

    @pytest.fixture
    def place(self, tmp_path: Path) -> Path:
        for name, content in (
            ("key", ONE.key),
            ("leaf", ONE.leaf),
            ("ca", ONE.issuer),
            ("full", ONE.leaf + ONE.issuer),
        ):
            (tmp_path / name).write_bytes(content)
        return tmp_path

    def test_those_of_one_chain_pass(self, place: Path) -> None:
        pemfile.rehearse(place / "full", key=place / "key", shown=place / "full")
        pemfile.rehearse_parts(place / "leaf", place / "ca", place / "key", shown=place / "leaf")

    @pytest.mark.parametrize("key", [OTHER.key, RSA.key, b"", encrypted(), ONE.leaf, ONE.key[:-30]])
    def test_another_key_is_refused(self, place: Path, key: bytes) -> None:
        (place / "key").write_bytes(key)
        with pytest.raises(Unsafe, match=rf"new content for {place}/full: .*\[mta\.pem\]"):
            pemfile.rehearse(place / "full", key=place / "key", shown=place / "full")
        with pytest.raises(Unsafe, match=rf"new content for {place}/leaf: .*\[mta\.pem\]"):
            pemfile.rehearse_parts(place / "leaf", place / "ca", place / "key", shown=place / "leaf")

    def test_issuers_before_the_leaf_are_refused(self, place: Path) -> None:
        (place / "full").write_bytes(ONE.issuer + ONE.leaf)
        with pytest.raises(Unsafe):
            pemfile.rehearse(place / "full", key=place / "key")
        with pytest.raises(Unsafe):
            pemfile.rehearse_parts(place / "ca", place / "leaf", place / "key", shown=place)


@pytest.mark.parametrize("content", [None, b"", b"nonsense", b"\xff" * 50, ONE.key, ONE.pem[:300]])
def test_a_file_without_a_certificate_has_no_leaf(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "file"
    if content is not None:
        path.write_bytes(content)
    assert pemfile.leaf_der(path) is None
