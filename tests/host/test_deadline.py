"""A whole ends when its time is over, whatever its parts wait for."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from certagent.agent import wiring
from certagent.host import deadline
from certagent.host.deadline import Overdue, carried, connected, cutting, left, total
from certagent.host.programs import run

ENDS_S = 60


def test_what_is_left_is_the_smallest_of_all() -> None:
    assert left(5) == 5
    with total(100):
        assert left(5) == 5
        with total(3):
            assert 2 < left(5) <= 3
        with total(1000):
            assert left(500) <= 100
    assert left(5) == 5


@pytest.mark.parametrize("wait", [left, partial(run, ["/bin/true"]), partial(connected, "127.0.0.1", 1)])
def test_nothing_is_begun_when_nothing_is_left(wait: Callable[[float], object]) -> None:
    with total(0), pytest.raises(Overdue, match=r"step\.overdue"):
        wait(5)


def test_another_thread_knows_the_end_if_it_is_told() -> None:
    with total(3), ThreadPoolExecutor(1) as pool:
        assert pool.submit(carried(left), 5.0).result() <= 3
        assert pool.submit(left, 5.0).result() == 5


def test_a_program_that_hangs_ends_with_the_whole() -> None:
    with total(1), pytest.raises(Exception, match="no end after") as info:
        run(["/bin/sleep", "600"], 600)
    assert info.value.args[0] == "run.failed"


def test_a_connection_is_cut_in_the_middle_of_a_wait_and_at_once_afterwards() -> None:
    """Also if its own descriptor was closed meanwhile, or given to another object, as TLS does."""
    one, other = socket.socketpair()
    with one, other, cutting(0.1) as cut:
        cut.add(one.fileno())
        moved = socket.socket(fileno=one.detach())
        with moved:
            moved.settimeout(ENDS_S)
            assert moved.recv(1) == b""
    assert cut.over
    third, fourth = socket.socketpair()
    with third, fourth:
        cut.add(third.fileno())
        third.settimeout(ENDS_S)
        assert third.recv(1) == b""
        cut.done()


def test_what_is_done_in_time_is_not_cut() -> None:
    one, other = socket.socketpair()
    with one, other:
        with cutting(ENDS_S) as cut:
            cut.add(one.fileno())
        cut.now()
        other.sendall(b"x")
        assert one.recv(1) == b"x"


def test_all_addresses_together_have_one_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """None of a hundred silent ones gets the whole time for itself."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as silent:
        address = silent.getsockname()
        waiting = [socket.socket() for _ in range(8)]  # a full queue: no more SYN is answered
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(address)
        many = socket.getaddrinfo(*address, type=socket.SOCK_STREAM) * 100

        def resolved(*_: object, **__: object) -> object:
            return many

        monkeypatch.setattr(socket, "getaddrinfo", resolved)
        began = time.monotonic()
        with pytest.raises(OSError, match="timed out"):
            connected("silent.example", 1, 0.5)
        assert time.monotonic() - began < ENDS_S / 2
        for one in waiting:
            one.close()


def test_a_step_ends_before_its_lease_and_before_others_give_up_their_wait_for_the_lock() -> None:
    assert deadline.STEP_S + 60 <= wiring.LEASE_S
