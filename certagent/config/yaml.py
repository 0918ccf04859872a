"""A YAML file with the line of each key, so that every error names file, line and key.

What YAML can do beyond a configuration is refused before it is built: aliases, tags, deep nesting. So are numbers that
it reads otherwise than people do, and characters that nobody sees.
All errors are `config.…` (Usage).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, cast, get_args, get_origin, get_type_hints

import msgspec
import yaml

from certagent.errors import Error, Usage
from certagent.host.files import read_trusted

MAX_DEPTH = 20
"""The deepest key of a configuration is at 7."""

MAX_BYTES = 64 * 1024 * 1024
"""A hundred thousand certificates fit in half of it; more is not a configuration."""

_INT = "tag:yaml.org,2002:int"
_NO_TAG = (None, "!")
"""`!` alone says that a value is text, as quotes do."""

T = TypeVar("T")


class Section(msgspec.Struct, frozen=True):
    """Options of a plug-in: its type, and the rest, to be checked by the plug-in's `Options` (`Config.options`)."""

    type: str
    options: dict[str, Any]
    place: tuple[str, ...]


class Reader:
    """Turns YAML into values and remembers on which line each key stands."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lines: dict[tuple[str, ...], int] = {}

    def wrong(self, code: str, place: tuple[str, ...], detail: str, hint: str) -> Usage:
        """An error at a place: the line of the nearest key that stands in the file."""
        if not self._lines:  # the value was read by another Reader, or comes from the cache
            with suppress(Error):
                self.parse(read_trusted(self.path, MAX_BYTES).decode("utf-8", "replace"))
        line = next((self._lines[place[:n]] for n in range(len(place), -1, -1) if place[:n] in self._lines), 1)
        where = ".".join(place)
        return Usage(code, f"{self.path}:{line}: {where}{': ' if where else ''}{detail}", hint)

    def parse(self, text: str) -> object:
        """The document as plain values.

        Raises:
            Usage: `config.yaml`, `config.key`: It is not YAML, or a key stands there twice.
        """
        kind: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        self._inspect(text, kind)
        loader: Any = kind(text)
        try:
            node = loader.get_single_node()
            return self._value(loader, node, ()) if node is not None else {}
        except yaml.YAMLError as error:
            raise self._not_yaml(error) from None
        finally:
            loader.dispose()

    def _inspect(self, text: str, kind: Any) -> None:
        """Before anything is built: no aliases (a few make a document of gigabytes), no tags, and no deep nesting."""
        depth = 0
        try:
            for event in cast("Iterable[yaml.Event]", yaml.parse(text, Loader=kind)):  # pyright: ignore[reportUnknownMemberType]
                depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
                if isinstance(event, yaml.AliasEvent):
                    problem, hint = "an alias (*) is not used here", "write it out"
                elif getattr(event, "tag", None) not in _NO_TAG:
                    problem, hint = "a tag (!) is not used here", "put the value in quotes"
                elif depth > MAX_DEPTH:
                    problem, hint = "nested too deeply", "see config.example.yaml"
                else:
                    continue
                raise Usage("config.yaml", f"{self.path}:{event.start_mark.line + 1}: {problem}", hint)
        except yaml.YAMLError as error:
            raise self._not_yaml(error) from None

    def _not_yaml(self, error: yaml.YAMLError) -> Usage:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else 1
        problem = getattr(error, "problem", None) or "not YAML"
        return Usage("config.yaml", f"{self.path}:{line}: {problem}", "check indentation and quotes there")

    def _value(self, loader: Any, node: yaml.Node, place: tuple[str, ...]) -> object:
        self._lines[place] = node.start_mark.line + 1
        if isinstance(node, yaml.MappingNode):
            result: dict[str, object] = {}
            for key_node, value_node in node.value:
                if not isinstance(key_node, yaml.ScalarNode) or not str(key_node.value).isprintable():
                    self._lines[place] = key_node.start_mark.line + 1
                    raise self.wrong("config.key", place, "a key here is no name", "see config.example.yaml")
                key = str(key_node.value)
                here = (*place, key)
                if key in result:
                    self._lines[here] = key_node.start_mark.line + 1
                    raise self.wrong("config.key", here, "this key stands here twice", "keep one of them")
                result[key] = self._value(loader, value_node, here)
                self._lines[here] = key_node.start_mark.line + 1
            return result
        if isinstance(node, yaml.SequenceNode):
            return [self._value(loader, item, (*place, str(i))) for i, item in enumerate(node.value)]
        text = cast("str", node.value)
        if not text.replace("\n", "").replace("\t", "").isprintable():
            raise self.wrong("config.value", place, "it holds a character that cannot be seen", "write it anew by hand")
        if node.tag == _INT and not _is_decimal(text):  # YAML takes 0465 for 309, and 1:30 for 90
            raise self.wrong("config.value", place, f"{text} is no plain number", "write digits alone, or use quotes")
        try:
            return loader.construct_object(node)
        except (ValueError, OverflowError, TypeError, LookupError, AttributeError):
            raise self.wrong("config.yaml", place, "not a value of its kind", "put it in quotes") from None

    def convert(self, value: object, type_: type[T], place: tuple[str, ...]) -> T:
        """A value as a typed one.

        Raises:
            Usage: `config.key`, `config.value`: An unknown or missing key, or a value of another type.
        """
        try:
            return msgspec.convert({} if value is None else value, type_)
        except msgspec.ValidationError as error:
            raise self._explain(str(error), type_, place) from None

    def _explain(self, message: str, type_: type, place: tuple[str, ...]) -> Usage:
        text, _, where = message.partition(" - at ")
        inner = tuple(key or number for key, number in re.findall(r"\.([A-Za-z0-9_]+)|\[(\d+)\]", where))
        here = (*place, *inner)
        unknown = re.match(r"Object contains unknown field `(.*)`", text)
        if unknown:
            known = [f.name for f in msgspec.structs.fields(type_)]
            import difflib

            near = difflib.get_close_matches(unknown[1], known, 1)
            hint = f"did you mean {near[0]}?" if near else f"known here: {', '.join(known)}"
            return self.wrong("config.key", (*here, unknown[1]), "unknown key", hint)
        missing = re.match(r"Object missing required field `(.*)`", text)
        if missing:
            return self.wrong("config.key", here, f"{missing[1]} is missing", "see config.example.yaml")
        expected = _expected(type_, inner[0]) if len(inner) == 1 else None
        return self.wrong("config.value", here, *(expected or (_plain(text), "see config.example.yaml")))

    def section(self, value: object, place: tuple[str, ...]) -> Section:
        """A section with a `type`, whose other keys belong to a plug-in.

        Raises:
            Usage: `config.key`: It has no `type`.
        """
        if not isinstance(value, dict) or not isinstance(cast("dict[str, object]", value).get("type"), str):
            raise self.wrong("config.key", place, "type is missing", "name the plug-in: for example type: command")
        options = {str(k): v for k, v in cast("dict[object, object]", value).items() if k != "type"}
        return Section(str(cast("dict[str, object]", value)["type"]), options, place)

    def name(self, text: str, place: tuple[str, ...], parse: Any) -> str:
        """A name in canonical form.

        Raises:
            Usage: `config.value`: `parse` refuses it.
        """
        try:
            return cast("str", parse(text))
        except Error as error:
            raise self.wrong("config.value", place, error.detail, error.hint) from None


def _is_decimal(text: str) -> bool:
    digits = text.removeprefix("-")
    return digits.isascii() and digits.isdigit() and (digits == "0" or not digits.startswith("0"))


def _expected(type_: type, key: str) -> tuple[str, str] | None:
    """What the type of a section says of one of its keys: what is expected, and a hint."""
    declared = get_type_hints(type_, include_extras=True).get(key)
    if get_origin(declared) is Annotated:
        for meta in get_args(declared)[1:]:
            if isinstance(meta, msgspec.Meta) and meta.title and meta.description:
                return f"expected {meta.title}", meta.description
    if get_origin(declared) is Literal:
        words = ", ".join(map(str, get_args(declared)))
        return f"expected one of: {words}", f"write one of: {words}"
    return None


def _plain(text: str) -> str:
    replaced = (
        text.replace("`", "").replace("Expected", "expected").replace("object", "a mapping").replace("array", "a list")
    )
    return replaced.replace("str", "text").replace("int", "a number")
