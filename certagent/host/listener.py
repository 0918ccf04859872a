"""Ports of this host that are open for the moment: closed as soon as nobody needs them.

Anybody may connect meanwhile, so a connection has a total time, and of too many the oldest is cut. Threads of this
process that want the same port share it. No other program's port is shared or taken over: SO_REUSEADDR only lets a
port be opened while old connections of it wait for their end (TIME_WAIT), and SO_REUSEPORT is not set.
"""

from __future__ import annotations

import errno
import math
import selectors
import socket
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress

from certagent.errors import Misconfigured, Transient
from certagent.host import processes
from certagent.host.deadline import Cut, left
from certagent.host.sockets import listening

CONNECTIONS = 32
"""At a time. A CA looks from some five places at once (Baseline Requirements 3.2.2.9); others may be curious."""
CONNECTION_S = 10.0
"""For one connection as a whole: a CA asks at once, and what is answered fits into one packet or two."""
BUSY_S = 60.0
"""How long another thread's answer of the same name is waited for: as long as a step waits for the CA's work."""

_ANY = "0.0.0.0"  # noqa: S104 -- a CA comes to any address of this host

Listen = tuple[tuple[str, int], ...]
"""Addresses with their ports."""
Answers = Mapping[str, bytes]
"""What is answered, by what is asked for."""
Talk = Callable[[socket.socket, Answers], None]
"""Talks to one client. The socket is closed after it, and cut when its time is over: an OSError is no failure."""


def everywhere(port: int) -> Listen:
    """The port at every address of this host."""
    return (_ANY, port), ("::", port)


class Listeners:
    """The ports of one process."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._ports: dict[tuple[Listen, Talk], _Listener] = {}

    @contextmanager
    def answering(self, listen: Listen, talk: Talk, answers: Answers, remedy: str) -> Generator[None]:
        """Within, who connects there is given these answers, beside those of other threads.

        Args:
            listen: where. Without IPv6 in this kernel `::` is left out.
            talk: how.
            answers: what.
            remedy: if another program has the port.

        Raises:
            Misconfigured: `challenge.port`: Another program has the port, or this one may not open it.
            Transient: `challenge.busy`: Another thread answers to the same name, and does not end.
        """
        if not answers:
            yield
            return
        key = (listen, talk)
        with self._changed:
            if not self._changed.wait_for(lambda: self._is_free(key, answers), left(BUSY_S)):
                raise Transient("challenge.busy", f"another certificate is validated for {', '.join(answers)}")
            listener = self._ports.get(key) or _Listener(listen, talk, remedy)
            self._ports[key] = listener
            listener.give(answers)
        try:
            yield
        finally:
            with self._changed:
                if not listener.take(answers):
                    del self._ports[key]
                    listener.close()
                self._changed.notify_all()

    def _is_free(self, key: tuple[Listen, Talk], answers: Answers) -> bool:
        listener = self._ports.get(key)
        return listener is None or listener.answers.keys().isdisjoint(answers)


class _Listener:
    """One open port, at one address or several."""

    def __init__(self, listen: Listen, talk: Talk, remedy: str) -> None:
        self.answers: dict[str, bytes] = {}
        self._talk = talk
        self._under_way: dict[Cut, float] = {}
        self._mutex = threading.Lock()
        with ExitStack() as undo:
            self._wake, self._woken = (undo.enter_context(one) for one in socket.socketpair())
            self._sockets = [undo.enter_context(one) for address in listen for one in _listening(address, remedy)]
            self._thread = threading.Thread(target=self._accept, name="listener", daemon=True)
            self._thread.start()
            self._close = undo.pop_all()

    def give(self, answers: Answers) -> None:
        """From now on."""
        self.answers = {**self.answers, **answers}  # another object: connections under way read the old one

    def take(self, answers: Answers) -> bool:
        """Not any more. Whether there are others."""
        self.answers = {name: value for name, value in self.answers.items() if name not in answers}
        return bool(self.answers)

    def close(self) -> None:
        """At once, also for connections under way."""
        self._wake.send(b".")
        self._thread.join()
        self._close.close()
        self._cut(before=math.inf)

    def _accept(self) -> None:
        with selectors.DefaultSelector() as selector:
            for one in (*self._sockets, self._woken):
                selector.register(one, selectors.EVENT_READ)
            while True:
                ready = selector.select(1.0 if self._under_way else None)
                self._cut(before=time.monotonic() - CONNECTION_S)
                for key, _ in ready:
                    if key.fileobj is self._woken:
                        return
                    assert isinstance(key.fileobj, socket.socket)
                    with suppress(OSError):  # gone again, or no descriptor is left
                        self._begin(key.fileobj.accept()[0])

    def _begin(self, connection: socket.socket) -> None:
        with ExitStack() as undo:
            undo.callback(connection.close)
            cut = Cut()
            cut.add(connection.fileno())
            undo.callback(cut.done)
            with self._mutex:
                self._under_way[cut] = time.monotonic()
                oldest = next(iter(self._under_way)) if len(self._under_way) > CONNECTIONS else None
            undo.callback(self._forget, cut)
            if oldest:
                oldest.now()
                self._forget(oldest)
            with suppress(RuntimeError):  # no more threads: it is closed
                threading.Thread(target=self._answer, args=(connection, cut), name="listener", daemon=True).start()
                undo.pop_all()

    def _answer(self, connection: socket.socket, cut: Cut) -> None:
        try:
            with connection, suppress(OSError):
                connection.settimeout(CONNECTION_S)
                self._talk(connection, self.answers)
        finally:
            self._forget(cut)
            cut.done()

    def _forget(self, cut: Cut) -> None:
        with self._mutex:
            self._under_way.pop(cut, None)

    def _cut(self, before: float) -> None:
        with self._mutex:
            over = [cut for cut, began in self._under_way.items() if began < before]
        for cut in over:
            cut.now()


def _listening(at: tuple[str, int], remedy: str) -> Iterator[socket.socket]:
    """The socket; none for IPv6 if this kernel has none."""
    address, port = at
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with ExitStack() as undo:
        try:
            one = undo.enter_context(socket.socket(family, socket.SOCK_STREAM))
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)  # IPv4 has another socket
            one.bind((address, port))
            one.listen(CONNECTIONS)
            one.setblocking(False)  # a client may be gone between select and accept
        except OSError as error:
            if address == "::" and error.errno in {errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL}:
                return
            raise _refused(at, error, remedy) from error
        undo.pop_all()
        yield one


def _refused(at: tuple[str, int], error: OSError, remedy: str) -> Misconfigured:
    address, port = at
    where = f"port {port} of {'this host' if address in {_ANY, '::'} else address}"
    if error.errno == errno.EADDRINUSE:
        names = sorted({processes.holder(one.inode) for one in listening() if one.port == port} - {""})
        return Misconfigured(
            "challenge.port", f"{where} is in use by {' and '.join(names) or 'another program'}", remedy
        )
    if error.errno in {errno.EACCES, errno.EPERM}:
        unit = "[Service] CapabilityBoundingSet=CAP_NET_BIND_SERVICE by `systemctl edit certagent`, then restart it"
        hint = f"run certagent as root; as a service it needs {unit}"
        return Misconfigured("challenge.port", f"{where} may not be opened: {error.strerror}", hint)
    return Misconfigured("challenge.port", f"{where} cannot be opened: {error.strerror}", "see: ip address; ss -ltn")
