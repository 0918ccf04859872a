"""The generated parts of a reader who looks something up: configuration, commands, events, the tree of the code."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast, get_args

import click
import msgspec

import certagent
from certagent.agent.plugins import DNS_PROVIDERS, MAIL_SERVERS, built_in
from certagent.cli import schema as schema_command
from certagent.cli.errors import Exit
from certagent.cli.main import cli
from certagent.config import schema
from certagent.lifecycle import events
from certagent.mta import layout
from certagent.report.schemas import texts

PACKAGE = Path(certagent.__file__).parent
WIDTH = 100
HEADINGS = {
    schema.File: "The file",
    schema.Ca: "`ca`: certificate authorities",
    schema.Dns: "`dns`",
    schema.Certificate: "`certificates`",
    schema.ChallengeKeys: "`challenge`, of a certificate",
    schema.Dane: "`dane`, of a certificate",
    schema.ServiceKeys: "`services`, of a mail server",
}
"""The sections of the file, in their order."""


# -- the configuration -----------------------------------------------------------------------------------------------


def configuration() -> str:
    """Every section of the configuration file: its keys, their values, defaults and meaning."""
    parts = [_section(heading, section) for section, heading in HEADINGS.items()]
    shared = {layout.Access: "Keys of every mail server", layout.Files: "Files of one key type"}
    for group, title in ((DNS_PROVIDERS, "DNS provider"), (MAIL_SERVERS, "Mail server")):
        for name, plugin in built_in(group):
            parts.append(_section(f"{title}: `type: {name}`", plugin.Options, without=layout.Access))
            parts += [_section(f"`{key}`, of {name}", s) for key, s in _inner(plugin.Options) if s not in shared]
    parts += [_section(heading, section) for section, heading in shared.items()]
    return "\n".join(parts)


def _section(heading: str, struct: type[msgspec.Struct], without: type[msgspec.Struct] | None = None) -> str:
    left_out = without.__struct_fields__ if without else ()
    meanings = texts(struct)
    info = cast("msgspec.inspect.StructType", msgspec.inspect.type_info(struct))
    lines = [f"## {heading}", "", *_wrapped(inspect.cleandoc(struct.__doc__ or "")), ""]
    lines += ["| key | value | default | meaning |", "|---|---|---|---|"]
    for field in (field for field in info.fields if field.name not in left_out):
        default = "required" if field.required else _default(field)
        lines.append(
            f"| `{field.encode_name}` | {_value(field.type)} | {default} | {_cell(meanings.get(field.name, ''))} |"
        )
    return "\n".join(lines) + "\n"


def _inner(struct: type[msgspec.Struct]) -> Iterator[tuple[str, type[msgspec.Struct]]]:
    """Sections inside of a section, such as `sni` of Postfix."""
    for field in cast("msgspec.inspect.StructType", msgspec.inspect.type_info(struct)).fields:
        for kind in _kinds(field.type):
            if isinstance(kind, msgspec.inspect.StructType):
                yield field.encode_name, kind.cls


def _kinds(kind: msgspec.inspect.Type) -> Iterator[msgspec.inspect.Type]:
    if isinstance(kind, msgspec.inspect.UnionType):
        for one in kind.types:
            yield from _kinds(one)
    elif isinstance(kind, msgspec.inspect.DictType):
        yield from _kinds(kind.value_type)
    else:
        yield kind


def _default(field: msgspec.inspect.Field) -> str:
    value = field.default_factory() if field.default is msgspec.NODEFAULT else field.default
    if value is None or value in ((), {}, ""):
        return "–"
    if isinstance(value, float):
        return f"`{value:g}`"
    return f"`{value if isinstance(value, str) else msgspec.json.encode(value).decode()}`"


def _value(kind: msgspec.inspect.Type) -> str:
    """A type in words."""
    match kind:
        case msgspec.inspect.Metadata(type=inner):
            extra = cast("dict[str, str]", cast("Any", kind).extra_json_schema or {})
            words = extra.get("title") or _value(inner)
        case msgspec.inspect.UnionType(types=types):
            some = [_value(t) for t in types if not isinstance(t, msgspec.inspect.NoneType)]
            words = " or ".join(dict.fromkeys(some))
        case msgspec.inspect.VarTupleType(item_type=item):
            words = f"list of {_value(item)}"
        case msgspec.inspect.DictType(value_type=msgspec.inspect.AnyType() | msgspec.inspect.DictType()):
            words = "sections by name"
        case msgspec.inspect.DictType(value_type=inner):
            words = f"map to {_value(inner)}"
        case msgspec.inspect.LiteralType(values=values):
            words = ", ".join(f"`{value}`" for value in values)
        case msgspec.inspect.IntType(ge=low, le=high) | msgspec.inspect.FloatType(ge=low, le=high):
            words = "number" if low is None or high is None else f"number, {low} to {high}"
        case msgspec.inspect.BoolType():
            words = "`true`, `false`"
        case msgspec.inspect.StructType() | msgspec.inspect.AnyType():
            words = "a section"
        case _:
            words = "text"
    return words


# -- commands --------------------------------------------------------------------------------------------------------


def commands() -> str:
    """Every command with its arguments and options, as `--help` has them."""
    return "\n".join(_command(name, command) for name, command in all_commands())


def all_commands() -> Iterator[tuple[str, click.Command]]:
    """Every command by its name, in the order of the help."""
    assert isinstance(cli, click.Group)
    context = click.Context(cli, info_name="certagent")
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from ((f"{name} {part}", sub) for part, sub in command.commands.items())
        else:
            yield name, command


def options(command: click.Command) -> list[click.Option]:
    """The options of a command."""
    return [option for option in command.params if isinstance(option, click.Option)]


def _arguments(command: click.Command) -> str:
    context = click.Context(command)
    return " ".join(
        argument.make_metavar(context) for argument in command.params if isinstance(argument, click.Argument)
    )


def _command(name: str, command: click.Command) -> str:
    usage = " ".join(filter(None, ["certagent", name, "[OPTIONS]", _arguments(command)]))
    lines = [f"## {name}", "", "```", usage, "```", "", *_paragraphs(command.help or ""), ""]
    lines += ["| option | meaning |", "|---|---|"]
    for option in options(command):
        metavar = "" if option.is_flag else f" {option.make_metavar(click.Context(command))}"
        lines.append(f"| `{', '.join(option.opts)}{metavar}` | {_cell(option.help or '')} |")
    return "\n".join(lines) + "\n"


def exit_statuses() -> str:
    """Every exit status of the command line."""
    rows = [f"| {status} | {meaning} |" for status, meaning in all_exit_statuses()]
    return "\n".join(["| exit status | meaning |", "|---|---|", *rows, ""])


def all_exit_statuses() -> list[tuple[int, str]]:
    """The statuses with what the source says of each."""
    meanings = texts(Exit)
    return [(int(status), meanings[status.name]) for status in Exit]


# -- events ----------------------------------------------------------------------------------------------------------


COMMON = {
    "key_type": "Such as `ecdsa-p256`.",
    "keys": "The key set, such as `k1`.",
    "generation": "Such as `g1`.",
    "server": "The mail server, by its name in the configuration.",
    "mail_servers": "Mail servers, by their names in the configuration.",
    "tlsa_name": "Such as `_25._tcp.mx1.example.org.`",
    "values": "TLSA records as text, such as `3 1 1 9f86…`.",
    "served": "What each handshake met.",
}
"""What fields mean that several events have."""


def journal_events() -> str:
    """Every event with its fields, as the journal has them."""
    lines: list[str] = []
    for kind in get_args(events.AnyEvent):
        meanings = COMMON | texts(kind)
        lines += [f"## {kind.__name__}", "", *_wrapped(inspect.cleandoc(kind.__doc__ or "")), ""]
        fields = [f for f in msgspec.structs.fields(kind) if f.name != "lane"]
        if fields:
            lines += ["| field | type | meaning |", "|---|---|---|"]
            for field in fields:
                meaning = _cell(meanings.get(field.name, ""))
                lines.append(f"| `{field.encode_name}` | {_annotation(kind, field.name)} | {meaning} |")
            lines.append("")
    return "\n".join(lines)


def _annotation(kind: type, name: str) -> str:
    for cls in kind.__mro__:
        if name in inspect.get_annotations(cls):
            return f"`{_cell(str(inspect.get_annotations(cls)[name]))}`"
    raise AssertionError(name)


# -- JSON ------------------------------------------------------------------------------------------------------------


def json_documents() -> str:
    """What each command prints with `--json`, from the schemas."""
    lines: list[str] = []
    for document, title in schema_command.TITLES.items():
        if document != "config":
            found = schema_command.made(document)
            parts = dict(found["$defs"])
            lines += [f"## {document}", "", f"{title}.", ""]
            lines += _json_fields(document, parts.pop(found["$ref"].rpartition("/")[2]))
            for name in sorted(parts):
                lines += [f"### {document}: {name}", "", *_wrapped(parts[name].get("description", "")), ""]
                lines += _json_fields(document, parts[name])
    return "\n".join(lines)


def _json_fields(document: str, part: Any) -> list[str]:
    lines = ["| field | value | meaning |", "|---|---|---|"]
    for name, field in part.get("properties", {}).items():
        optional = "" if name in part.get("required", ()) else "; may be absent"
        meaning = _cell(field.get("description", ""))
        lines.append(f"| `{name}` | {_json_value(document, field)}{optional} | {meaning} |")
    return [*lines, ""]


def _json_value(document: str, field: Any) -> str:
    match field:
        case {"$ref": str(ref)}:
            name = ref.rpartition("/")[2]
            words = f"[{name}](#{document}-{name.lower()})"
        case {"anyOf": choices}:
            words = " or ".join(_json_value(document, choice) for choice in choices)
        case {"enum": values}:
            words = ", ".join(f"`{value}`" for value in values)
        case {"const": value}:
            words = f"`{value}`"
        case {"type": "array", "items": items}:
            words = f"list of {_json_value(document, items)}"
        case {"type": "object", "additionalProperties": inner}:
            words = f"map to {_json_value(document, inner)}"
        case {"format": "date-time"}:
            words = "date, RFC 3339"
        case {"type": str(kind)}:
            words = {"string": "text", "boolean": "`true`, `false`", "integer": "number"}.get(kind, kind)
        case _:
            words = "any"
    return words


# -- the tree of the code --------------------------------------------------------------------------------------------


def architecture() -> str:
    """Every folder with its files, each with the first sentence of its docstring."""
    lines: list[str] = []
    for folder in sorted({path.parent for path in PACKAGE.rglob("*.py")}):
        name = folder.relative_to(PACKAGE.parent).as_posix()
        lines += [f"### {name}/", "", *_wrapped(_doc(folder / "__init__.py", whole=folder != PACKAGE)), ""]
        files = [path for path in sorted(folder.glob("*.py")) if path.name != "__init__.py"]
        if files:
            lines += ["| file | |", "|---|---|"]
            lines += [f"| `{path.name}` | {_cell(_doc(path))} |" for path in files]
            lines.append("")
    return "\n".join(lines)


def _doc(path: Path, *, whole: bool = False) -> str:
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return text if whole else first_sentence(text)


# -- text ------------------------------------------------------------------------------------------------------------


def first_sentence(text: str) -> str:
    """The first sentence, in one line. One that leads to a list ends before the list."""
    plain = " ".join(text.split("\n\n", 1)[0].split())
    end = re.search(r"(?<![A-Z])\.(?= [A-Z`]|$)", plain)
    return plain[: end.start() + 1] if end else f"{plain.rstrip('.:')}."


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _paragraphs(text: str) -> list[str]:
    return "\n\n".join("\n".join(_wrapped(paragraph)) for paragraph in inspect.cleandoc(text).split("\n\n")).split("\n")


def _wrapped(text: str) -> list[str]:
    """Paragraphs and lists, each item of a list in its own lines."""
    lines: list[str] = []
    for paragraph in text.split("\n\n"):
        lines.append("")
        for part in re.split(r"\n(?=- )", paragraph):
            indent = "  " if part.startswith("- ") else ""
            plain = " ".join(part.split())
            lines += textwrap.wrap(
                plain, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
            )
    return lines[1:]


PARTS: dict[str, Callable[[], str]] = {
    "configuration": configuration,
    "commands": commands,
    "exit-statuses": exit_statuses,
    "events": journal_events,
    "json": json_documents,
    "architecture": architecture,
}
