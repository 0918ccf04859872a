"""The kernel's tables of sockets."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from certagent.host import proc
from certagent.host.sockets import Listener, listening

ROW = "   0: {}:{:04X} 00000000:0000 {} 00000000:00000000 00:00000000 00000000     0        0 {} 1 0 100 0 0 10 0\n"


@pytest.fixture
def net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of the kernel's tables."""
    monkeypatch.setattr(proc, "ROOT", tmp_path)
    net = tmp_path / "self" / "net"
    net.mkdir(parents=True)
    return net


def test_listeners_are_read_as_the_kernel_writes_them(net: Path) -> None:
    """Only listeners, IPv4 and IPv6, words in this machine's order of bytes."""
    rows = [("0A00007F", 25, "0A", 4711), ("0100007F", 993, "01", 4712)]
    (net / "tcp").write_text("head\n" + "".join(ROW.format(*fields) for fields in rows))
    assert listening() == [Listener(25, "127.0.0.10", 4711)]  # and no IPv6 in this kernel
    (net / "tcp6").write_text("head\n" + ROW.format("0" * 24 + "01000000", 143, "0A", 4711))
    assert listening() == [Listener(25, "127.0.0.10", 4711), Listener(143, "::1", 4711)]


def test_odd_lines_are_passed_over(net: Path) -> None:
    odd = ["", "x", "\0\0", ROW.format("0A0000", 25, "0A", 1), ROW.format("0A00007F", 25, "0A", "²"), "a b:c d 0A"]
    (net / "tcp").write_text("head\n" + "\n".join(odd) + "\n" + ROW.format("0A00007F", 25, "0A", 4711))
    assert listening() == [Listener(25, "127.0.0.10", 4711)]
    (net / "tcp").unlink()
    assert listening() == []


def test_a_socket_of_this_process_is_among_them() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert Listener(server.getsockname()[1], "127.0.0.1", os.fstat(server.fileno()).st_ino) in listening()
