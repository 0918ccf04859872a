"""The generated parts of the pages of errors and of the log."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tables import linked

from certagent.report.codes import Code, all_codes
from certagent.report.log import EVENTS, WORDS

AREAS = {
    "Configuration and secrets": {"config", "secret", "name"},
    "The certificate authority": {"ca", "challenge", "dryrun"},
    "DNS": {"dns"},
    "Mail server": {"mta"},
    "Keys, chains, disk, journal": {"dane", "pem", "tlsa", "vault", "store", "journal", "lease", "lock"},
    "certagent itself": {"abort", "cli", "internal", "step"},
}
"""The sections of the page, each with the first words of its codes."""


def error_codes() -> str:
    """A section for each area, and one for what no step reports."""
    every = all_codes()
    rest = {code: one for code, one in every.items() if one.kind == "condition"}
    lines: list[str] = []
    for area, words in AREAS.items():
        lines += _section(area, {c: one for c, one in every.items() if c.partition(".")[0] in words and c not in rest})
    said = "`certagent status` and `certagent check` say these first."
    return "\n".join([*lines, *_section("What no step reports", rest, said)])


def _section(title: str, codes: dict[str, Code], said: str = "") -> Iterator[str]:
    yield from (f"## {title}", "", *([said, ""] if said else []))
    yield from ("| code | kind | meaning | what to do |", "|---|---|---|---|")
    for code, one in codes.items():
        yield f"| `{code}` | {one.kind} | {_cell(one.meaning)} | {_cell(one.remedy)} |"
    yield ""


def log_words() -> str:
    """Each word of a line of the log."""
    rows = (f"| `{word}` | {_cell(meaning)} | {when} |" for word, (meaning, when) in WORDS.items())
    return "\n".join(["| word | meaning | when |", "|---|---|---|", *rows, ""])


def log_events() -> str:
    """Each event of the daemon."""
    rows = (f"| `{event}` | {_cell(meaning)} |" for event, meaning in EVENTS.items())
    return "\n".join(["| `event=` | meaning |", "|---|---|", *rows, ""])


def _cell(text: str) -> str:
    return linked(text.replace("|", "\\|"))


PARTS: dict[str, Callable[[], str]] = {
    "error-codes": error_codes,
    "log-words": log_words,
    "log-events": log_events,
}
