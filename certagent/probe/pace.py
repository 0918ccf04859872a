"""A guest's manners: how many connections are made at once, and when a service is asked again.

Some are made side by side. As soon as one is turned away as too many, all that is left is asked one at a time. A pause
comes after each answer of that kind, and grows while there is no other. What is not right yet is asked again after
growing pauses, and nothing else is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from time import monotonic, sleep
from typing import Final

from certagent.facts.tls import Served
from certagent.facts.unknown import Unknown

Question = Callable[[], Served]

WORKERS = 8
"""Side by side: Exim takes 20 connections in all (smtp_accept_max), and mail shall find room among them; Postfix takes
50 from one client (smtpd_client_connection_count_limit)."""

PAUSES_S: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
"""Between one that was turned away and the next. Together they are longer than the minute in which limits on the rate
are counted; who turns away one more after that does not mean the rate."""

BUSY_S = 240.0
"""All that is asked one at a time: a command waits five minutes for a step of the daemon."""

_FIRST_PAUSE_S = 0.02
"""Before what is not right is asked again: a daemon replaces its processes within milliseconds. It doubles."""


def ask(questions: Sequence[Question], *, wrong: Callable[[Served], bool], budget_s: float) -> list[Served]:
    """The answer to each question, in their order; what is `wrong` is asked again for as long as the budget.

    Where the server goes on turning this host away, what was not asked is missing beside answers that say so.
    """
    answers: dict[int, Served] = {}
    due: Sequence[int] = range(len(questions))
    deadline, pause_s, alone = monotonic() + budget_s, _FIRST_PAUSE_S, False

    while True:
        asked = due
        if not alone:
            answers.update(_side_by_side({number: questions[number] for number in due}))
            due = [number for number in due if number not in answers or busy(answers[number])]
            alone = bool(due)
        if alone:
            answers.update(_one_at_a_time({number: questions[number] for number in due}))
        due = [n for n in asked if n in answers and wrong(answers[n]) and not busy(answers[n])]
        left_s = deadline - monotonic()
        if not due or left_s <= 0:
            return [answers[number] for number in sorted(answers)]
        sleep(min(pause_s, left_s))
        pause_s *= 2


def busy(served: Served) -> bool:
    """Whether the service turned this host away for now."""
    return isinstance(served.chain, Unknown) and served.chain.refusal == "busy"


def _side_by_side(due: Mapping[int, Question]) -> dict[int, Served]:
    """Nothing more is asked once one was turned away."""
    away = Event()

    def ask_one(question: Question) -> Served | None:
        if away.is_set():
            return None
        served = question()
        if busy(served):
            away.set()
        return served

    with ThreadPoolExecutor(WORKERS, thread_name_prefix="probe") as pool:
        answers = pool.map(ask_one, due.values())
    return {number: served for number, served in zip(due, answers, strict=True) if served}


def _one_at_a_time(due: Mapping[int, Question]) -> dict[int, Served]:
    """Those that were asked: it ends when one is turned away after the longest pause."""
    answers: dict[int, Served] = {}
    left, deadline = deque(due), monotonic() + BUSY_S
    away = 1
    while left and away <= len(PAUSES_S) and monotonic() < deadline:
        if away:
            sleep(PAUSES_S[away - 1])
        number = left.popleft()
        answers[number] = due[number]()
        away = away + 1 if busy(answers[number]) else 0
        if away:
            left.append(number)
    return answers
