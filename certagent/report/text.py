"""What people read: plain lines, the date first where there is one, the reason last. And the JSON of --json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import msgspec

from certagent.facts.dns import Answer, Observation
from certagent.facts.moment import Instant
from certagent.facts.unknown import Unknown
from certagent.lifecycle import caches, rollover
from certagent.lifecycle import events as ev
from certagent.lifecycle import steps as st
from certagent.lifecycle.schedule import alarms
from certagent.lifecycle.spec import Spec
from certagent.lifecycle.state import Failure, State
from certagent.pki import tlsa

if TYPE_CHECKING:
    from certagent.lifecycle.forecast import Foreseen
    from certagent.report.findings import Finding, Rehearsal
    from certagent.report.step import StepReport
    from certagent.store.journal import Entry, Wake

DATE = "%Y-%m-%d %H:%M:%S"


def to_json(value: Any) -> bytes:
    """One document; dates are RFC 3339 in UTC, durations ISO 8601, keys sorted."""
    return msgspec.json.format(msgspec.json.encode(value, order="sorted"), indent=2)


def brief(delay: timedelta) -> str:
    """A duration in its two largest units: `2 d 3 h`, `9 s`."""
    seconds = delay.total_seconds()
    if seconds < 10:
        return f"{max(seconds, 0):.1f} s"
    left = int(seconds)
    parts: list[str] = []
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        if left >= size:
            parts.append(f"{left // size} {unit}")
            left %= size
    return " ".join(parts[:2])


def step_words(step: st.AnyStep) -> str:  # noqa: C901, PLR0911, PLR0912 -- one line a step
    """What a step does, in a few words."""
    match step:
        case st.MakeKeys():
            return f"make keys {step.keys} ({', '.join(step.key_types)})"
        case st.PlaceOrder():
            return f"order a certificate for {step.keys} ({step.key_type})"
        case st.AbandonOrder():
            return f"forget an order ({step.key_type})"
        case st.Present():
            return f"put the challenge into DNS ({step.key_type})"
        case st.Respond():
            return f"let the CA check the challenge ({step.key_type})"
        case st.Finalize():
            return f"fetch and verify {step.generation} ({step.key_type})"
        case st.CleanUp():
            return f"remove {len(step.challenges)} challenge values from DNS"
        case st.Observe():
            return f"ask every server of {step.tlsa_name}"
        case st.Publish():
            return f"publish {short(step.values)} at {step.tlsa_name}"
        case st.Unpublish():
            return f"remove {short(step.values)} at {step.tlsa_name}"
        case st.Inspect():
            return f"see what {step.server} serves"
        case st.Install():
            return f"{'put back' if step.rollback else 'swap'} {step.server} to {step.generation}"
        case st.Restore():
            return f"put the files back that {step.server} had before certagent's"
        case st.Reload():
            return f"reload {step.server}"
        case st.Verify():
            return f"prove that {step.server} serves {step.generation}{' and nothing else' if step.drained else ''}"
        case st.FetchRenewalInfo():
            return f"ask the CA when to renew {step.generation} ({step.key_type})"
        case st.Revoke():
            return f"revoke {step.generation}"
        case st.Delete():
            return f"delete {', '.join((*step.generations, *step.keys, *step.tlsa_names, *step.mail_servers))}"


def short(values: Sequence[str] | frozenset[str]) -> str:
    """TLSA values with their digests cut: enough to tell them apart."""
    return ", ".join(f"{v[:14]}…" for v in sorted(values)) or "nothing"


def step(told: StepReport) -> str:
    """The line of a step that was taken."""
    outcome = "FAILED " if told.failure else ""
    return f"{told.certificate}: {outcome}{step_words(told.step)} [{told.took_s:.2f} s]: {told.step.because}"


def timeline(foreseen: Sequence[Foreseen]) -> str:
    """A forecast, a line a step; a wait shows its length and its reason."""
    lines: list[str] = []
    waited = timedelta(0)
    for item, following in zip(foreseen, [*foreseen[1:], None], strict=True):
        if isinstance(item.step, st.Wait):
            waited += item.step.delay
            # the looks while a wait goes on say nothing new in a forecast
            if following is None or not isinstance(following.step, st.Observe | st.Wait):
                lines.append(f"{'':19}  … {brief(waited)}: {item.step.because}")
                waited = timedelta(0)
        elif not (waited and isinstance(item.step, st.Observe)):
            lines.append(f"{item.at.wall:{DATE}}  {step_words(item.step)}: {item.step.because}")
    return "\n".join(lines)


def finding(item: Finding) -> str:
    """A line of `check` or of a rehearsal."""
    mark = {"ok": "ok", "note": "note", "warning": "WARNING", "error": "ERROR"}[item.outcome]
    return f"  {mark:<8}{item.what}: {item.detail}" + (f"\n          hint: {item.hint}" if item.hint else "")


def rehearsal(report: Rehearsal) -> str:
    """What a rehearsal wrote and removed, and the timeline of the real run."""
    lines = [f"  wrote   {record}" for record in report.written]
    lines += [f"  removed {record}" for record in report.removed]
    lines.append("  nothing else was changed: no TLSA record, no file of a mail server, no reload")
    lines.append("the real run:")
    verdict = (
        "ERROR: the real run would stop at what is marked above" if report.failed else "the real run would succeed"
    )
    return "\n".join([*lines, timeline(report.timeline), verdict])


def run_of(name: str, told: Sequence[StepReport], last: st.Wait, failures: Mapping[str, Failure]) -> dict[str, Any]:
    """The JSON of one certificate's `renew`."""
    return {
        "certificate": name,
        "steps": list(told),
        "next_in": last.delay,
        "because": last.because,
        "failures": dict(failures),
    }


# -- status ----------------------------------------------------------------------------------------------------------

MANY = 50
"""More certificates than anybody reads in full: of those that fare well, `status` shows a line each."""


def status(spec: Spec, state: State, now: Instant, wake: Wake | None) -> str:
    """What is known of one certificate, for somebody woken at night: what is wrong comes first."""
    lines = [f"{spec.name}: {_headline(state, now)}"]
    for work, failure in sorted(state.failures.items()):
        since = f"{failure.count} times since {failure.first_at.wall:{DATE}}"
        word = "ALARM" if alarms(work, failure, now) else "FAILING"
        lines.append(f"  {word} {work}, {since}: {failure.detail} [{failure.code}]")
        if failure.hint:
            lines.append(f"          hint: {failure.hint}")
    lines += [f"  {server.name}: {_server(state, server.name)}" for server in spec.mail_servers]
    for name in rollover.tlsa_names(spec, state):
        lines += _tlsa_name(spec, state, name)
    if state.next_keys:
        use = "standby" if rollover.rolled(spec, state) else "next"
        lines.append(f"  keys {state.next_keys.id}: {use}, made {state.next_keys.made_at.wall:{DATE}}")
    lines.append(f"  {_next(wake)}")
    return "\n".join(lines)


def fares_well(state: State, now: Instant) -> bool:
    """Whether the status has nothing in it that anybody must read: what would stand there in capitals."""
    newest = state.newest
    return not (
        state.failures
        or (newest and any(chain.not_after <= now.wall for chain in newest.chains.values()))
        or any(t.phase in ("verify_failed", "drifted") or t.rejected for t in state.mail_servers.values())
        or any(o.observation and not _sound(o.observation) for o in state.tlsa_names.values())
    )


def _sound(observation: Observation) -> bool:
    return caches.complete(observation) and observation.security != "bogus"


def status_line(state: State, now: Instant, wake: Wake | None) -> str:
    """One certificate of a fleet, of which nothing must be told."""
    return f"{state.name}: {_headline(state, now)}; {_next(wake)}"


def _next(wake: Wake | None) -> str:
    return f"next {wake.at:{DATE}}: {wake.why}" if wake else "next: now, as soon as certagent runs"


def _headline(state: State, now: Instant) -> str:
    newest = state.newest
    if newest is None:
        return "no certificate yet"
    ends = min(chain.not_after for chain in newest.chains.values())
    left = ends - now.wall
    names = ", ".join(next(iter(newest.chains.values())).names)
    if left <= timedelta(0):
        return f"EXPIRED {ends:{DATE}} UTC ({newest.id}, {names})"
    return f"{newest.id} is valid until {ends:{DATE}} UTC, {brief(left)} more ({names})"


def _server(state: State, name: str) -> str:
    at = state.mail_servers.get(name)
    if at is None or at.generation is None:
        return "nothing installed yet"
    words = {
        "installing": "is being swapped to",
        "installed": "has files of, not reloaded yet:",
        "reloaded": "reloaded, not proven yet:",
        "verify_failed": "DOES NOT SERVE, tried again:",
        "verified": "serves, old processes may live on:",
        "drained": "serves nothing but",
        "drifted": "SERVES SOMETHING ELSE than",
        "restoring": "gets its own files back in place of",
    }.get(at.phase, at.phase)
    proof = f", proven {at.verified_at.wall:{DATE}}" if at.verified_at else ""
    back = f"; {at.rejected} was taken back: certagent history says why" if at.rejected else ""
    return f"{words} {at.generation}{proof}{back}"


def _tlsa_name(spec: Spec, state: State, name: str) -> list[str]:
    tlsa_name = state.tlsa_names.get(name)
    if tlsa_name is None or tlsa_name.observation is None or tlsa_name.observed_at is None:
        return [f"  {name} not looked at yet"]
    why = rollover.publication_blocked(spec, state, name) if name in spec.tlsa_names else "withdrawn"
    head = f"not published: {why}" if why else f"{len(rollover.desired(spec, state, name))} records wanted"
    lines = [f"  {name} {head}; {tlsa_name.observation.security}; looked at {tlsa_name.observed_at.wall:{DATE}}"]
    unmanaged = rollover.seen_somewhere(tlsa_name) - state.ours
    if unmanaged:
        lines.append(f"    note: not certagent's, left alone: {short(unmanaged)}")
    for server, answer in sorted(tlsa_name.observation.answers.items()):
        if isinstance(answer, Answer):
            lines.append(f"    {server} TTL {answer.ttl_s} s: {short(answer.values)}")
        else:
            lines.append(f"    {server} UNKNOWN: {answer.why}")
    return lines


def status_of(name: str, state: State, wake: Wake | None) -> msgspec.Raw:
    """The JSON of one certificate's status; its text, because thousands of states take much more room."""
    return msgspec.Raw(msgspec.json.encode({"name": name, "state": state, "next": wake}, order="sorted"))


def tlsa_records(spec: Spec, state: State) -> list[dict[str, Any]]:
    """The records that belong in DNS now, each with what it is for."""
    comment: dict[str, str] = {}
    for generation in state.generations:
        for chain in generation.chains.values():
            for value in tlsa.records(chain, spec.tlsa_parameters):
                comment[value] = f"{generation.id}, keys {generation.keys or 'not certagent’s'}"
    for keyset in state.keys:
        for key_type, spki in keyset.spki.items():
            role = "in service" if keyset == state.current_keys else "next or standby"
            comment[tlsa.of_key(spki)] = f"keys {keyset.id} {key_type}, {role}"
    return [
        {"tlsa_name": tlsa_name, "ttl_s": spec.ttl_s, "value": value, "comment": comment.get(value, "")}
        for tlsa_name in spec.tlsa_names
        for value in sorted(rollover.desired(spec, state, tlsa_name))
    ]


# -- history ---------------------------------------------------------------------------------------------------------


def event(entry: Entry) -> str:
    """A line, or a few, of the history: the date, what happened, and the evidence."""
    head = f"{entry.seq:>5} {entry.at.wall:{DATE}}  "
    lines = _event(entry.event)
    return "\n".join([head + lines[0], *(f"{'':29}{line}" for line in lines[1:])])


def _event(happened: ev.AnyEvent) -> list[str]:  # noqa: C901, PLR0911 -- one line an event
    match happened:
        case ev.Intended():
            return [f"about to {step_words(happened.step)}: {happened.step.because}"]
        case ev.Failed():
            return [f"FAILED {happened.work}: {happened.detail} [{happened.code}]"]
        case ev.Observed():
            seen = happened.observation
            answers = [
                f"{s} TTL {a.ttl_s} s: {short(a.values)}" if isinstance(a, Answer) else f"{s} UNKNOWN: {a.why}"
                for s, a in sorted(seen.answers.items())
            ]
            return [f"looked at {happened.tlsa_name}: {seen.security} {seen.why}".rstrip(), *answers]
        case ev.Superseding():
            before = f"TTL {happened.before_ttl_s} s: {short(happened.before)}"
            after = f"TTL {happened.after_ttl_s} s: {short(happened.after)}"
            return [f"superseding at {happened.tlsa_name}, as the provider has it", f"had {before}", f"gets {after}"]
        case ev.Verified() | ev.VerifyFailed() | ev.Inspected():
            word = {"Verified": "verified", "VerifyFailed": "NOT proven", "Inspected": "inspected"}[
                type(happened).__name__
            ]
            rows = [
                f"{s.where}: "
                + (s.chain.why if isinstance(s.chain, Unknown) else f"key {s.chain.spki[:12]}… serial {s.chain.serial}")
                for s in happened.served
            ]
            return [f"{happened.server} {word}", *rows]
        case ev.Issued():
            chain = happened.chain
            until = f"valid until {chain.not_after:{DATE}} UTC, serial {chain.serial}"
            return [f"issued {happened.generation} ({happened.key_type}), {until}"]
        case ev.OrderPlaced():
            todo = ", ".join(f"{name} TXT {value}" for name, value in happened.challenges) or "no challenge"
            return [f"ordered for {happened.keys} ({happened.key_type}): {happened.url}", f"challenges: {todo}"]
        case ev.CleanedUp():
            return [f"removed the challenges at {', '.join(dict.fromkeys(name for name, _ in happened.challenges))}"]
        case ev.KeysMade():
            return [f"made {happened.keys}: {', '.join(f'{a} 3 1 1 {spki}' for a, spki in happened.spki.items())}"]
        case ev.Requested():
            more = ", deferrals accepted" if happened.accept_deferrals else ""
            return [f"the operator asked: {happened.what}{more}"]
        case _:
            facts = {
                k: v for k, v in msgspec.structs.asdict(happened).items() if k != "work" and v not in (None, (), "")
            }
            return [f"{type(happened).__name__}: {', '.join(f'{k} {_plain(v)}' for k, v in facts.items())}"]


def _plain(value: object) -> str:
    if isinstance(value, frozenset):
        return short(frozenset(str(v) for v in value))  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    if isinstance(value, tuple):
        return " ".join(str(v) for v in value)  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    return str(value)
