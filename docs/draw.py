"""The generated parts of docs/explanation/rollover.md; docs/generate.py writes them.

What is drawn here was not typed: the rules are read from `planner.RULES`, the steps from their classes, and the
transitions and the stories are what the planner does when it is really run, with ideal answers or the faults named.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Literal, NamedTuple, get_args

from msgspec.structs import replace

from certagent.facts.moment import Instant
from certagent.facts.tls import Service
from certagent.lifecycle import events as ev
from certagent.lifecycle import forecast, planner
from certagent.lifecycle import steps as st
from certagent.lifecycle.converged import converged
from certagent.lifecycle.fold import fold
from certagent.lifecycle.rules.deployment import STAGES
from certagent.lifecycle.spec import MailServer, Spec
from certagent.lifecycle.state import Phase, State
from certagent.pki import tlsa
from certagent.report.words import brief, step_words

HOST = "mx1.example.org"
TLSA_NAME = f"_25._tcp.{HOST}."
SPEC = Spec(
    name=HOST,
    names=(HOST,),
    key_types=("ecdsa-p256",),
    rotate_key=timedelta(),
    standby=True,
    tlsa_names={TLSA_NAME: ("postfix",)},
    tlsa_parameters=("3 1 1",),
    ttl_s=3600,
    safety_margin=timedelta(minutes=15),
    drain=timedelta(minutes=5),
    check_interval=timedelta(hours=6),
    mail_servers=(MailServer("postfix", (Service(HOST, 25, "smtp"),)),),
    cas=("https://ca.example/directory",),
)
START = Instant(datetime(2027, 1, 1, tzinfo=UTC), 0.0)


# -- a world to run the planner in -----------------------------------------------------------------------------------


class Moment(NamedTuple):
    """What was done at a moment, and what was so after it."""

    at: Instant
    step: st.AnyStep | st.Wait
    before: State
    after: State
    zone: frozenset[str]
    ended: Literal["done", "failed", "killed"]


Fault = Callable[[st.AnyStep, State], "list[ev.AnyEvent] | None"]


class Play:
    """A certificate's life: the real planner, the real fold; every step ends as is ideal, or as `fault` says."""

    def __init__(self, spec: Spec = SPEC) -> None:
        self.spec = spec
        self.state = State(name=spec.name)
        self.now = START
        self.zone: dict[str, frozenset[str]] = {}
        self.moments: list[Moment] = []

    def happens(self, event: ev.AnyEvent) -> None:
        """Something is journaled that no step brought about: a request."""
        self.state = fold(self.state, event, self.now)

    def until_quiet(self, fault: Fault | None = None, *, limit: int = 200, withdrawn: bool = False) -> list[Moment]:
        """Run until what was begun is over (and, where asked for, a withdrawn name forgotten); what was done."""
        began = len(self.moments)
        for _ in range(limit):
            step = planner.plan(self.spec, self.state, self.now)
            before = self.state
            ended: Literal["done", "failed", "killed"] = "done"
            if isinstance(step, st.Wait):
                over = converged(self.spec, self.state) and not self.state.failing
                if over and not (withdrawn and self.state.tlsa_names):
                    break
                self.passes(step.delay)
            else:
                if step.changes:
                    self.state = fold(self.state, ev.Intended(step=step, lane=step.lane), self.now)
                faulty = fault(step, self.state) if fault else None
                if faulty is not None:
                    failed = any(isinstance(event, ev.Failed) for event in faulty)
                    ended = "failed" if failed else "done" if faulty else "killed"
                for event in self._ideal(step) if faulty is None else faulty:
                    self.state = fold(self.state, event, self.now)
                self.passes(timedelta(milliseconds=1))
            self.moments.append(
                Moment(self.now, step, before, self.state, self.zone.get(TLSA_NAME, frozenset()), ended)
            )
        return self.moments[began:]

    def _ideal(self, step: st.AnyStep) -> list[ev.AnyEvent]:
        return forecast._ideal(step, self.spec, self.state, self.zone, self.now)  # pyright: ignore[reportPrivateUsage] -- one ideal world is enough

    def passes(self, delay: timedelta) -> None:
        """Time goes by."""
        delay = max(delay, timedelta(milliseconds=1))
        self.now = Instant(self.now.wall + delay, self.now.elapsed_s + delay.total_seconds())


def not_served(step: st.AnyStep, _state: State, *, generation: str) -> list[ev.AnyEvent] | None:
    """The fault: a handshake meets something else than this generation."""
    if not isinstance(step, st.Verify) or step.generation != generation:
        return None
    return [
        ev.VerifyFailed(server=step.server, generation=step.generation, served=()),
        ev.Failed(
            lane=step.lane, kind="transient", code="mta.not_served", concerns="served", detail="serves another key"
        ),
    ]


def once(fault: Fault) -> Fault:
    """The fault, the first time only."""
    done: list[bool] = []

    def first(step: st.AnyStep, state: State) -> list[ev.AnyEvent] | None:
        events = None if done else fault(step, state)
        if events is not None:
            done.append(True)
        return events

    return first


def replaces_files(killed: Fault) -> Fault:
    """The fault: somebody else's files are replaced, the first verification after that fails; and `killed`."""
    failed = once(lambda step, state: not_served(step, state, generation="g1"))

    def fault(step: st.AnyStep, state: State) -> list[ev.AnyEvent] | None:
        if isinstance(step, st.Install):
            return [ev.Installed(server=step.server, generation=step.generation, kept=True)]
        events = failed(step, state)
        return events if events is not None else killed(step, state)

    return fault


def nothing_happens(kind: type[st.AnyStep]) -> Fault:
    """The fault: killed in the middle of such a step, so that only the intent is in the journal."""
    return once(lambda step, _state: [] if isinstance(step, kind) else None)


def refused(kind: type[st.AnyStep]) -> Fault:
    """The fault: such a step fails."""

    def fault(step: st.AnyStep, _state: State) -> list[ev.AnyEvent] | None:
        if not isinstance(step, kind):
            return None
        return [ev.Failed(lane=step.lane, kind="transient", code="mta.reload", detail="cannot reload")]

    return once(fault)


# -- the parts -------------------------------------------------------------------------------------------------------


def rules() -> str:
    """Every rule in its order, with the first sentence of its docstring."""
    rows = ["| | subject | rule | what it says |", "|---|---|---|---|"]
    for number, rule in enumerate(planner.RULES, 1):
        subject = rule.__module__.rpartition(".")[2]
        rows.append(f"| {number} | {subject} | `{rule.__name__}` | {_first(rule.__doc__)} |")
    return "\n".join(rows) + "\n"


def stages() -> str:
    """What is done in each phase of a mail server, and why."""
    rows = ["| phase | what is done next | because |", "|---|---|---|"]
    rows += [f"| {phase} | {stage.done} | {stage.why} |" for phase, stage in STAGES.items()]
    return "\n".join(rows) + "\n"


def steps() -> str:
    """Every kind of step, what it does, and the line of work that its failures hold back."""
    rows = ["| step | what it does | its line of work | changes anything? |", "|---|---|---|---|"]
    for kind in get_args(st.AnyStep):
        verb = "install or rollback" if kind is st.Install else kind.VERB
        lane = f"{verb} *{kind.SUBJECT}*" if kind.SUBJECT else verb
        rows.append(f"| {kind.__name__} | {_first(kind.__doc__)} | {lane} | {'yes' if kind.CHANGES else 'no'} |")
    return "\n".join(rows) + "\n"


def phases() -> str:
    """The phases of a mail server, with every transition that occurred in the plays below."""
    seen: dict[tuple[str, str], dict[str, None]] = {}
    for moment in _lives():
        if isinstance(moment.step, st.Wait):
            continue
        edges = [
            (_phase(moment.before), _phase(_half(moment)), "begun"),
            (_phase(_half(moment)), _phase(moment.after), ""),
        ]
        for one, other, word in edges:
            if one != other or (moment.ended != "done" and not word and isinstance(moment.step, _AT_SERVER)):
                seen.setdefault((one, other), {})[_label(moment, word)] = None
    lines = ["```mermaid", "stateDiagram-v2"]
    order = ["[*]", *get_args(Phase)]
    for one, other in sorted(seen, key=lambda e: (order.index(e[0]), order.index(e[1]))):
        label = ", ".join(seen[one, other])
        lines.append(f"    {one} --> {other}: {label}")
    lines += ["```", ""]
    missing = [p for p in get_args(Phase) if not any(p in edge for edge in seen)]
    assert not missing, f"no play reaches {missing}"
    return "\n".join(lines)


_AT_SERVER = st.Install | st.Restore | st.Reload | st.Verify


def _half(moment: Moment) -> State:
    """The state between the intent and the outcome."""
    step = moment.step
    if isinstance(step, st.Wait) or not step.changes:
        return moment.before
    return fold(moment.before, ev.Intended(step=step, lane=step.lane), moment.at)


def _phase(state: State) -> str:
    at = state.mail_servers.get("postfix")
    return at.phase if at else "[*]"


def _label(moment: Moment, word: str) -> str:
    step = moment.step
    name = type(step).__name__
    if isinstance(step, st.Install) and step.rollback:
        name = "Install (put back)"
    if isinstance(step, st.Verify) and step.drained:
        name = "Verify (nothing else)"
    if word:
        return f"{name} {word}"
    return f"{name} {moment.ended}"


def _lives() -> Iterator[Moment]:
    """Lives that go through every transition: ideal, put back, killed, refused, changed by another program."""
    play = Play()
    yield from play.until_quiet()
    play.happens(ev.Requested(what="rotate"))
    yield from play.until_quiet()
    play.happens(ev.Requested(what="rotate"))
    yield from play.until_quiet(once(lambda s, state: not_served(s, state, generation="g3")))
    play.happens(ev.Requested(what="renew"))
    yield from play.until_quiet(nothing_happens(st.Install))
    play.happens(ev.Requested(what="renew"))
    yield from play.until_quiet(nothing_happens(st.Reload))
    play.happens(ev.Requested(what="renew"))
    yield from play.until_quiet(refused(st.Reload))
    unmanaged = Play()
    yield from unmanaged.until_quiet(replaces_files(nothing_happens(st.Restore)))
    # an agent that was down for an hour after the reload: the first verification is the last one, too
    late = Play(replace(SPEC, drain=timedelta()))
    yield from late.until_quiet()
    for phase in ("verified", "drained"):  # somebody else exchanges the files
        lost = Play()
        for _ in range(100):
            [moment] = lost.until_quiet(limit=1) or [None]
            if moment is None or _phase(moment.after) == phase:
                break
            yield moment
        lost.passes(SPEC.check_interval)
        yield from lost.until_quiet(once(lambda s, state: not_served(s, state, generation="g1")), limit=40)


def orders() -> str:
    """The four orders of a roll, and abort: what the planner does, in the ideal world, and what it waits for."""
    stories = (
        ("First publication: serve, verify, then publish", _first_publication()),
        ("Normal roll with a standby key: no wait, it was waited out long before", _roll(standby=True)),
        ("Normal roll without a standby key: publish, wait, swap, verify, remove", _roll(standby=False)),
        ("Withdrawal: unpublish, wait, and only then may keys change freely", _withdrawal()),
        ("Emergency with a standby key: swap at once, revoke", _emergency(standby=True)),
        (
            "Emergency without a standby key, `--accept-deferrals`: the operator chose not to wait",
            _emergency(standby=False),
        ),
        ("Abort before the swap", _abort()),
    )
    parts: list[str] = []
    for title, moments in stories:
        parts += [f"**{title}**", "", *_table(moments), ""]
    return "\n".join(parts)


def _first_publication() -> list[Moment]:
    return Play().until_quiet()


def _ready(*, standby: bool) -> Play:
    """A certificate that is served, verified and published."""
    play = Play(replace(SPEC, standby=standby))
    play.until_quiet()
    play.passes(timedelta(days=2))  # every cache has had time
    return play


def _roll(*, standby: bool) -> list[Moment]:
    play = _ready(standby=standby)
    play.happens(ev.Requested(what="rotate"))
    return play.until_quiet()


def _withdrawal() -> list[Moment]:
    play = _ready(standby=False)
    play.spec = replace(play.spec, tlsa_names={})
    moments = play.until_quiet(withdrawn=True)
    play.happens(ev.Requested(what="rotate"))
    return moments + play.until_quiet()


def _emergency(*, standby: bool) -> list[Moment]:
    play = _ready(standby=standby)
    play.happens(ev.Requested(what="emergency", accept_deferrals=not standby))
    return play.until_quiet()


def _abort() -> list[Moment]:
    play = _ready(standby=False)
    play.happens(ev.Requested(what="rotate"))
    moments: list[Moment] = []
    while not any(isinstance(m.step, st.Finalize) for m in moments):
        moments += play.until_quiet(limit=1)
    play.happens(ev.Requested(what="abort"))
    return moments + play.until_quiet()


def _table(moments: list[Moment]) -> list[str]:
    rows = ["| after | step | because | on disk | may be served | in DNS |", "|---|---|---|---|---|---|"]
    names = {
        tlsa.of_key(spki): k.id
        for m in moments
        for s in (m.before, m.after)
        for k in s.keys
        for spki in k.spki.values()
    }
    began = moments[0].at
    waited, why = timedelta(), ""
    for moment in moments:
        step = moment.step
        if isinstance(step, st.Wait):
            waited, why = waited + step.delay, step.because
            continue
        if isinstance(step, st.Observe) and waited and not step.expect - moment.zone and "before" not in step.because:
            continue  # observations while a wait goes on say nothing new
        if waited:
            rows.append(f"| | *waits {brief(waited)}* | {_shown(why, names)} | | | |")
            waited = timedelta()
        words = _shown(step_words(step), names)
        cached = " ".join(
            [*(k.id for k in moment.after.keys), *(g.id for g in moment.after.generations if not g.unmanaged)]
        )
        serves = " ".join(moment.after.mail_servers["postfix"].serves) if "postfix" in moment.after.mail_servers else ""
        zone = " ".join(sorted(names[v] for v in moment.zone))
        age, because = _age(moment.at.since(began)), _shown(step.because, names)
        rows.append(f"| {age} | {words} | {because} | {cached} | {serves or '–'} | {zone or '–'} |")
    return rows


def _age(age: timedelta) -> str:
    return brief(age) if age >= timedelta(seconds=10) else f"{int(age.total_seconds())} s"


def _shown(text: str, names: dict[str, str]) -> str:
    """Digests as the keys they are of; dates left out, for they follow from the day on which the play begins."""
    for value, name in names.items():
        text = text.replace(f"{value[:14]}…", f"3 1 1 of {name}")
    text = re.sub(r"issued (\d+) s ago", lambda m: f"issued {_age(timedelta(seconds=int(m[1])))} ago", text)
    return text.replace("|", "\\|")


def _first(doc: str | None) -> str:
    """The first sentence, or what comes before a list, in one line."""
    text = " ".join((doc or "").split("\n\n", 1)[0].split())
    return text.replace("|", "\\|")


PARTS: dict[str, Callable[[], str]] = {
    "rules": rules,
    "steps": steps,
    "stages": stages,
    "phases": phases,
    "orders": orders,
}
