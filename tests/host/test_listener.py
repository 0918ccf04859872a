"""A port for the moment: who connects hears what is asked for; closed afterwards, also for those who linger."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress

import pytest

from certagent.errors import Misconfigured, Transient
from certagent.host import listener
from certagent.host.listener import Answers, Listen, Listeners, everywhere

REMEDY = "use another"


def talk(client: socket.socket, answers: Answers) -> None:
    client.sendall(answers.get(client.recv(100).decode(), b"?"))


@pytest.fixture
def port() -> int:
    with closing(socket.socket()) as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def ask(port: int, name: str, address: str = "127.0.0.1") -> bytes:
    with socket.create_connection((address, port), timeout=5) as client:
        client.sendall(name.encode())
        return client.recv(100)


def refused(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except ConnectionRefusedError:
        return True
    return False


def tried(ports: Listeners, listen: Listen) -> None:
    with ports.answering(listen, talk, {"a": b"2"}, REMEDY):
        pass


def test_it_answers_in_both_families_and_is_closed_afterwards(port: int) -> None:
    with Listeners().answering(everywhere(port), talk, {"a": b"1"}, REMEDY):
        assert [ask(port, "a", address) for address in ("127.0.0.1", "::1")] == [b"1", b"1"]
        assert ask(port, "b") == b"?"
    assert refused(port)


def test_it_opens_again_at_once_though_old_connections_wait(port: int) -> None:
    """TIME_WAIT: this side has closed first."""
    ports = Listeners()
    for _ in range(3):
        with ports.answering(everywhere(port), talk, {"a": b"1"}, REMEDY):
            assert ask(port, "a") == b"1"


@pytest.mark.parametrize("reuse", [False, True])
def test_a_port_in_use_is_an_error_that_names_the_program(port: int, reuse: bool) -> None:
    """Also if the other one would share it: nothing of another program is answered."""
    with closing(socket.socket()) as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", port))
        other.listen()
        with pytest.raises(Misconfigured, match=r"challenge\.port") as info:
            tried(Listeners(), everywhere(port))
    assert "is in use by py" in info.value.detail
    assert info.value.hint == REMEDY
    with Listeners().answering(everywhere(port), talk, {"a": b"1"}, REMEDY):
        assert ask(port, "a") == b"1"


def test_another_program_does_not_get_the_port(port: int) -> None:
    with Listeners().answering((("127.0.0.1", port),), talk, {"a": b"1"}, REMEDY), closing(socket.socket()) as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        with pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", port))


def test_an_address_of_another_host_is_an_error(port: int) -> None:
    with pytest.raises(Misconfigured, match=r"192\.0\.2\.1 cannot be opened.*challenge\.port"):
        tried(Listeners(), (("192.0.2.1", port),))


def test_threads_share_a_port(port: int) -> None:
    """The one that ends first takes its answers away, and leaves the port to the others."""
    ports = Listeners()
    with ports.answering(everywhere(port), talk, {"a": b"1"}, REMEDY):
        with ports.answering(everywhere(port), talk, {"b": b"2"}, REMEDY):
            assert [ask(port, "a"), ask(port, "b")] == [b"1", b"2"]
        assert [ask(port, "a"), ask(port, "b")] == [b"1", b"?"]
    assert refused(port)


def test_an_answer_of_the_same_name_is_waited_for(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    ports, done = Listeners(), threading.Event()

    def first() -> None:
        with ports.answering(everywhere(port), talk, {"a": b"1"}, REMEDY):
            done.wait(5)

    thread = threading.Thread(target=first)
    thread.start()
    while refused(port):
        pass
    monkeypatch.setattr(listener, "BUSY_S", 0.05)
    with pytest.raises(Transient, match=r"validated for a .*challenge\.busy"):
        tried(ports, everywhere(port))
    monkeypatch.setattr(listener, "BUSY_S", 5.0)
    threading.Timer(0.05, done.set).start()
    with ports.answering(everywhere(port), talk, {"a": b"2"}, REMEDY):
        assert ask(port, "a") == b"2"
    thread.join()


@pytest.fixture
def silent(port: int) -> Iterator[list[socket.socket]]:
    """Connections of clients that say nothing."""
    clients: list[socket.socket] = []
    yield clients
    for one in clients:
        one.close()


def test_those_who_say_nothing_keep_nobody_out(port: int, silent: list[socket.socket]) -> None:
    """Of too many connections the oldest is cut, and at the end all of them."""
    with Listeners().answering(everywhere(port), talk, {"a": b"1"}, REMEDY):
        silent += [socket.create_connection(("127.0.0.1", port), timeout=5) for _ in range(2 * listener.CONNECTIONS)]
        assert ask(port, "a") == b"1"
        assert silent[0].recv(1) == b""
    assert all(_ended(one) for one in silent)


def _ended(client: socket.socket) -> bool:
    try:
        return client.recv(1) == b""
    except ConnectionResetError:  # it had not been accepted
        return True


def test_who_drips_is_cut_when_the_time_is_over(
    port: int, silent: list[socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "CONNECTION_S", 0.2)

    def patient(client: socket.socket, answers: Answers) -> None:
        while client.recv(1):
            pass

    with Listeners().answering(everywhere(port), patient, {"a": b"1"}, REMEDY):
        silent.append(socket.create_connection(("127.0.0.1", port), timeout=5))
        began = time.monotonic()
        with suppress(ConnectionResetError, BrokenPipeError):
            while time.monotonic() - began < 5:
                silent[0].sendall(b"x")
                time.sleep(0.02)
        assert time.monotonic() - began < 3


def test_what_the_talk_raises_ends_one_connection_only(port: int) -> None:
    def broken(client: socket.socket, answers: Answers) -> None:
        client.recv(100)
        raise BrokenPipeError

    with Listeners().answering(everywhere(port), broken, {"a": b"1"}, REMEDY):
        assert ask(port, "a") == b""
        assert ask(port, "a") == b""
