"""What tests of Postfix have in common: its configuration edited, a hint obeyed, what is served."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from certagent.errors import Misconfigured
from certagent.mta.postfix.server import Postfix
from tests.lab import handshake
from tests.lab.addresses import MX1, ZONE
from tests.lab.postfix import Receiver
from tests.mta import chains

HOST = f"mx1.{ZONE}"
EC = frozenset({"ecdsa-p256"})
BOTH = EC | {"rsa-2048"}
SUBMISSION = f"{MX1}:587/inet"


def private(path: Path, content: bytes) -> Path:
    """A file that only root may read."""
    path.touch(mode=0o600)
    path.write_bytes(content)
    return path


def set_main(receiver: Receiver, name: str, value: str) -> None:
    """Puts a setting into main.cf in place of the one that is there."""
    text = (receiver.config_dir / "main.cf").read_text()
    text = re.sub(rf"(?m)^{name} =.*\n", "", text)
    receiver.configure("main.cf", f"{text}\n{name} = {value}\n")


def override(receiver: Receiver, option: str) -> None:
    """Adds an option to the submission service."""
    text = (receiver.config_dir / "master.cf").read_text()
    before = "-o smtpd_tls_security_level=encrypt"
    assert before in text
    receiver.configure("master.cf", text.replace(before, f"{before} -o {option}"))


def wrong(postfix: Postfix, key_types: frozenset[str] = BOTH) -> Misconfigured:
    """What `check` finds."""
    with pytest.raises(Misconfigured) as caught:
        postfix.check(key_types)
    assert caught.value.code == "mta.config"
    return caught.value


def do_as_told(hint: str) -> None:
    """Runs the command of a hint, as the operator would."""
    when, _, command = hint.partition(": ")
    assert when in {"run", "once it is there"}
    subprocess.run(["sh", "-c", command], check=True, stdin=subprocess.DEVNULL)


def told(postfix: Postfix, what: str, key_types: frozenset[str] = BOTH) -> str:
    """The command of the one thing in `ahead` that says `what`."""
    [command] = [command for text, command in postfix.advice(key_types) if what in text]
    return command


def met(name: str | None = None, port: int = 25, address: str = MX1) -> bytes | str:
    """The leaf (DER) that a client meets who asks for this name; or why it met none."""
    try:
        return handshake.leaf(address, port, name).public_bytes(Encoding.DER)
    except OSError as error:
        return str(error)


def served(names: Iterable[str | None], chain: chains.Chain) -> bool:
    """Whether a client meets this chain by each of the names."""
    return {met(name) for name in names} == {chain.der}
