"""The log: one line for each step, in words that stay the same. It goes to standard error; systemd adds the date.

`certificate=mx1.example.org seq=12 step=Install lane="install postfix" outcome=done took=0.031 because="…"`. It never
holds a secret or PEM.
"""

from __future__ import annotations

import logging
import sys

from certagent.errors import printable
from certagent.report.step import StepReport

logger = logging.getLogger("certagent")

WORDS = {
    "certificate": ("the entry of the configuration", "steps, waits, `event=wrong`, `over`, `no_time_to_roll`"),
    "seq": ("the number of the last event in the journal (`certagent history NAME --after`)", "steps"),
    "step": ("what was done: one of the steps of docs/explanation/rollover.md", "steps"),
    "lane": ("its line of work: what a failure of it holds back", "steps"),
    "outcome": ("`done` or `failed`", "steps"),
    "took": ("seconds", "steps"),
    "because": ("the rule and the facts", "steps, waits, `event=wrong`, `over`, `no_time_to_roll`"),
    "kind": ("`transient`, `rejected`, `misconfigured`, `unsafe`, `error`", "failed steps"),
    "code": ("see docs/reference/errors.md", "failures, `event=wrong`, `over`"),
    "error": ("what failed", "failures"),
    "hint": ("the remedy", "failures, `event=wrong`"),
    "defect": ("where in certagent's code an unforeseen error came from", "with `--debug` only"),
    "event": ("what the daemon did: see below", "lines of the daemon itself"),
    "pid": ("the daemon's process", "`event=start`"),
    "config": ("the file", "`event=start`, `event=reload`"),
    "for_s": ("how long, in seconds", "`event=wait`, once for each new reason"),
    "about": ("a certificate, `reload` or `journal`", "failures outside of a step"),
    "then": ("what happens next", "failures outside of a step"),
}
"""Each word of a line: its meaning, and in which lines it stands. They are kept; new ones may be added."""
EVENTS = {
    "start": "the daemon begins",
    "stop": "the daemon ends",
    "reload": "the configuration was read again",
    "wait": "nothing to do for a certificate now",
    "wrong": "something is wrong although no step fails, as `certagent status` says first: an expired certificate, a"
    " change that DNS does not show; once, when it begins",
    "over": "that is so no longer",
    "no_time_to_roll": "the lifetime leaves too little room for rolls; once for each generation",
}
"""What the daemon logs besides steps and failures."""


def start(level: int = logging.INFO) -> None:
    """Send the log to standard error, with the syslog priority that systemd reads (sd-daemon(3))."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Format())
    logger.handlers = [handler]
    logger.setLevel(level)
    logger.propagate = False


def report(step: StepReport) -> None:
    """Log one step."""
    words: list[tuple[str, object]] = [
        (step.kind, step.name),
        ("seq", step.seq),
        ("step", type(step.step).__name__),
        ("lane", step.step.lane),
        ("outcome", "failed" if step.failure else "done"),
        ("took", f"{step.took_s:.3f}"),
        ("because", step.step.because),
    ]
    if step.failure:
        words += [("kind", step.failure.kind), ("code", step.failure.code), ("error", step.failure.detail)]
        if step.failure.hint:
            words.append(("hint", step.failure.hint))
    level = logging.CRITICAL if step.alarm else logging.ERROR if step.failure else logging.INFO
    logger.log(level, line(words))
    if step.defect:
        logger.debug(line([(step.kind, step.name), ("defect", step.defect)]))


def line(words: list[tuple[str, object]]) -> str:
    """logfmt: `key=value`, quoted if there is anything but letters, digits and a few signs."""
    return " ".join(f"{key}={_quoted(str(value))}" for key, value in words)


def _quoted(text: str) -> str:
    if text and all(c.isalnum() or c in "._:/@+-[]" for c in text):
        return text
    return '"' + printable(text).replace("\\", "\\\\").replace('"', '\\"') + '"'


_PRIORITY = {
    logging.DEBUG: 7,
    logging.INFO: 6,
    logging.WARNING: 4,
    logging.ERROR: 3,
    logging.CRITICAL: 2,
}


def priority(level: int) -> int:
    """The syslog priority of a level (RFC 5424 section 6.2.1)."""
    return _PRIORITY.get(level, 6)


class _Format(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        prefix = f"<{priority(record.levelno)}>" if not sys.stderr.isatty() else ""
        return f"{prefix}{printable(record.getMessage())}"
