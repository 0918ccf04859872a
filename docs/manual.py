"""The generated parts of the manual page, in mdoc: synopsis, commands, exit statuses."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Callable, Iterator

import click
import tables

WIDTH = 78
ARGUMENT = {"PATH": "file", "INTEGER": "number"}
"""What the value of an option is called, by its type."""


def synopsis() -> str:
    """Every command with its options and arguments."""
    lines: list[str] = []
    for name, command in tables.all_commands():
        lines += [".Nm", f".Cm {name}"]
        lines += [f".Op {_option(option)}" for option in tables.options(command)]
        lines += [
            f"{'.Ar' if required else '.Op Ar'} {argument.lower()}{' ...' if many else ''}"
            for argument, many, required in _arguments(command)
        ]
    return "\n".join([*lines, ".Nm", ".Fl -version | Fl -help", ""])


def commands() -> str:
    """What each command does, and each of its options."""
    lines = [".Bl -tag -width Ds"]
    for name, command in tables.all_commands():
        lines += [f".It Cm {name}", *_paragraphs(command.help or "")]
        own = [option for option in tables.options(command) if option.name not in SHARED]
        if own:
            lines.append(".Bl -tag -width Ds")
            for option in own:
                lines += [f".It {_option(option)}", *_text(option.help or "")]
            lines.append(".El")
    return "\n".join([*lines, ".El", ""])


SHARED = {"path", "as_json"}
"""Options of several commands, which the page explains once."""


def exit_statuses() -> str:
    """Every exit status."""
    lines = [".Bl -tag -width 130"]
    for status, meaning in tables.all_exit_statuses():
        lines += [f".It {status}", *_text(meaning)]
    return "\n".join([*lines, ".El", ""])


def _option(option: click.Option) -> str:
    value = "" if option.is_flag else f" Ar {ARGUMENT[option.type.name.upper()]}"
    return f"Fl {option.opts[0][1:]}{value}"


def _arguments(command: click.Command) -> Iterator[tuple[str, bool, bool]]:
    """Name, whether there may be several, and whether there must be one."""
    for argument in command.params:
        if isinstance(argument, click.Argument):
            yield str(argument.name).removesuffix("s"), argument.nargs == -1, argument.required


def _paragraphs(text: str) -> list[str]:
    paragraphs = [_text(paragraph) for paragraph in inspect.cleandoc(text).split("\n\n")]
    return [line for number, lines in enumerate(paragraphs) for line in ([".Pp"] if number else []) + lines]


def _text(text: str) -> list[str]:
    """A paragraph as lines of mdoc: code is `.Ql`, options are `.Fl`, and no line begins by chance with a macro."""
    lines: list[str] = []
    for word in re.split(r"(`[^`]+`[.,:;)]*|(?<!\w)--[a-z-]+[.,:;)]*)", " ".join(text.split())):
        mark = re.fullmatch(r"(?:`([^`]+)`|--([a-z-]+))([.,:;)]*)", word)
        if mark:
            macro = f".Ql {_escaped(mark[1])}" if mark[1] else f".Fl -{mark[2]}"
            lines.append(" ".join([macro, *mark[3]]))
        else:
            lines += textwrap.wrap(_escaped(word.strip()), WIDTH, break_on_hyphens=False)
    return [f"\\&{line}" if line.startswith("'") else line for line in lines]


def _escaped(text: str) -> str:
    return text.replace("\\", "\\e").replace("…", "...")


PARTS: dict[str, Callable[[], str]] = {
    "man-synopsis": synopsis,
    "man-commands": commands,
    "man-exit-statuses": exit_statuses,
}
