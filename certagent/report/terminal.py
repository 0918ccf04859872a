"""What is printed: nothing that a terminal obeys. A name in a certificate, the words of a CA or of a
program may hold any character.
"""

from __future__ import annotations

import json
import os
import sys
import textwrap

import click

_ASCII = str.maketrans({"●": "+", "◐": "~", "✖": "!", "→": ">", "━": "=", "▶": ">", "┄": ".", "–": "-", "…": "~"})
"""For a terminal that knows no others."""
_COLOURS = {"●": "green", "◐": "yellow", "▶": "yellow", "✖": "red"}


def say(text: str, *, err: bool = False, nl: bool = True) -> None:
    """Print it for people; `?` stands for what cannot be seen."""
    click.echo(_seen(text, "\n\t", err=err), err=err, nl=nl)


def _seen(text: str, more: str, *, err: bool = False) -> str:
    """What can be seen of it, and what the stream can encode."""
    clean = "".join(c if c.isprintable() or c in more else "?" for c in text)
    encoding = (sys.stderr if err else sys.stdout).encoding or "utf-8"
    try:
        clean.encode(encoding)
    except UnicodeEncodeError:
        return clean.translate(_ASCII).encode(encoding, "replace").decode(encoding)
    return clean


def columns() -> int | None:
    """How wide the terminal is; None if there is none: lines are not broken for a program."""
    if not sys.stdout.isatty():
        return None
    return os.get_terminal_size(sys.stdout.fileno()).columns or 80  # what says nothing of its width has at least these


def wrapped(text: str, width: int | None, indent: str = "    ") -> list[str]:
    """A paragraph below its head; words, paths and URLs are not broken, so that they can be copied."""
    if width is None:
        return [f"{indent}{text}"]
    return textwrap.wrap(
        text,
        max(width, 40),
        initial_indent=indent,
        subsequent_indent=indent and f"{indent}  ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def show(text: str) -> None:
    """Print a screen with its marks in colour: only on a terminal, and not where `NO_COLOR` is set (no-color.org)."""
    if not sys.stdout.isatty() or os.environ.get("NO_COLOR"):
        say(text)
        return
    click.echo("".join(click.style(c, fg=_COLOURS[c]) if c in _COLOURS else c for c in _seen(text, "\n")))


def escaped(document: str) -> str:
    """JSON of the same meaning in which every character can be seen."""
    if document.replace("\n", "").isprintable():
        return document
    return "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in document)
