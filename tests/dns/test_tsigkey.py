"""Files with TSIG keys, read as BIND reads them, and never quoted in an error."""

from __future__ import annotations

from pathlib import Path

import pytest

from certagent.dns.providers import tsigkey
from certagent.errors import Usage

SECRET = "////////////////////////////////cGFkZGluZyE="
KEY = f'key "dane-key" {{\n\talgorithm hmac-sha256;\n\tsecret "{SECRET}";\n}};\n'


def read(path: Path, text: str, name: str = "") -> tsigkey.Key:
    path.touch(0o600)
    path.write_text(text)
    return tsigkey.read(path, name)


# as written by people and programs; tests/e2e/test_dns.py shows them to BIND itself
AS_BIND = [
    (KEY, "dane-key.", "hmac-sha256"),
    (f'key dane{{secret "{SECRET}";algorithm "HMAC-SHA512";}};', "dane.", "hmac-sha512"),
    (
        KEY.replace("key ", "KEY ").replace("algorithm", "Algorithm").replace("secret", "SECRET"),
        "dane-key.",
        "hmac-sha256",
    ),
    (KEY.replace("dane-key", "Dane-Key."), "dane-key.", "hmac-sha256"),
    (
        f'# key a {{}};\n/* key "c" {{ secret "x"; }}; */\noptions {{ directory "/"; }};\n{KEY}',
        "dane-key.",
        "hmac-sha256",
    ),
    ("key k { algorithm hmac-sha1; // why not\n secret c2VjcmV0; # here\n } ;", "k.", "hmac-sha1"),
]
WITH_DOT = (KEY.replace("hmac-sha256", "hmac-sha256."), "dane-key.", "hmac-sha256")  # BIND wants it without


@pytest.mark.parametrize(("text", "name", "algorithm"), [*AS_BIND, WITH_DOT])
def test_as_bind_reads_them(tmp_path: Path, text: str, name: str, algorithm: str) -> None:
    """Words in quotes or not, in any case; comments of all three kinds; what is in quotes is no comment."""
    key = read(tmp_path / "key", text)
    assert (key.name, key.algorithm) == (name, algorithm)
    assert key.secret.reveal() in text
    assert key.secret.reveal() not in repr(key)
    tsigkey.keyring(key)


def test_one_of_several_is_chosen_by_its_name(tmp_path: Path) -> None:
    text = KEY + KEY.replace("dane-key", "acme-key")
    assert read(tmp_path / "key", text, "ACME-key").name == "acme-key."
    for name in ("", "other"):
        with pytest.raises(Usage, match=r"found: dane-key\., acme-key\..*secret\.file"):
            read(tmp_path / "key", text, name)
    with pytest.raises(Usage, match=r"secret\.file"):
        read(tmp_path / "key", KEY + KEY, "dane-key")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "found: none"),
        ("nonsense", "1: the file ends within a statement"),
        ("dns_rfc2136_secret = x\n", "ends within"),
        (KEY.replace("sha256", "sha3"), "is none of hmac-sha256"),
        (KEY.replace("sha256", "sha256-128"), "use hmac-sha256"),
        (KEY.replace("sha256", "md5"), "HMAC-MD5"),
        (KEY.replace("hmac-sha256", "HMAC-MD5.SIG-ALG.REG.INT"), "HMAC-MD5"),
        (KEY.replace("hmac-sha256", f'"{SECRET}"').replace(f'secret "{SECRET}"', "secret hmac-sha256"), "is none of"),
        (KEY.replace(SECRET, SECRET[:-3]), "is not base64"),
        (KEY.replace(SECRET, "%%%"), "is not base64"),
        (KEY.replace(SECRET, ""), "is not base64"),
        (KEY.replace(SECRET, "\u0660" * 8), "is not base64"),
        (KEY.replace("algorithm", "a"), "2: a key has one algorithm"),
        (KEY.replace("algorithm hmac-sha256", f'secret "{SECRET}"'), "3: a key has one algorithm"),
        (KEY.replace("\talgorithm hmac-sha256;\n", ""), "has no algorithm"),
        (KEY.replace("dane-key", "a..b"), "no name in DNS"),
        (KEY.replace("dane-key", "x" * 300), "no name in DNS"),
        (KEY.replace("dane-key", "\x1b]0;mine"), "no name in DNS"),
        (KEY.replace("};", "}"), "ends within"),
        (KEY.replace(f'{SECRET}"', SECRET), "no end on its line"),
        (KEY.replace(f'"{SECRET}"', SECRET), "is missing"),  # out of quotes, // begins a comment
        (f'include "/etc/bind/other.key";\n{KEY}', "1: include is not followed"),
        (KEY.replace("algorithm", "include"), "2: include is not followed"),
        ("{" * 5000, "a word is missing"),
        ("a {" * 5000, "ends within"),
        ("\0\xff/*", "ends within"),
    ],
)
def test_what_is_no_key(tmp_path: Path, text: str, said: str) -> None:
    """The line is told and the secret is not, wherever it stands."""
    with pytest.raises(Usage) as caught:
        read(tmp_path / "key", text)
    assert caught.value.code == "secret.file"
    assert said in caught.value.detail
    assert SECRET[:20].lower() not in repr(caught.value).lower()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o610])
def test_it_must_be_private(tmp_path: Path, mode: int) -> None:
    """The remedy is in the hint."""
    path = tmp_path / "key"
    read(path, KEY)
    path.chmod(mode)
    with pytest.raises(Usage) as caught:
        tsigkey.read(path, "")
    assert caught.value.code == "secret.mode"
    assert f"chmod 600 {path}" in caught.value.hint


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(Usage, match=r"secret\.file"):
        tsigkey.read(tmp_path / "missing", "")
