"""A roll as a picture of two lines: its stages in their order, and the time of each below it."""

from __future__ import annotations

from datetime import datetime

from certagent.report.roll import Roll, Stage

BAR = 14
"""Columns for the wait for caches: with dates of three days the whole is narrower than 76."""
_STAGES = ("issue", "publish", "caches", "swap", "verify", "remove")
_NOW: dict[Stage, int] = {"issue": 0, "publish": 2, "swap": 3, "drain": 4, "records": 5}
"""At which of these a roll is."""


def picture(roll: Roll, now: datetime) -> tuple[str, str]:
    """What is over is drawn with `━`, what is to come with `┄`; times are UTC, with the day where it is another."""
    at = _NOW[roll.stage]
    times = (roll.began_at, roll.issued_at, None, roll.swapped_at or roll.swap_at, roll.ends_at, roll.ends_at)
    above, below, day = "", "", now.date()
    for number, (stage, moment) in enumerate(zip(_STAGES, times, strict=True)):
        if number == at:
            day, time = now.date(), f"now {now:%H:%M}"
        elif moment is None:
            time = ""
        else:
            time = f"{moment:%H:%M}" if moment.date() == day else f"{moment:%m-%d %H:%M}"
            day = moment.date()
        word = f"[{stage}]" if number == at and stage != "caches" else stage
        cells = f"{word} {_line(roll, now, number)}" if number < len(_STAGES) - 1 else word
        width = max(len(cells), len(time)) + 1
        above += cells.ljust(width - 1, _fill(number, at)) + " "
        below += time.ljust(width)
    return above.rstrip(), below.rstrip()


def _line(roll: Roll, now: datetime, number: int) -> str:
    at = _NOW[roll.stage]
    if not (_STAGES[number] == "caches" and number == at and roll.swap_at and roll.issued_at):
        return _fill(number, at) * 2
    whole = max(roll.swap_at - roll.issued_at, roll.swap_at.resolution)
    done = max(0, min(BAR - 1, int((now - roll.issued_at) / whole * BAR)))
    return "━" * done + "▶" + "┄" * (BAR - 1 - done)


def _fill(number: int, at: int) -> str:
    return " " if number == len(_STAGES) - 1 else "━" if number < at else "┄"
