"""What to do after `certagent init`, in order, each with the command that does it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from certagent.host import privileges
from certagent.init import host, seeds
from certagent.init.changes import Outcome
from certagent.init.report import Next
from certagent.init.survey import Survey
from certagent.mta.server import directories
from certagent.report.words import count

DEFAULT = Path("/etc/certagent/config.yaml")

UNIT = "certagent.service"
UNITS = (Path("/etc/systemd/system"), Path("/usr/local/lib/systemd/system"), Path("/usr/lib/systemd/system"))
"""Where systemd looks for units, systemd.unit(5)."""


def next_steps(
    seen: Survey, kinds: Mapping[str, Any], text: str, output: Path | None, done: list[Outcome]
) -> list[Next]:
    """What to do after this, in order."""
    path = output or DEFAULT
    chosen = "" if path == DEFAULT else f" --config {shlex.quote(str(path))}"
    again = "certagent init --apply"
    steps = [
        Next(f"let {found.name} offer STARTTLS at port {port}, and begin again with certagent init", todo.command)
        for found in seen.found
        for port, todo in found.plain
    ]
    steps += _keep(text, output)
    servers = {found.name: made for found in seen.found if (made := host.made(found, kinds))}
    written = directories(servers.values())
    manual = [found for found in seen.found if found.by_hand]
    need = {found.name: seeds.of(found, seen, servers.get(found.name)) for found in manual}
    by_hand = [Next(f"by hand, {found.name}: {what}", do) for found in manual for what, do in found.by_hand]
    waits = any(one.lacking for one in need.values())
    late = waits or any(outcome.state == "later" for outcome in done)
    if late and (absent := [str(path) for path in written if not path.is_dir()]):
        steps.append(Next("make the directories of the new files", f"install -d -m 755 {shlex.join(absent)}"))
    if any(outcome.state == "proposed" for outcome in done):
        steps.append(Next("make the changes shown above, with backups", again))
    elif any(one.sources for one in need.values()):
        steps.append(Next("put what is served today into the new files", again))
    if not waits:
        steps += by_hand
    changed = [outcome.server for outcome in done if outcome.state in {"made", "proposed"}]
    for name in dict.fromkeys([*changed, *(found.name for found in manual if not waits)]):
        steps.append(Next(f"let {name} read its changed configuration", servers[name].reload_command))
    steps += [
        Next("see whether all is as the configuration says", f"certagent check{chosen}"),
        Next("rehearse; it changes nothing", f"certagent renew --dry-run{chosen}"),
    ]
    if late:
        what = "make the files; it ends with an error, since nothing names them"
        steps.append(Next(what, f"certagent renew{chosen}"))
        if any(outcome.state == "later" for outcome in done):
            steps.append(Next("once they are there, make the changes that name them", again))
        steps += by_hand if waits else []
    steps.append(Next("do it", f"certagent renew --wait{chosen}"))
    beyond, needed = _beyond_unit(written, kinds), _privileges(seen, kinds, text)
    if beyond or needed:
        what = "let the service write where the files are" if beyond else "give the service the capabilities"
        also = ", with the capabilities" if beyond and needed else ""
        rest = " that its servers need" if needed else "; all else is read-only for it"
        steps.append(Next(f"{what}{also}{rest}", privileges.drop_in(beyond, needed)))
    steps.append(_service())
    return steps


def _service() -> Next:
    """The unit is no part of the Python package: it comes from the checkout."""
    start = "systemctl enable --now certagent"
    if any((directory / UNIT).exists() for directory in UNITS):
        return Next("keep it going", start)
    install = f"install -m 644 packaging/systemd/{UNIT} {UNITS[0]}/ && systemctl daemon-reload"
    return Next("keep it going; in the checkout", f"{install} && {start}")


def _keep(text: str, output: Path | None) -> list[Next]:
    """What becomes of the proposal."""
    path = output or DEFAULT
    steps: list[Next] = []
    if output is None and DEFAULT.exists():
        steps.append(
            Next("compare it with the configuration there is", f"certagent init 2>/dev/null | diff -u {DEFAULT} -")
        )
    elif output is None:
        made = "" if DEFAULT.parent.is_dir() else f"install -d -m 700 {DEFAULT.parent} && "
        steps.append(Next("keep the proposal", f"{made}certagent init --output {DEFAULT}"))
    if (todo := text.count("TODO:")) and (output or not DEFAULT.exists()):
        steps.append(
            Next(f"fill in what is marked TODO, {count(todo, 'place')}", f"grep -n TODO: {shlex.quote(str(path))}")
        )
    return steps


def unit_writes(kinds: Mapping[str, Any]) -> frozenset[str]:
    """Where the service may write files of mail servers: ReadWritePaths= of the shipped unit, which a test compares."""
    return frozenset(kind.directory for kind in kinds.values() if getattr(kind, "directory", ""))


def _beyond_unit(written: list[Path], kinds: Mapping[str, Any]) -> list[str]:
    """The directories in which the service has to replace files, and may not."""
    allowed = unit_writes(kinds)
    return [str(path) for path in written if allowed.isdisjoint(map(str, (path, *path.parents)))]


def _privileges(seen: Survey, kinds: Mapping[str, Any], text: str) -> list[str]:
    """What the shipped unit does not give, and these servers or the owners of their files need."""
    needed = {name for found in seen.found for name in getattr(kinds[found.type], "privileges", ())}
    if any({"owner", "group"} & found.options.keys() for found in seen.found):
        needed.update(privileges.OWNERS)
    if "{type: http-01}" in text:
        needed.add(privileges.PORT)
    return sorted(needed)
