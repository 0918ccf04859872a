"""Small pieces of text: dates, durations, counts, TLSA values, and what a step does."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta

from certagent.lifecycle import steps as st


def date(moment: datetime) -> str:
    """A date for people, in UTC: `2027-01-31 09:05:00`."""
    return f"{moment:%Y-%m-%d %H:%M:%S}"


def day(moment: datetime) -> str:
    """The day alone, in UTC: `2027-01-31`."""
    return f"{moment:%Y-%m-%d}"


def clock(moment: datetime, now: datetime | None) -> str:
    """A time for people, in UTC: `14:05` on the day of `now`, `2027-01-31 14:05` on another."""
    return f"{moment:%H:%M}" if now and moment.date() == now.date() else f"{moment:%Y-%m-%d %H:%M}"


def brief(delay: timedelta, *, units: int = 2) -> str:
    """A duration in its two largest units, or so many: `2 d 3 h`, `9.0 s`."""
    seconds = delay.total_seconds()
    if seconds < 10:
        return f"{max(seconds, 0):.1f} s"
    left = int(seconds)
    parts: list[str] = []
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        if left >= size:
            parts.append(f"{left // size} {unit}")
            left %= size
    return " ".join(parts[:units])


def count(number: int, thing: str) -> str:
    """`1 record`, `2 records`."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def short(values: Iterable[str], unmade: Mapping[str, str] | None = None) -> str:
    """TLSA values with their digests cut: enough to tell them apart.

    `unmade`: values of keys that do not exist yet, which a forecast makes up, and what is shown in their place.
    """
    shown = unmade or {}
    return ", ".join(sorted(shown.get(value) or f"{value[:14]}…" for value in values)) or "nothing"


def step_words(step: st.AnyStep, unmade: Mapping[str, str] | None = None) -> str:  # noqa: C901, PLR0911, PLR0912 -- one line per step
    """What a step does, in a few words. `unmade`: as in `short`."""
    match step:
        case st.MakeKeys():
            return f"make keys {step.keys} ({', '.join(step.key_types)})"
        case st.PlaceOrder():
            return f"order a certificate for {step.keys} ({step.key_type})"
        case st.AbandonOrder():
            return f"abandon an order ({step.key_type})"
        case st.Present():
            return f"put the responses in place ({step.key_type})"
        case st.Respond():
            return f"let the CA check the challenges ({step.key_type})"
        case st.Finalize():
            return f"fetch and verify {step.generation} ({step.key_type})"
        case st.CleanUp():
            return f"take away {count(len(step.challenges), 'response')} to challenges"
        case st.Observe():
            return f"ask every server of {step.tlsa_name}"
        case st.Publish():
            return f"publish {short(step.values, unmade)} at {step.tlsa_name}"
        case st.Unpublish():
            return f"remove {short(step.values, unmade)} at {step.tlsa_name}"
        case st.Inspect():
            return f"see what {step.server} serves"
        case st.Install():
            return f"{'put back' if step.rollback else 'swap'} {step.server} to {step.generation}"
        case st.Restore():
            return f"put the files back that {step.server} had before certagent's"
        case st.Reload():
            return f"reload {step.server}"
        case st.Verify():
            return f"verify that {step.server} serves {step.generation}{' and nothing else' if step.drained else ''}"
        case st.FetchRenewalInfo():
            return f"ask the CA when to renew {step.generation} ({step.key_type})"
        case st.Revoke():
            return f"revoke {step.generation}"
        case st.Delete():
            return f"delete {', '.join((*step.generations, *step.keys, *step.tlsa_names, *step.mail_servers))}"
