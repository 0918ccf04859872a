"""Documentation that lies fails here."""

from __future__ import annotations

import ast
import importlib
import re
import shutil
import subprocess
import sys
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import cast

import click
import msgspec
import pytest
import yaml

import certagent
from certagent.agent.certificate import CERTIFICATE
from certagent.agent.plugins import BUILT_IN, MAIL_SERVERS, built_in, loaded
from certagent.cli.main import cli
from certagent.config.load import load
from certagent.config.schema import Ca, Certificate, Config, Dane, Dns, ServiceKeys
from certagent.dns.providers import command, powerdns, program, rfc2136
from certagent.dns.providers.protocol import Capabilities
from certagent.mta.postfix import server as postfix
from certagent.report.codes import NEXT, all_codes
from certagent.report.log import EVENTS, WORDS
from certagent.testing.dns_provider import DnsCheck, dns_provider_suite

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted((ROOT / "certagent").rglob("*.py"))
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "hooks").glob("*.md")])
MAN = ROOT / "packaging" / "man" / "certagent.1"
UNIT = ROOT / "packaging" / "systemd" / "certagent.service"


def text(*parts: str) -> str:
    return ROOT.joinpath(*parts).read_text(encoding="utf-8")


SERVERS: dict[str, type[msgspec.Struct]] = {name: plugin.Options for name, plugin in built_in(MAIL_SERVERS)}


# -- the example configuration ---------------------------------------------------------------------------------------


def example(directory: Path, *, every_key: bool) -> Config:
    """config.example.yaml as it is, or with every `#key:` line switched on."""
    shown = text("config.example.yaml")
    path = directory / "config.yaml"
    path.write_text(re.sub(r"(?m)^(\s*)#(?=\w+:)", r"\1", shown) if every_key else shown)
    path.chmod(0o600)
    return load(path)


def plugins(read: Config) -> dict[type, msgspec.Struct]:
    """The options of every plug-in in the example, by their class."""
    [entry] = read.certificates.values()
    providers = {"rfc2136": rfc2136.Options, "powerdns": powerdns.Options, "command": command.Options}
    found = [(providers[s.type], s) for s in read.providers.values()]
    found += [(SERVERS[s.type], s) for s in entry.mail_servers.values()]
    return {kind: read.options(section, kind) for kind, section in found}


def test_example_parses(tmp_path: Path) -> None:
    """The example can be used as it is, once names and paths are changed."""
    read = example(tmp_path, every_key=False)
    assert set(plugins(read)) == {rfc2136.Options, powerdns.Options, command.Options, postfix.Options}
    assert read.state_dir == Path("/var/lib/certagent")


def test_example_with_every_key_on(tmp_path: Path) -> None:
    """Every key that is off in the example can be switched on as it stands there."""
    assert set(SERVERS.values()) <= set(plugins(example(tmp_path, every_key=True)))


SECTIONS = [Ca, Dns, ServiceKeys, Dane, Certificate]


@pytest.mark.parametrize("section", [*SECTIONS, rfc2136.Options, powerdns.Options, command.Options, *SERVERS.values()])
def test_example_has_every_key(section: type) -> None:
    """Every key of every section is in the example, with a line of explanation before it or on a neighbour."""
    shown = text("config.example.yaml")
    keys = {field.encode_name for field in msgspec.structs.fields(section)}
    missing = {key for key in keys if not re.search(rf"(?m)(^\s*(#|- )?|[{{,] ?){key}:", shown)}
    assert not missing


def test_example_defaults() -> None:
    """A key that is off shows its default, unless the text above says that it does not."""
    defaults: defaultdict[str, list[object]] = defaultdict(list)
    for section in (*SECTIONS, rfc2136.Options, powerdns.Options, command.Options, *SERVERS.values()):
        for field in msgspec.structs.fields(section):
            default = cast("object", field.default)
            is_tuple = isinstance(default, tuple)
            defaults[field.encode_name].append(list(cast("tuple[object, ...]", default)) if is_tuple else default)
    prose, compared = "", 0
    for line in text("config.example.yaml").splitlines():
        if re.match(r"\s*# ", line):
            prose += line.strip().removeprefix("#")
            continue
        off = re.match(r"\s*#(\w+): (.*)", line)
        if off and off[1] != "type" and not re.search(r"Not (a )?defaults?|Default: (the only one|nothing)", prose):
            assert yaml.safe_load(off[2]) in defaults[off[1]], line
            compared += 1
        elif off and off[1] == "eab_kid":
            continue  # what is said of it is said of the line after it
        prose = ""
    assert compared >= 10


def test_tutorial_configuration_parses(tmp_path: Path) -> None:
    """The configuration of the tutorial is one."""
    [shown] = re.findall(r"```yaml\n(.*?)```", text("docs", "tutorial", "first-certificate.md"), re.DOTALL)
    path = tmp_path / "config.yaml"
    path.write_text(shown)
    path.chmod(0o600)
    assert set(plugins(load(path))) == {rfc2136.Options, postfix.Options}


# -- generated parts -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    """docs/generate.py, which is no package."""
    sys.path.insert(0, str(ROOT / "docs"))
    return importlib.import_module("generate")


def test_generated_parts_are_up_to_date(generate: ModuleType) -> None:
    """What the documentation takes from the code is that of the code; if not: make docs."""
    stale = [page.name for page in generate.PAGES if generate.generated(page.read_text()) != page.read_text()]
    assert stale == []


def test_every_generated_part_is_used(generate: ModuleType) -> None:
    """What can be generated stands on some page, once."""
    used = [part for page in generate.PAGES for part in generate.parts(page.read_text(encoding="utf-8"))]
    assert sorted(used) == sorted(generate.PARTS)


def test_waits_name_real_places() -> None:
    """The last column of the table of waits names things that are in the code."""
    table = text("docs", "explanation", "rollover.md").split("## Every wait", 1)[1].split("## ", 1)[0]
    places = [row.rsplit("|", 2)[1] for row in table.splitlines() if row.startswith("| ")][1:]
    assert len(places) > 15
    for place in places:
        for name in re.findall(r"`([^`]+)`", place):
            module, _, last = name.partition(".")
            [path] = [p for p in SOURCES if p.as_posix().endswith(f"/{module}.py")]
            assert re.search(rf"(?m)^(def |class )?{re.escape(last)}\b", path.read_text(encoding="utf-8")), name


# -- errors ----------------------------------------------------------------------------------------------------------

KINDS = {
    "Transient": "transient",
    "Rejected": "rejected",
    "Misconfigured": "misconfigured",
    "Usage": "misconfigured",
    "Unsafe": "unsafe",
    "Error": "error",
    "NotYet": "transient",
    "NotServed": "transient",
    "CaUnavailable": "transient",
    "CaLimit": "transient",
    "CaRefusal": "rejected",
    "Missing": "misconfigured",
    "BadChain": "unsafe",
    "Overdue": "transient",
    "NotYetValid": "transient",
    "AccountRefused": "misconfigured",
    "Busy": "transient",
    "Condition": "condition",
}
_CODE = re.compile(r"[a-z]+\.[a-z_]+")


def codes() -> dict[str, set[str]]:
    """Every error code in the source, with the kinds that it is raised as where that can be read off."""
    raised: defaultdict[str, set[str]] = defaultdict(set)
    mentioned: set[str] = set()
    for tree in (ast.parse(path.read_text(encoding="utf-8")) for path in SOURCES):
        paths = {n.right for n in ast.walk(tree) if isinstance(n, ast.BinOp) and isinstance(n.op, ast.Div)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and _CODE.fullmatch(node.value):
                if node not in paths:
                    mentioned.add(node.value)
            elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
                called = getattr(node.func, "id", getattr(node.func, "attr", ""))
                first = node.args[0].value
                if called in KINDS and isinstance(first, str):
                    raised[first].add(KINDS[called])
                if called == "_refusal" and isinstance(first, str):  # pki/bundle.py
                    raised[f"pem.{first}"].add("unsafe")
    areas = {code.partition(".")[0] for code in raised}
    return {code: raised[code] for code in mentioned | set(raised) if code.partition(".")[0] in areas}


def test_every_error_code_is_explained() -> None:
    """certagent/report/errors.toml has the codes of the source, each with its kind, and no others."""
    source, shown = codes(), {code: one.kind for code, one in all_codes().items()}
    # of host/programs.py, whose callers give their own; and the name of a file of Exim
    assert set(source) - {"run.failed", "config.autogenerated"} == set(shown)
    read_off = {code: next(iter(kinds)) for code, kinds in source.items() if kinds and code in shown}
    assert {code: shown[code] for code in read_off} == read_off
    assert set(shown.values()) == set(NEXT)


def test_every_code_has_its_section() -> None:
    page = text("docs", "reference", "errors.md").partition("\n## The words of each error\n")[0]
    assert [page.count(f"\n| `{code}` |") for code in all_codes()] == [1] * len(all_codes())


def test_no_code_is_made_up_at_run_time() -> None:
    """Codes are literals, so that the test above sees them all; the one exception is `_refusal` of pki/bundle.py."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in KINDS and node.args:
                made_up = isinstance(node.args[0], ast.JoinedStr)
                assert not made_up or path.name == "bundle.py", f"{path}:{node.lineno}"


# -- the log ---------------------------------------------------------------------------------------------------------


def test_every_word_of_the_log_is_explained() -> None:
    """report/log.py lists the words that it and the daemon write, and the daemon's events, and no others."""
    words: set[str] = {CERTIFICATE.name}
    events: set[str] = set()
    for name in ("report/log.py", "agent/daemon.py", "agent/certificate.py"):
        for node in ast.walk(ast.parse(text("certagent", name))):
            match node:
                case ast.Tuple(elts=[ast.Constant(value=str(event)), _]) if name == "agent/certificate.py":
                    events.add(event)  # of `warnings`
                case ast.Tuple(elts=[ast.Constant(value="event"), ast.Constant(value=str(event))]):
                    events.add(event)
                    words.add("event")
                case ast.Tuple(elts=[ast.Constant(value=str(word)), found]) if not isinstance(found, ast.Constant):
                    words.add(word)
                case _:
                    pass
    assert (set(WORDS), set(EVENTS)) == (words, events)


# -- the manual page, the unit, the Makefile -------------------------------------------------------------------------


def commands() -> dict[str, click.Command]:
    assert isinstance(cli, click.Group)
    context = click.Context(cli)
    found: dict[str, click.Command] = {}
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        assert command
        if isinstance(command, click.Group):
            found |= {f"{name} {part}": one for part, one in command.commands.items()}
        else:
            found[name] = command
    return found


def options() -> Iterator[tuple[str, str]]:
    for name, found in commands().items():
        for parameter in found.params:
            if isinstance(parameter, click.Option):
                yield from ((name, option) for option in parameter.opts)


def test_manual_page_has_every_command_and_option() -> None:
    """Whatever the command line takes is in the manual page."""
    page = MAN.read_text(encoding="utf-8")
    missing = [name for name in commands() if f".It Cm {name}\n" not in page]
    missing += [f"{name} {option}" for name, option in options() if f"Fl {option[1:]}" not in page]
    assert not missing


def test_manual_page_has_nothing_else() -> None:
    """No option is documented that does not exist."""
    known = {option for _, option in options()} | {"--help", "--version", "-h"}
    assert {f"-{o}" for o in re.findall(r"Fl (-?[a-z-]+)", MAN.read_text(encoding="utf-8"))} <= known


def test_manual_page_says_what_may_be_left_out() -> None:
    """An argument in its synopsis is optional if the command does without it."""
    synopsis = MAN.read_text(encoding="utf-8").partition(".Sh SYNOPSIS\n")[2].partition(".Sh ")[0]
    for name, found in commands().items():
        [shown] = re.findall(rf"(?m)^\.Cm {name}\n((?:\.(?:Op|Ar) .*\n)*)", synopsis)
        for argument in (one for one in found.params if isinstance(one, click.Argument)):
            [macro] = re.findall(rf"(?m)^\.(Op|Ar)(?: Ar)? {str(argument.name).removesuffix('s')}\b", shown)
            assert (macro == "Ar") == argument.required, (name, argument.name)


@pytest.mark.skipif(shutil.which("groff") is None, reason="groff is not installed")
def test_manual_page_is_well_formed() -> None:
    """groff has nothing to say about it."""
    done = subprocess.run(["groff", "-mdoc", "-ww", "-Tutf8", MAN], capture_output=True, text=True, check=True)
    assert done.stderr == ""


def test_unit_fits_the_example(tmp_path: Path) -> None:
    """The unit may write where the example configuration says, and nowhere above it."""
    unit = UNIT.read_text(encoding="utf-8")
    read = example(tmp_path, every_key=False)
    [(_, options_)] = [(k, o) for k, o in plugins(read).items() if k is postfix.Options]
    assert isinstance(options_, postfix.Options)
    [writable] = re.findall(r"(?m)^ReadWritePaths=(.*)$", unit)
    assert {str(Path(file).parent) for file in (options_.chain_files or {}).values()} <= {
        path.removeprefix("-") for path in writable.split()
    }
    assert f"StateDirectory={read.state_dir.relative_to('/var/lib')}\n" in unit
    assert "ExecStart=/opt/certagent/bin/certagent run\n" in unit
    assert "python3 -m venv /opt/certagent\n" in text("README.md")
    assert not re.search(r"(?m)^ProcSubset=pid", unit), "it hides the boot id, see clock.py"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_unit_is_well_formed(tmp_path: Path) -> None:
    """systemd has nothing to say about it."""
    copy = tmp_path / UNIT.name
    copy.write_text(UNIT.read_text(encoding="utf-8").replace("/opt/certagent/bin/certagent", "/bin/true"))
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", copy], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_make_targets_exist() -> None:
    """Every `make …` that a page names is a target."""
    targets = set(re.findall(r"(?m)^([a-z]+):", text("Makefile")))
    named = {
        target
        for page in PAGES
        for code in re.findall(r"`([^`\n]+)`|(?m:^)(make .*)", page.read_text(encoding="utf-8"))
        for target in re.findall(r"^make ([a-z]+)", "".join(code))
    }
    assert {"setup", "test", "check", "demo", "docs", "bench", "simulate"} <= named
    assert named <= targets


# -- pages -----------------------------------------------------------------------------------------------------------


def prose(page: Path) -> str:
    """A page without its blocks of code."""
    return re.sub(r"(?ms)^ *```.*?^ *```$", "", page.read_text(encoding="utf-8"))


def anchors(page: Path) -> set[str]:
    """What the headings of a page are called in a link, as GitHub makes it."""
    headings = re.findall(r"(?m)^#+ (.*)$", prose(page))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    """Every link inside the repository leads to a file that is there, and to a heading that it has."""
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        path, _, anchor = link.partition("#")
        if "://" not in link:
            leads_to = (page.parent / path).resolve() if path else page
            assert leads_to.exists(), link
            assert not anchor or anchor in anchors(leads_to), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_lines_are_wrapped(page: Path) -> None:
    """A line has at most 100 characters, apart from tables, code and generated parts."""
    lines = re.sub(r"(?s)<!-- generated: .*?<!-- end -->", "", prose(page)).splitlines()
    assert [line for line in lines if len(line) > 100 and not line.startswith("|")] == []


LONGEST_SENTENCE = 28
"""Words. A reader who was woken at night reads a longer one twice."""


def sentences(page: str) -> list[str]:
    """The sentences of a page's prose, without headings, tables, code, generated parts, and lists in semicolons."""
    plain = re.sub(r"(?ms)^ *```.*?^ *```$|<!-- generated: .*?<!-- end -->|^(?:#+ |\|).*?$", "\n\n", page)
    plain = re.sub(r"\]\([^)]*\)", "]", re.sub(r"`[^`]+`", "`code`", plain))
    found: list[str] = []
    for paragraph in re.split(r"\n\s*\n|(?m:^ *(?:[-*]|\d+\.) )", plain):
        found += re.split(r"(?<=[.!?])[*)\"”]* (?=certagent|[A-Z`*\[\"(“])", " ".join(paragraph.split()))
    return [sentence for sentence in found if sentence.count("; ") < 2]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_sentences_are_short(page: Path) -> None:
    found = sentences(page.read_text(encoding="utf-8"))
    assert [one for one in found if len(re.findall(r"\S*\w\S*", one)) > LONGEST_SENTENCE] == []


def test_sentences_are_found() -> None:
    """Code is one word, a list item begins a sentence, and what is generated is left out."""
    page = "# Of it\n\nIt is `a b c`. It\ngoes on.\n- One\n- Two: [three](four.md).\n\n| a |\n"
    page += "<!-- generated: x -->\nNo.\n<!-- end -->"
    assert [one for one in sentences(page) if one] == ["It is `code`.", "It goes on.", "One", "Two: [three]."]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_tables_have_rows(page: Path) -> None:
    assert re.findall(r"(?m)^(\|.*\|)\n\|[-|]+\|\n(?!\|)", prose(page)) == []


def test_index_has_every_page() -> None:
    """docs/README.md leads to every page below it, by its title."""
    linked = {path: words for words, path in re.findall(r"\[([^]]+)\]\(([^)#\s]+)", text("docs", "README.md"))}
    pages = {str(page.relative_to(ROOT / "docs")): page for page in (ROOT / "docs").glob("*/*.md")}
    assert {path: page.read_text(encoding="utf-8").partition("\n")[0] for path, page in pages.items()} == {
        path: f"# {linked.get(path)}" for path in pages
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_is_named_by_a_link(page: Path) -> None:
    """A path to a page is nothing that a reader can follow."""
    plain = re.sub(r"`[^`\n]+`|\]\([^)\s]+\)", "", prose(page))
    assert re.findall(r"(?<![\w/])docs/[\w/-]+\.md", plain) == []


def test_readme_is_short() -> None:
    """The README is read in five minutes."""
    assert len(text("README.md").splitlines()) <= 120


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_named_are_there(page: Path) -> None:
    """A file of the repository that a page names in passing is there too."""
    named = re.findall(
        r"(?<![\w/.])((?:certagent|docs|hooks|packaging|tests)/[\w./-]*\w|requirements[\w-]*\.lock|pyproject\.toml)",
        page.read_text(encoding="utf-8"),
    )
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_changelog_has_this_version() -> None:
    """The version of pyproject.toml is the package's, and the changelog begins with it, behaviour on upgrade first."""
    version = tomllib.loads(text("pyproject.toml"))["project"]["version"]
    assert version == certagent.__version__
    newest = text("CHANGELOG.md").split("\n## ", 2)[1]
    assert newest.startswith(f"[{version}]")
    assert re.findall(r"(?m)^### (.*)", newest)[0] == "Behaviour on upgrade"


def test_license_is_whole() -> None:
    """The license is the one that pyproject.toml names, with nothing missing."""
    assert tomllib.loads(text("pyproject.toml"))["project"]["license"] == "Apache-2.0"
    assert re.findall(r"(?m)^   (\d)\. ", text("LICENSE")) == list("123456789")
    assert "END OF TERMS AND CONDITIONS" in text("LICENSE")


# -- docs/how-to/dns-providers.md ------------------------------------------------------------------------------------


@pytest.mark.parametrize("check", dns_provider_suite, ids=lambda check: check.__name__)
def test_program_of_the_page_keeps_the_rules(check: DnsCheck, tmp_path: Path) -> None:
    """The program in docs/how-to/dns-providers.md passes the suite that the page asks others to pass."""
    page = text("docs", "how-to", "dns-providers.md").split("### A new provider in under 60 lines\n", 1)[1]
    source = re.findall(r"```python\n(#!.*?)```", page, re.DOTALL)[0]
    assert len(source.splitlines()) < 60
    path = tmp_path / "program"
    path.write_text(source.replace("/usr/bin/env python3", sys.executable))
    path.chmod(0o755)
    options_ = command.Options(program=str(path), zones=("example.org.",), args=(str(tmp_path / "records"),))
    check(command.Command(options_), "example.org.")


def test_messages_of_the_page() -> None:
    """The JSON in docs/how-to/dns-providers.md is what is sent, and what is understood."""
    request, question, replies = re.findall(r"```json\n(.*?)```", text("docs", "how-to", "dns-providers.md"), re.DOTALL)
    sent = msgspec.json.decode(request, type=program.Request)
    assert msgspec.json.decode(request) == msgspec.json.decode(msgspec.json.encode(sent))
    assert msgspec.json.decode(question) == msgspec.json.decode(msgspec.json.encode(program.Question()))
    for line in replies.splitlines():
        reply = msgspec.json.decode(line, type=program.Reply)
        assert set(msgspec.json.decode(line)) <= set(msgspec.structs.asdict(reply))


def test_capabilities_of_the_page() -> None:
    """The table has every capability with its default."""
    rows = re.findall(r"(?m)^\| `([a-z_]+)` \| (\S+) \| .+ \|$", text("docs", "how-to", "dns-providers.md"))
    defaults = msgspec.structs.asdict(Capabilities())
    found = {name: value.strip("`") if "`" in value else msgspec.json.decode(value) for name, value in rows}
    assert found == defaults


def test_every_provider_of_an_api_has_a_strict_fake() -> None:
    """The others are run against the real server, or are a program of somebody's."""
    modules = {place.partition(":")[0].rpartition(".")[2] for place in BUILT_IN["certagent.dns_providers"].values()}
    fakes = {path.stem for path in (ROOT / "tests" / "dns" / "fakes").glob("*.py")}
    assert modules - fakes == {"rfc2136", "knot", "command"}


@pytest.mark.parametrize("name", BUILT_IN["certagent.dns_providers"])
def test_the_example_configuration_names_it(name: str) -> None:
    assert re.search(rf"\b{name}\b", text("config.example.yaml"))


@pytest.mark.parametrize("name", BUILT_IN["certagent.dns_providers"])
def test_what_is_said_of_a_provider(name: str, tmp_path: Path) -> None:
    """Its example is a section of the configuration, and its words are sentences."""
    provider = loaded(BUILT_IN["certagent.dns_providers"][name])
    for words in (provider.about.rights, provider.about.access, provider.about.limits):
        assert re.fullmatch(r"[A-Z`].*\.", words, re.DOTALL), words
    section = yaml.safe_load(provider.about.example)
    assert section.pop("type") == name
    assert msgspec.convert(section, provider.Options).zones in {("example.org",), ("auth.example.org",)}


def test_the_suite_is_not_a_formality(tmp_path: Path) -> None:
    """A program that does nothing, and says that all is well, is found out."""
    path = tmp_path / "program"
    path.write_text("#!/bin/sh\necho '{\"ok\": true}'\n")
    path.chmod(0o755)
    provider = command.Command(command.Options(program=str(path), zones=("example.org.",)))
    [add_is_seen] = [check for check in dns_provider_suite if check.__name__ == "add_is_seen"]
    with pytest.raises(AssertionError):
        add_is_seen(provider, "example.org.")


# -- the architecture and the words ----------------------------------------------------------------------------------


def test_architecture_has_every_folder() -> None:
    """The tree in the package's docstring names the folders and files that there are, and no others."""
    tree = (certagent.__doc__ or "").split("\nThe tree", 1)[1].split("\n\n", 1)[0]
    named = re.findall(r"(?m)^    (\w+) ", tree)
    package = ROOT / "certagent"
    there = {path.parent.name for path in package.glob("*/__init__.py")} | {path.stem for path in package.glob("*.py")}
    assert sorted(named) == sorted(there - {"__init__", "__main__"})


def test_words_are_in_use() -> None:
    """Every word of the table stands somewhere in the package; a word that nothing uses explains nothing."""
    cells = re.findall(r"(?m)^\| ([^|]+) \|.*\|.*\|$", text("docs", "explanation", "words.md"))
    words = {word.strip().removeprefix("to ") for cell in cells for word in cell.split(",")} - {"word"}
    package = " ".join(path.read_text(encoding="utf-8") for path in SOURCES)
    spoken = re.sub(r"\s+", " ", re.sub(r"(?<=[a-z0-9])(?=[A-Z])|_", " ", package)).lower()
    assert len(words) > 50
    assert {word for word in words if word.lower() not in spoken} == set()


# -- docs/explanation/assumptions.md -----------------------------------------------------------------------------------


def test_every_assumption_has_who_notices_and_what_then() -> None:
    """No cell is empty, and what is named as a test is there."""
    page = text("docs", "explanation", "assumptions.md")
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in re.findall(r"(?m)^\| .*\|$", page)]
    assert len(rows) > 25
    assert all(len(row) == 5 and all(row) for row in rows), [row for row in rows if len(row) != 5 or not all(row)]
    assert all((ROOT / path).exists() for path in re.findall(r"`((?:tests|certagent)/[\w/]+(?:\.py)?)`", page))
