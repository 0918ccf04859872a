"""`certagent status`: a line for each certificate, then what fails and what rolls, and the verdict at the end.

Times are UTC. Nothing here depends on the terminal but the width; `report/terminal.py` adds colour.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

from certagent.report.status import VERDICTS, Certificate, Failure, Status, Verdict
from certagent.report.terminal import wrapped
from certagent.report.timeline import picture
from certagent.report.words import brief, clock, count, day

MARKS: dict[Verdict, str] = {"well": "●", "rolling": "◐", "failing": "✖", "needs_human": "✖"}
WORDS: dict[Verdict, str] = {"well": "well", "rolling": "rolling", "failing": "FAILING", "needs_human": "NEEDS YOU"}
"""What is in capital letters wants to be read first."""
HEAD = ("  CERTIFICATE", "SERVED", "VALID UNTIL", "IN DNS", "STANDBY", "NEXT")
ROLLS = 5
"""So many rolls are drawn: more than that begin at once only where a fleet is set up."""
GAP = 2
WIDEST_NAME = 60
"""Of a name in the table; a longer one stands in a line before its row."""


def overview(view: Status, width: int | None) -> str:
    """All of it. `width`: of the terminal in columns; None: lines are not broken."""
    lines = [*_table([_cells(one, view.at) for one in view.certificates], width)] if view.certificates else []
    wrong = [one for one in view.certificates if one.verdict in VERDICTS[2:]]
    open_ = [one for one in view.certificates if one.verdict == "well" and (one.requested or one.revoking)]
    rolling = [one for one in view.certificates if one.roll and one not in wrong]
    for one in (*wrong, *open_, *rolling[:ROLLS]):
        lines += ["", *_certificate(one, view.at, width)]
    if len(rolling) > ROLLS:
        lines += ["", f"{MARKS['rolling']} {len(rolling) - ROLLS} more: rolling"]
    lines += [""] if view.others else []
    for other in view.others:
        lines.append(f"{MARKS[other.verdict]} {other.subject}: {WORDS[other.verdict]}")
        lines += [line for failure in other.failures for line in wrapped(failure, width)]
    return "\n".join([*lines, "", *_end(view, width)]).lstrip("\n")


# -- the table ---------------------------------------------------------------------------------------------------------

Cells = tuple[str, ...]


def _table(rows: list[Cells], width: int | None) -> Iterator[str]:
    widths = [max(map(len, column)) + GAP for column in zip(HEAD, *rows, strict=True)][1:]
    room = WIDEST_NAME if width is None else max(len(HEAD[0]), width - sum(widths) - GAP)
    first = max(len(name) for name in (HEAD[0], *(row[0] for row in rows)) if len(name) <= room) + GAP
    for name, *rest in (HEAD, *rows):
        cells = "".join(cell.ljust(w) for cell, w in zip(rest, widths, strict=True)).rstrip()
        if len(name) + GAP <= first:
            yield name.ljust(first) + cells
        else:
            yield from (name, " " * first + cells)


def _cells(view: Certificate, now: datetime) -> Cells:
    return (f"{MARKS[view.verdict]} {view.name}", _served(view), _until(view, now), *_dns(view, now), _next(view, now))


def _served(view: Certificate) -> str:
    ids = [g.id if g.managed else "unmanaged" for g in view.served]
    old = "+".join(dict.fromkeys(ids)) or "nothing"
    new = view.roll.new if view.roll and view.roll.new not in ids else None
    return f"{old}→{new}" if new else old


def _until(view: Certificate, now: datetime) -> str:
    if view.valid_until is None:
        return "–"
    left = view.valid_until - now
    if left <= timedelta(0):
        return f"EXPIRED {day(view.valid_until)}"
    return f"{day(view.valid_until)} {brief(left, units=1)}"


def _dns(view: Certificate, now: datetime) -> tuple[str, str]:
    """How many name servers give every record, at the worst TLSA name; and how far the standby is."""
    names = [name for name in view.tlsa_names if not name.withdrawn]
    if not names:
        return "–", "–"
    worst = min(names, key=lambda name: (not name.blocked, name.in_dns / (name.servers or 1)))
    dns = "not yet" if worst.blocked or worst.observed_at is None else f"{worst.in_dns}/{worst.servers}"
    standby = view.standby
    words = {"none": "none", "next": "none", "ready": "ready", "waiting": "not ready"}[standby.state]
    if standby.ready_at:
        words = f"in {brief(standby.ready_at - now)}"
    return dns, words


def _next(view: Certificate, now: datetime) -> str:
    failing = [failure.again_at for failure in view.failures if not failure.note]
    if failing:
        return f"retry {clock(min(failing), now)}" if min(failing) > now else "retry now"
    if view.roll and view.roll.swap_at:
        return f"swap {clock(view.roll.swap_at, now)}"
    if view.roll:
        return view.roll.stage
    return f"renew {day(view.renew_at)}" if view.renew_at else "–"


# -- what is not well --------------------------------------------------------------------------------------------------


def _certificate(view: Certificate, now: datetime, width: int | None) -> Iterator[str]:
    yield f"{MARKS[view.verdict]} {view.name}: {WORDS[view.verdict]}"
    if view.verdict in VERDICTS[2:]:
        affected = {"no": "mail is not affected", "perhaps": "MAIL MAY BE AFFECTED", "yes": "MAIL IS AFFECTED"}
        for line in (f"{affected[view.mail.affected]}: {view.mail.why}", *_wrong(view, now)):
            yield from wrapped(line, width)
    if view.roll:
        yield from (f"    {line}" for line in picture(view.roll, now))
    for line in _open(view):
        yield from wrapped(line, width)


def _wrong(view: Certificate, now: datetime) -> Iterator[str]:
    for condition in view.conditions:
        yield f"{condition.detail} [{condition.code}]"
        yield f"do: {condition.hint}"
    for failure in view.failures:
        yield from _failure(failure, now)
    for name in view.tlsa_names:
        if silent := [f"{answer.server}: {answer.unknown}" for answer in name.answers if answer.unknown]:
            yield f"{name.name} is not heard at {'; '.join(silent)}"
    for server in view.mail_servers:
        if server.rejected:
            yield f"{server.name}: {server.rejected} was taken back; certagent history {view.name} says why"


def _open(view: Certificate) -> Iterator[str]:
    """What is asked for, and what is waited for."""
    for reason in view.roll.waits_for if view.roll else ():
        yield f"waits for {reason}"
    if view.requested:
        yield f"the operator asked for: {view.requested}"
    for id_ in view.revoking:
        yield f"{id_} is revoked as soon as nothing serves it"


def _failure(failure: Failure, now: datetime) -> Iterator[str]:
    word = "note: " if failure.note else "ALARM: " if failure.alarm else ""
    again = f"next try {clock(failure.again_at, now)}" if failure.again_at > now else "due again now"
    since = f"{count(failure.count, 'time')} since {clock(failure.since, now)}, {again}"
    yield f"{word}{failure.lane}: {failure.detail} [{failure.code}]; {since}"
    if failure.hint:
        yield f"do: {failure.hint}"


# -- the end -----------------------------------------------------------------------------------------------------------


def _end(view: Status, width: int | None) -> Iterator[str]:
    yield f"{clock(view.at, None)} UTC, {verdicts(view)}"
    if any(one.verdict in VERDICTS[1:] for one in view.certificates):
        yield "certagent status NAME shows one in full"
    if view.daemon is None and view.daemon_wanted and view.certificates:
        start = "Start it (systemctl start certagent), or, if a timer runs certagent renew instead, say so with"
        yield from wrapped(f"NO DAEMON: nothing is renewed. {start} --no-daemon", width, indent="")


def verdicts(view: Status) -> str:
    """`3 certificates: 2 well, 1 FAILING`."""
    every = [one.verdict for one in view.certificates]
    parts = [f"{every.count(one)} {WORDS[one]}" for one in VERDICTS if one in every]
    return f"{count(len(every), 'certificate')}{': ' if parts else ''}{', '.join(parts)}"
