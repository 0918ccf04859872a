"""certagent at the fake of a DNS service, with all that its processes are given written down.

`python -m tests.dns.audited LOG PROVIDER CONFIG ROUNDS`: PROVIDER is the class behind `type: tested`. Two writes are
made, and journaled if they fail. Then the zone is tried ROUNDS times, and the state is shown. DNS has all at once.
"""

from __future__ import annotations

import os
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

ZONE, CERTIFICATE = "example.org.", "mx1.example.org"
NAME = f"_acme-challenge.{CERTIFICATE}."


class Shown:
    """A resolver to which every change is shown at once."""

    def final(self, name: str) -> tuple[str, str]:
        return ZONE, name

    def wait_for_txt(self, name: str, values: frozenset[str], budget: timedelta) -> None: ...


def note(log: Path, *words: object) -> None:
    with log.open("a", encoding="utf-8") as file:
        print(*map(repr, words), file=file)


def main(log: Path, provider: str, config: str, rounds: int) -> None:
    def heard(event: str, given: tuple[Any, ...]) -> None:
        if event in ("subprocess.Popen", "os.exec", "os.posix_spawn", "os.system"):
            note(log, event, given)

    note(log, "certagent", sys.argv, dict(os.environ))
    sys.addaudithook(heard)
    from certagent.agent.act.outcome import failed
    from certagent.agent.act.records import add_txt
    from certagent.agent.plugins import BUILT_IN, DNS_PROVIDERS
    from certagent.agent.wiring import Wiring
    from certagent.cli.main import cli
    from certagent.config.load import load
    from certagent.errors import Error
    from certagent.lifecycle.lane import Lane

    BUILT_IN[DNS_PROVIDERS]["tested"] = provider
    Wiring._resolver = lambda _self: Shown()  # pyright: ignore

    def run(*words: str) -> None:
        try:
            cli([*words, "--config", config])
        except SystemExit as ended:
            print("exit", ended.code)

    wiring = Wiring(load(Path(config)))
    for value in ("x" * 43, "y" * 43):
        try:
            add_txt(wiring.zones, ZONE, NAME, frozenset({value}), 3600)
        except Error as error:
            wiring.journal.append(CERTIFICATE, failed(error, Lane("challenge", "ecdsa-p256")))
    for number in range(rounds):
        run("dns", "test", *(["--json"] if number % 2 else []))
    run("status", CERTIFICATE)
    run("status", "--json")
    run("history", CERTIFICATE)
    run("plan")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]))
