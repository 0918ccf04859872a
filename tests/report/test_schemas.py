"""The JSON schemas: what the commands really print keeps them, and they do not change by accident."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any, cast

import pytest
import yaml

from certagent.cli.schema import TITLES, made
from certagent.init.report import Next, report
from certagent.lifecycle import events as ev
from certagent.lifecycle.steps import Reload
from certagent.report import views
from certagent.report.findings import Finding, Rehearsal
from certagent.report.step import StepReport
from certagent.report.text import to_json
from tests.script import test_script as script
from tests.test_init import POSTFIX, seen

ROOT = Path(__file__).resolve().parents[2]
TYPES: dict[str, type | tuple[type, ...]] = {
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "null": type(None),
    "array": list,
    "object": dict,
}
KNOWN = {
    "$schema", "$defs", "title", "description", "default", "type", "properties", "required", "additionalProperties",
    "items", "minItems", "$ref", "anyOf", "oneOf", "enum", "const", "not", "pattern", "minimum", "maximum",
    "exclusiveMinimum", "format", "propertyNames",
}  # fmt: skip


def wrong(value: Any, schema: dict[str, Any], root: dict[str, Any], at: str = "$", *, closed: bool) -> list[str]:
    """What of a value does not keep a schema; `closed`: a property that the schema does not have is wrong too.

    JSON Schema as far as our schemas use it, so that no library is needed for it; an unknown keyword is an error.
    """
    assert set(schema) <= KNOWN, set(schema) - KNOWN
    found: list[str] = []

    def inner(one: Any, of: dict[str, Any], where: str) -> list[str]:
        return wrong(one, of, root, where, closed=closed)

    if "$ref" in schema:
        found += inner(value, root["$defs"][schema["$ref"].removeprefix("#/$defs/")], at)
    if "anyOf" in schema and all(inner(value, one, at) for one in schema["anyOf"]):
        found.append(f"{at}: {value!r} is none of these")
    if "oneOf" in schema and [bool(inner(value, one, at)) for one in schema["oneOf"]].count(False) != 1:
        found.append(f"{at}: {value!r} is not one of these")
    if "not" in schema and not inner(value, schema["not"], at):
        found.append(f"{at}: {value!r} must not be")
    if "enum" in schema and value not in schema["enum"]:
        found.append(f"{at}: {value!r} is not in {schema['enum']}")
    if "const" in schema and value != schema["const"]:
        found.append(f"{at}: {value!r} is not {schema['const']!r}")
    if "type" in schema:
        right = isinstance(value, TYPES[schema["type"]]) and (schema["type"] == "boolean") == isinstance(value, bool)
        if not right:
            return [*found, f"{at}: {value!r} is no {schema['type']}"]
    if isinstance(value, str):
        if "pattern" in schema and not re.search(schema["pattern"], value):
            found.append(f"{at}: {value!r} does not match {schema['pattern']}")
        if schema.get("format") == "date-time" and datetime.fromisoformat(value).tzinfo is None:
            found.append(f"{at}: {value!r} has no offset")
    if isinstance(value, int | float):
        right = schema.get("minimum", value) <= value <= schema.get("maximum", value)
        if not right or value <= schema.get("exclusiveMinimum", value - 1):
            found.append(f"{at}: {value!r} is out of range")
    if isinstance(value, list):
        items = cast("list[Any]", value)
        if len(items) < schema.get("minItems", 0):
            found.append(f"{at}: too short")
        for number, item in enumerate(items):
            found += inner(item, schema.get("items", {}), f"{at}[{number}]")
    if isinstance(value, dict):
        section = cast("dict[str, Any]", value)
        found += [f"{at}: {key} is missing" for key in schema.get("required", ()) if key not in section]
        others: dict[str, Any] | bool = schema.get("additionalProperties", not closed or "properties" not in schema)
        for key, item in section.items():
            found += inner(key, schema.get("propertyNames", {}), f"{at}.{key}")
            known = schema.get("properties", {}).get(key)
            if known is None and others is False:
                found.append(f"{at}: {key} is unknown")
            else:
                found += inner(item, known or (others if isinstance(others, dict) else {}), f"{at}.{key}")
    return found


def keeps(document: str, text: str | bytes) -> dict[str, Any]:
    """The document, which keeps its schema and has nothing that the schema does not have."""
    value, schema = json.loads(text), made(document)
    assert wrong(value, schema, schema, closed=True) == []
    assert value["version"] == 1
    return value


@pytest.mark.parametrize("document", TITLES)
def test_a_schema_does_not_change_by_accident(document: str) -> None:
    """The copy in the documentation is what `certagent schema` prints; if it is meant: make docs."""
    printed = subprocess.run(
        [sys.executable, "-m", "certagent", "schema", document], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert printed == (ROOT / "docs" / "reference" / "schemas" / f"{document}.json").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", script.SCRIPTS, ids=lambda path: path.stem)
def test_what_is_printed_keeps_its_schema(path: Path, tmp_path: Path) -> None:
    """In the situation of every script."""
    with script.situation(path.read_text(encoding="utf-8"), tmp_path) as given:
        for document in ("status", "plan", "history", "tlsa"):
            printed = script.run(f"certagent {document} {script.NAME} --json", given)
            text, _, _ = printed.partition("\n[exit")
            if text.startswith("{"):
                keeps(document, text)
            else:
                assert "certagent: error: " in text


def test_check_keeps_its_schema(tmp_path: Path) -> None:
    """Of a service that does not listen."""
    text = script.SCRIPTS[0].with_name("check-not-reached.txt").read_text(encoding="utf-8")
    with script.situation(text, tmp_path) as given:
        printed, _, _ = script.run("certagent check --json", given).partition("\n[exit")
    [checked] = keeps("check", printed)["certificates"]
    assert checked["outcome"] == "error"


def test_renew_keeps_its_schema() -> None:
    """A step that was taken, and one that failed."""
    step = Reload(server="postfix", because="installed")
    failed = ev.Failed(lane=step.lane, kind="transient", code="mta.reload", detail="cannot reload", hint="look")
    taken = tuple(views.taken(StepReport("certificate", "mx1", 7, step, failure, 0.25)) for failure in (None, failed))
    document = views.Renewal(1, (views.RenewedCertificate("mx1", taken, 2.0, "tried again", ()),))
    [renewed] = keeps("renew", to_json(document))["certificates"]
    assert [step["failure"] and step["failure"]["code"] for step in renewed["steps"]] == [None, "mta.reload"]


def test_a_rehearsal_keeps_its_schema() -> None:
    """One that found a mistake."""
    report = Rehearsal("mx1", (Finding("error", "CA", "no"),), ("a TXT b",), ("a TXT b",), (), "transient")
    document = views.RehearsalReport(1, (views.rehearsed(report),))
    [rehearsed] = keeps("rehearsal", to_json(document))["certificates"]
    assert rehearsed["succeeds"] is False


def test_init_keeps_its_schema() -> None:
    """Of a host with one mail server."""
    document = report(seen(POSTFIX), (Finding("note", "DNS", "a word"),), "text", (), (Next("do it", "certagent run"),))
    assert [server["name"] for server in keeps("init", to_json(document))["servers"]] == [POSTFIX.name]


def test_no_digest_of_a_key_that_does_not_exist(tmp_path: Path) -> None:
    """A plan names the keys that will be made; their digests nobody knows yet."""
    with script.situation("given: a new host\n", tmp_path) as given:
        for arguments in ("", " --json"):
            printed = script.run(f"certagent plan{arguments}", given)
            assert "publish 3 1 1 of k1 (ecdsa-p256), 3 1 1 of k2 (ecdsa-p256)" in printed
            assert re.findall(r"[0-9a-f]{8}", printed) == []


# -- the configuration -----------------------------------------------------------------------------------------------


def example(*, every_key: bool) -> Any:
    text = (ROOT / "config.example.yaml").read_text(encoding="utf-8")
    return yaml.safe_load(re.sub(r"(?m)^(\s*)#(?=\w+:)", r"\1", text) if every_key else text)


@pytest.mark.parametrize("every_key", [False, True])
def test_the_example_keeps_the_schema_of_the_configuration(every_key: bool) -> None:
    """As it is, and with every key switched on."""
    schema = made("config")
    assert wrong(example(every_key=every_key), schema, schema, closed=False) == []


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("nonsense",), 1),
        (("certificates", "mx1.example.org", "check_interval"), 90),
        (("certificates", "mx1.example.org", "dane", "ttl"), "1.5h"),
        (("certificates", "mx1.example.org", "mail_servers", "postfix", "config_dirs"), "/etc"),
        (("certificates", "mx1.example.org", "mail_servers", "postfix", "services"), []),
        (("dns", "providers", "primary", "sever"), "192.0.2.1"),
    ],
)
def test_the_schema_of_the_configuration_finds_mistakes(place: tuple[str, ...], value: object) -> None:
    """Those that `certagent` refuses too."""
    schema, section = made("config"), example(every_key=False)
    config = section
    for key in place[:-1]:
        section[key] = section[key] or {}
        section = section[key]
    section[place[-1]] = value
    assert wrong(config, schema, schema, closed=False) != []
