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


class _Format(logging.Formatter):
    _PRIORITY = {  # noqa: RUF012
        logging.DEBUG: 7,
        logging.INFO: 6,
        logging.WARNING: 4,
        logging.ERROR: 3,
        logging.CRITICAL: 2,
    }

    def format(self, record: logging.LogRecord) -> str:
        prefix = f"<{self._PRIORITY.get(record.levelno, 6)}>" if not sys.stderr.isatty() else ""
        return f"{prefix}{printable(record.getMessage())}"
