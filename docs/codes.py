"""The generated parts of the pages of errors and of the log."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from logged import logged
from raised import exits, raised
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
    yield from ("| code | kind | exit status | meaning | what to do |", "|---|---|---|---|---|")
    for code, one in codes.items():
        status = "1 or 3" if one.kind == "condition" else exits(code, one.kind)
        yield f"| `{code}` | {one.kind} | {status} | {_cell(one.meaning)} | {_cell(one.remedy)} |"
    yield ""


def error_texts() -> str:
    """What is printed with each code, as far as it stands in the code."""
    lines = ["| code | error | hint |", "|---|---|---|"]
    for code in all_codes():
        texts = sorted({(one.detail, one.hint) for one in raised().get(code, ()) if one.detail.strip("…: ;")})
        lines += [f"| `{code}` | {_plain(detail)} | {_plain(hint.strip('…') and hint)} |" for detail, hint in texts]
    return "\n".join([*lines, ""])


def _plain(text: str) -> str:
    """A text as it is printed: nothing in it is markup, but a page that it names becomes a link."""
    return linked(re.sub(r"([|<>*_\[\]`\\])", r"\\\1", " ".join(text.split())))


def log_words() -> str:
    """Each word of a line of the log."""
    rows = (f"| `{word}` | {_cell(meaning)} | {when} |" for word, (meaning, when) in WORDS.items())
    return "\n".join(["| word | meaning | when |", "|---|---|---|", *rows, ""])


def log_events() -> str:
    """Each event of the daemon, with its priority and the words of its line."""
    lines, made = ["| `event=` | meaning | priority | words |", "|---|---|---|---|"], logged()
    for event, meaning in EVENTS.items():
        priorities, words = made[event]
        lines.append(
            f"| `{event}` | {_cell(meaning)} | {' or '.join(priorities)} | {', '.join(f'`{w}`' for w in words)} |"
        )
    return "\n".join([*lines, ""])


def _cell(text: str) -> str:
    return linked(text.replace("|", "\\|"))


PARTS: dict[str, Callable[[], str]] = {
    "error-codes": error_codes,
    "error-texts": error_texts,
    "log-words": log_words,
    "log-events": log_events,
}
