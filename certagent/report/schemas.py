"""JSON schemas (draft 2020-12), made from types: of what the commands print, and of the configuration file.

Descriptions are those in the source: the docstring of a type, and the string below a field. A program that reads a
document must expect new fields; `version` grows when a field goes or changes its meaning.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import msgspec
from msgspec.inspect import StructType, type_info

from certagent.config.schema import Ca, Certificate, ChallengeKeys, Dane, Dns, File, ServiceKeys

DIALECT = "https://json-schema.org/draft/2020-12/schema"

Schema = dict[str, Any]


def document(type_: type[msgspec.Struct], title: str) -> Schema:
    """The schema of what a command prints."""
    parts = _parts(type_)
    return {"$schema": DIALECT, "title": title, "$ref": f"#/$defs/{type_.__name__}", "$defs": parts}


def configuration(
    providers: Mapping[str, type[msgspec.Struct]], mail_servers: Mapping[str, type[msgspec.Struct]]
) -> Schema:
    """The schema of the configuration file; of DNS providers and mail servers by the types of their options.

    Types that are not among those are accepted with any options: they come with other packages.
    """
    parts = {name: part for type_ in (Ca, ChallengeKeys, Dane, ServiceKeys) for name, part in _parts(type_).items()}
    top, dns, certificate = (_parts(type_)[type_.__name__] for type_ in (File, Dns, Certificate))
    services = {"type": "array", "minItems": 1, "items": _ref("ServiceKeys")}
    dns["properties"]["providers"]["additionalProperties"] = _plugins(parts, "provider", providers, {})
    certificate["properties"]["mail_servers"]["additionalProperties"] = _plugins(
        parts, "mail_server", mail_servers, {"services": services}
    )
    certificate["properties"]["dane"] = _maybe("Dane")
    certificate["properties"]["challenge"] = _maybe("ChallengeKeys")
    top["properties"]["ca"]["additionalProperties"] = _ref("Ca")
    top["properties"]["dns"] = _maybe("Dns")
    top["properties"]["certificates"]["additionalProperties"] = _ref("Certificate")
    parts |= {"Dns": dns, "Certificate": certificate}
    return {"$schema": DIALECT, **top, "title": "certagent's configuration", "$defs": parts}


def _plugins(
    parts: Schema, kind: str, options: Mapping[str, type[msgspec.Struct]], more: Mapping[str, Schema]
) -> Schema:
    """A section whose `type` says which options it has. The parts of each go to `parts`."""
    choices: list[Schema] = []
    for name, type_ in options.items():
        own = _parts(type_, f"{kind}.{name}.")
        section = own[f"{kind}.{name}.{type_.__name__}"]
        section["properties"] = {"type": {"const": name}, **more, **section["properties"]}
        section["required"] = ["type", *more, *section.get("required", [])]
        section["title"] = name
        parts |= own
        choices.append(_ref(f"{kind}.{name}.{type_.__name__}"))
    other = {"type": {"type": "string", "not": {"enum": list(options)}}}
    choices.append({"title": "another", "type": "object", "properties": other, "required": ["type"]})
    return {"oneOf": choices}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/$defs/{name}"}


def _maybe(name: str) -> Schema:
    """A section that may stand there empty."""
    return {"anyOf": [_ref(name), {"type": "null"}]}


def _parts(type_: type[msgspec.Struct], prefix: str = "") -> Schema:
    """The schemas of a type and of all that it is made of, by name."""
    _, parts = msgspec.json.schema_components([type_], ref_template=f"#/$defs/{prefix}{{name}}")
    structs = {struct.__name__: struct for struct in _structs(type_)}
    return {f"{prefix}{name}": _described(part, structs[name]) for name, part in parts.items()}


def _described(part: Schema, type_: type[msgspec.Struct]) -> Schema:
    if "description" in part:
        part["description"] = inspect.cleandoc(part["description"])
    for name, text in texts(type_).items():
        if name in part["properties"]:
            part["properties"][name]["description"] = re.sub(r"\bNone\b", "null", text)
    return part


def _structs(type_: type[msgspec.Struct]) -> set[type[msgspec.Struct]]:
    """The type and every struct in its fields."""
    found: set[type[msgspec.Struct]] = set()

    def walk(node: object) -> None:
        if isinstance(node, StructType):
            if node.cls in found:
                return
            found.add(node.cls)
            for field in node.fields:
                walk(field.type)
        elif isinstance(node, tuple):
            for item in node:  # pyright: ignore[reportUnknownVariableType] -- the types of a union
                walk(item)  # pyright: ignore[reportUnknownArgumentType]
        else:
            for name in ("type", "types", "item_type", "key_type", "value_type"):
                walk(getattr(node, name)) if hasattr(node, name) else None

    walk(type_info(type_))
    return found


def texts(type_: type) -> dict[str, str]:
    """The string below each field, also of the types it derives from."""
    result: dict[str, str] = {}
    for base in reversed(type_.__mro__):
        result |= _module_texts(base.__module__).get(base.__name__, {})
    return result


@cache
def _module_texts(module: str) -> dict[str, dict[str, str]]:
    """Of every class of a module the strings below its fields."""
    file = getattr(sys.modules[module], "__file__", None)
    if file is None or not file.endswith(".py"):
        return {}
    tree = ast.parse(inspect.getsource(sys.modules[module]))
    return {node.name: dict(_below(node)) for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}


def _below(node: ast.ClassDef) -> Iterator[tuple[str, str]]:
    for field, text in zip(node.body, node.body[1:], strict=False):
        match field, text:
            case (
                ast.AnnAssign(target=ast.Name(name)) | ast.Assign(targets=[ast.Name(name)]),
                ast.Expr(value=ast.Constant(value=str(said))),
            ):
                yield name, " ".join(said.split())
            case _:
                pass
