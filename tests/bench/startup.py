"""How long the commands take that people and monitors call often: `python -m tests.bench.startup`, as root.

Medians of RUNS runs, beside an empty Python; then the modules that cost most on the way to `status`.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys

from tests.bench import measure
from tests.bench.renew import certagent, configure
from tests.lab import Lab, namespace

RUNS = 20
HEAVIEST = 12
_LINE = re.compile(r"import time:\s+(?P<self>\d+) \|\s+(?P<all>\d+) \|(?P<indent> +)(?P<name>\S+)")


def table(environment: dict[str, str]) -> list[str]:
    """The Markdown table."""
    lines = ["| command | wall ms | CPU ms | MB |", "|---|---|---|---|"]
    commands = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "certagent --version": [*certagent(), "--version"],
        "certagent --help": [*certagent(), "--help"],
        "certagent status": [*certagent(), "status"],
        "certagent status --json": [*certagent(), "status", "--json"],
        "certagent plan": [*certagent(), "plan"],
        "certagent tlsa": [*certagent(), "tlsa"],
    }
    for name, argv in commands.items():
        runs = [measure.run(argv, environment) for _ in range(RUNS)]
        wall, cpu, rss, _ = (measure.median(values) for values in zip(*runs, strict=True))
        lines.append(f"| `{name}` | {wall * 1000:.0f} | {cpu * 1000:.0f} | {rss:.0f} |")
    return lines


def heaviest(environment: dict[str, str], *arguments: str) -> list[str]:
    """The modules that cost most, with all that they import; a hint of what might be loaded later."""
    argv = [sys.executable, "-X", "importtime", "-m", "certagent", *arguments]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, env={**os.environ, **environment})
    found = [(int(match["all"]), match["name"]) for match in _LINE.finditer(done.stderr)]
    return [f"{cost / 1000:7.1f} ms  {name}" for cost, name in sorted(found, reverse=True)[:HEAVIEST]]


def main() -> int:
    """The exit code."""
    if not namespace.inside():
        namespace.enter([sys.executable, "-m", "tests.bench.startup"])
    with Lab() as lab:
        environment = {"CERTAGENT_CONFIG": str(configure(lab, namespace.directory()))}
        subprocess.run(
            [*certagent(), "renew"], check=True, env={**os.environ, **environment}, stdout=subprocess.DEVNULL
        )
        print("\n".join(table(environment)))
        for arguments in (["--version"], ["status"], ["renew"]):
            print(f"\nimports of `certagent {' '.join(arguments)}`, with all that each imports:")
            print("\n".join(heaviest(environment, *arguments)))
    print(f"\nMedians of {RUNS} runs; Python {sys.version.split()[0]}, {os.cpu_count()} processors.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
