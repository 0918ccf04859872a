"""A YAML file that remembers its lines: every mistake is told with file, line and key.

What YAML can do beyond a configuration is refused before it is built: aliases, deep nesting, tags that make no sense.
Errors are all `config.…` (Misconfigured).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar, cast

import msgspec
import yaml

from certagent.errors import Error, Misconfigured

MAX_DEPTH = 20
"""The deepest key of a configuration is at 7."""

T = TypeVar("T")


class Section(msgspec.Struct, frozen=True):
    """Options of a plug-in: its type, and the rest, to be read by the plug-in's own `Options` (see
    `Config.options`).
    """

    type: str
    options: dict[str, Any]
    place: tuple[str, ...]


class Reader:
    """Turns YAML into values and remembers on which line each key stands."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lines: dict[tuple[str, ...], int] = {}

    def wrong(self, code: str, place: tuple[str, ...], detail: str, hint: str) -> Misconfigured:
        """An error at a place: the line of the nearest key that stands in the file."""
        if not self._lines:  # what is told was read by another one
            with suppress(OSError, Misconfigured):
                self.parse(self.path.read_text())
        line = next((self._lines[place[:n]] for n in range(len(place), -1, -1) if place[:n] in self._lines), 1)
        where = ".".join(place)
        return Misconfigured(code, f"{self.path}:{line}: {where}{': ' if where else ''}{detail}", hint)

    def parse(self, text: str) -> object:
        """The document as plain values. Raises: `config.yaml`, `config.key`."""
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
        """Before anything is built: no aliases (a few make a document of gigabytes), and no deep nesting."""
        depth = 0
        try:
            for event in cast("Iterable[yaml.Event]", yaml.parse(text, Loader=kind)):  # pyright: ignore[reportUnknownMemberType]
                depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
                if isinstance(event, yaml.AliasEvent):
                    problem, hint = "an alias (*) is not used here", "write it out"
                elif depth > MAX_DEPTH:
                    problem, hint = "nested too deeply", "see config.example.yaml"
                else:
                    continue
                raise Misconfigured("config.yaml", f"{self.path}:{event.start_mark.line + 1}: {problem}", hint)
        except yaml.YAMLError as error:
            raise self._not_yaml(error) from None

    def _not_yaml(self, error: yaml.YAMLError) -> Misconfigured:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else 1
        problem = getattr(error, "problem", None) or "not YAML"
        return Misconfigured("config.yaml", f"{self.path}:{line}: {problem}", "check indentation and quotes there")

    def _value(self, loader: Any, node: yaml.Node, place: tuple[str, ...]) -> object:
        self._lines[place] = node.start_mark.line + 1
        if isinstance(node, yaml.MappingNode):
            result: dict[str, object] = {}
            for key_node, value_node in node.value:
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
        try:
            return loader.construct_object(node)
        except (ValueError, OverflowError, TypeError):
            raise self.wrong("config.yaml", place, "not a value of its kind", "put it in quotes") from None

    def convert(self, value: object, type_: type[T], place: tuple[str, ...]) -> T:
        """A value as a typed one. Raises: `config.key`, `config.value`."""
        try:
            return msgspec.convert({} if value is None else value, type_)
        except msgspec.ValidationError as error:
            raise self._explain(str(error), type_, place) from None

    def _explain(self, message: str, type_: type, place: tuple[str, ...]) -> Misconfigured:
        text, _, where = message.partition(" - at ")
        inner = tuple(re.findall(r"\.([A-Za-z0-9_]+)|\[(\d+)\]", where))
        here = (*place, *(a or b for a, b in inner))
        unknown = re.match(r"Object contains unknown field `(.*)`", text)
        if unknown:
            known = [f.name for f in msgspec.structs.fields(type_)]
            near = difflib.get_close_matches(unknown[1], known, 1)
            hint = f"did you mean {near[0]}?" if near else f"known here: {', '.join(known)}"
            return self.wrong("config.key", (*here, unknown[1]), "unknown key", hint)
        missing = re.match(r"Object missing required field `(.*)`", text)
        if missing:
            return self.wrong("config.key", here, f"{missing[1]} is missing", "see config.example.yaml")
        hint = "see config.example.yaml"
        if here[-1:] == ("rotate_key",):
            text, hint = "expected every_renewal, never, or a duration", "such as 90d: keys older than that are rolled"
        elif here[-1:] in _DURATIONS:
            text = "expected a duration with its unit"
            hint = "such as 90d, 36h, 15m, 30s, 1h30m; a bare number is refused"
        return self.wrong("config.value", here, _plain(text), hint)

    def section(self, value: object, place: tuple[str, ...]) -> Section:
        """A section with a `type`, whose other keys belong to a plug-in."""
        if not isinstance(value, dict) or not isinstance(cast("dict[str, object]", value).get("type"), str):
            raise self.wrong(
                "config.key", place, "type is missing", "name the kind: for example type: rfc2136, or type: postfix"
            )
        options = {str(k): v for k, v in cast("dict[object, object]", value).items() if k != "type"}
        return Section(str(cast("dict[str, object]", value)["type"]), options, place)

    def name(self, text: str, place: tuple[str, ...], parse: Any) -> str:
        """A name, canonical."""
        try:
            return cast("str", parse(text))
        except Error as error:
            raise self.wrong("config.value", place, error.detail, error.hint) from None


_DURATIONS = (("ttl",), ("safety_margin",), ("drain",), ("check_interval",))


def _plain(text: str) -> str:
    replaced = (
        text.replace("`", "").replace("Expected", "expected").replace("object", "a mapping").replace("array", "a list")
    )
    return replaced.replace("str", "text").replace("int", "a number")
