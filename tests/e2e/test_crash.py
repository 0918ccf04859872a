"""kill -9 at any line loses nothing: rolls on real servers whose process is killed between any two journaled steps, and
at random instants, finish after a restart; and no sender and no client ever notices. Every port has TLSA records, and
a prober with caches of its own.

CERTAGENT_KILLS=100 kills that often at random instants.
"""

from __future__ import annotations

import json
import os
import random
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NoReturn, Self, cast

import pytest

from tests.e2e.site import NAME, ROOT, Done, Site, Strict
from tests.e2e.watch import HOLD_S, Watch
from tests.lab.dns import Dns
from tests.lab.pebble import Pebble
from tests.lab.postfix import Sender

KILLS = int(os.environ.get("CERTAGENT_KILLS", "60"))
PER_ROLL = 1 if KILLS >= 100 else 3
"""How often one roll is killed between two of its steps, before it may finish."""
EDGES = ("acme.client", "dns.authority", "dns.providers.rfc2136", "mta.postfix.server", "probe.handshake", "pki.keys")
MODULES = [f"certagent.{name}" for name in ("agent.turn", "cli.renew", *EDGES)]
"""What a run loads; once for all of them."""
MOST_DEATHS = 60
"""A first issue has about thirty entries."""


class Victim:
    """Runs the real program, each time in a new process that can be killed; the modules are loaded only once."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.e2e.test_crash"],
            cwd=ROOT,
            env=site.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, *args: str, code: int | None = 0, nth: int = 0, at: Sequence[str] = (), after_s: float = 0) -> Done:
        """Runs `certagent ARGS` to its end, or SIGKILLs it: when the nth entry is in the journal, at the first of these
        boundaries (`after Install!`, `before Installed`), or after a time."""
        out, err = self._site.place / "victim.out", self._site.place / "victim.err"
        asked = {"args": args, "nth": nth, "at": at, "after_s": after_s, "out": str(out), "err": str(err)}
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        ended = int(self._process.stdout.readline())
        done = Done(args, ended, out.read_text(), err.read_text())
        if ended == -signal.SIGKILL:
            return done
        return self._site.judge(done, code)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(10)


@pytest.fixture
def site(place: Path, lab_dns: Dns, pebble: Pebble) -> Iterator[Site]:
    with Site(place, lab_dns, pebble) as site:
        site.publish_all()
        site.write()
        yield site


@pytest.fixture
def victim(site: Site) -> Iterator[Victim]:
    with Victim(site) as victim:
        yield victim


def finish(site: Site, victim: Victim) -> None:
    """A normal run brings everything to its end, and nothing is lost or left."""
    victim.run("renew", "--wait")
    victim.run("history", NAME)  # verifies the journal
    site_is_whole(site, victim)


def site_is_whole(site: Site, victim: Victim) -> None:
    """`Site.assert_converged`, by the quick way."""
    state = site.state()
    newest = [g for g in state["generations"] if g["keys"]][-1]
    key = f"3 1 1 {newest['chains']['ecdsa-p256']['spki']}"
    assert site.served() == {key}
    site.assert_published({key}, json.loads(victim.run("tlsa", "--json").out)["records"])
    assert [g["id"] for g in state["generations"]] == [newest["id"]]
    assert state["keys"][0]["id"] == newest["keys"]
    assert {p.name for p in (site.state_dir / "vault" / NAME).iterdir()} == {
        newest["id"],
        *(k["id"] for k in state["keys"]),
    }
    assert site.challenges() == [[], []]
    assert site.leftovers() == []
    assert (state["failing"], state["orders"], state["challenges"], state["requested"]) == ([], {}, [], None)


def test_killed_between_any_two_steps_of_a_roll_it_finishes_after_a_restart(
    site: Site, victim: Victim, sender: Sender
) -> None:
    """SIGKILL after each kind of entry in the journal (an intent is noted and nothing done yet), and before each kind
    of outcome (done, and not noted); then a normal run brings the roll to its end."""
    victim.run("renew", "--wait")
    victim.run("renew", "--force", "--wait")
    roll = site.kinds()
    roll = roll[max(i for i, kind in enumerate(roll) if kind == "Requested") :]
    todo = {f"after {kind}" for kind in roll} | {f"before {kind}" for kind in roll if not kind.endswith("!")}
    assert len(todo) > 35
    with Watch(site, sender, "killed at every step boundary") as watch:
        while todo:
            served = site.served([25])
            before, asked = len(todo), False
            for _ in range(PER_ROLL):
                died = victim.run("renew", *([] if asked else ["--force"]), "--wait", at=sorted(todo))
                if died.code == 0:
                    break
                assert died.code == -signal.SIGKILL
                watch.kills += 1
                last = died.err.strip().splitlines()[-1]
                todo.remove(last)
                asked = asked or last != "before Requested"
            finish(site, victim)
            assert site.served([25]) != served or not asked, "the roll was lost"
            assert len(todo) < before, f"never reached: {todo}"


def test_killed_between_any_two_steps_of_the_first_issue_it_finishes_after_a_restart(
    site: Site, victim: Victim
) -> None:
    """One life, killed again and again: every process dies after eight entries, and the roll comes to its end.

    A step has up to three; whoever dies earlier each time never gets beyond the longest of them. Five more are what
    the operator's request itself brings: that it came, that each of three names was observed, and that what is served
    was verified.
    """
    deaths = 0
    with Strict() as witness:
        while victim.run("renew", "--wait", nth=8).code != 0:
            deaths += 1
            assert deaths < MOST_DEATHS
        witness.stop()
    assert deaths >= 5
    assert witness.harm() == []
    finish(site, victim)


class TestAtRandomInstants:
    @pytest.mark.parametrize("standby", [True, False])
    def test_rolls_finish_and_nobody_notices(self, site: Site, victim: Victim, sender: Sender, standby: bool) -> None:
        """SIGKILL whenever: in the middle of a write, a handshake, a reload; and while it waits for caches, which it
        does before each swap where there is no standby key."""
        site.certificate["standby"] = standby
        site.write()
        victim.run("renew", "--wait")
        seed = int(os.environ.get("CERTAGENT_SEED", random.randrange(1 << 32)))
        draw = random.Random(seed)
        print(f"CERTAGENT_SEED={seed}")
        with Watch(site, sender, f"killed at random instants, {'a' if standby else 'no'} standby key") as watch:
            while watch.kills < KILLS / 2:
                served = site.served([25])
                if standby:
                    time.sleep(HOLD_S)  # until it is in every cache: the swap follows upon the issue
                victim.run("renew", "--rotate", at=["after Requested"])
                within = 0.6
                while victim.run("renew", "--wait", after_s=draw.uniform(0.1, within)).code == -signal.SIGKILL:
                    watch.kills += 1
                    within *= 1.2  # one of them will come to its end, on a busy machine too
                finish(site, victim)
                assert site.served([25]) != served, "the roll was lost"


# ---- the process that is forked for each run -------------------------------------------------------------------------


def _serve() -> None:
    """Reads what to run, one JSON a line; answers with exit codes."""
    for module in MODULES:
        import_module(module)
    for line in sys.stdin:
        asked = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _become(asked)
        if asked["after_s"]:
            fd = os.pidfd_open(pid)
            if not select.select([fd], [], [], asked["after_s"])[0]:
                os.kill(pid, signal.SIGKILL)
            os.close(fd)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


def _become(asked: dict[str, Any]) -> NoReturn:
    from certagent.cli import main

    null, out, err = (os.open(p, os.O_RDWR | os.O_CREAT | os.O_TRUNC) for p in (os.devnull, asked["out"], asked["err"]))
    for target, fd in enumerate((null, out, err)):
        os.dup2(fd, target)
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")  # noqa: SIM115
    sys.argv = ["certagent", *asked["args"]]
    if asked["nth"] or asked["at"]:
        _kill_at(asked["nth"], asked["at"], sys.stderr)
    try:
        main.main()
    except SystemExit as end:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(int(end.code or 0))
    finally:
        os._exit(70)


def _kill_at(nth: int, boundaries: Sequence[str], log: IO[str]) -> None:
    """Dies when the nth entry is durable, or at one of the boundaries."""
    from certagent.lifecycle.events import AnyEvent, Intended
    from certagent.lifecycle.state import State
    from certagent.store.journal import Journal, Known

    real = cast("Callable[..., Known[State]]", Journal.append)  # pyright: ignore[reportUnknownMemberType]
    count = 0

    def append(
        self: Journal[State, AnyEvent], name: str, *events: AnyEvent, expected: int | None = None
    ) -> Known[State]:
        nonlocal count
        count += 1
        # several entries of one outcome are one append: the last tells what came of it
        last = events[-1]
        kind = f"{type(last.step).__name__}!" if isinstance(last, Intended) else type(last).__name__
        if f"before {kind}" in boundaries:
            _die(f"before {kind}", log)
        known = real(self, name, *events, expected=expected)
        if f"after {kind}" in boundaries or count == nth:
            _die(f"after {kind}", log)
        return known

    Journal.append = append  # pyright: ignore[reportAttributeAccessIssue]


def _die(where: str, log: IO[str]) -> None:
    print(where, file=log, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(10)


if __name__ == "__main__":
    _serve()
