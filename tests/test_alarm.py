"""Who is woken where a mail server has not taken its certificate for an hour: by `status`, its code, and the log."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta

import pytest

from certagent.facts.moment import Instant
from certagent.facts.tls import Service
from certagent.lifecycle import events as ev
from certagent.lifecycle.fold import fold
from certagent.lifecycle.lane import Lane
from certagent.lifecycle.schedule import ALARM, alarms
from certagent.lifecycle.spec import MailServer, Spec
from certagent.lifecycle.state import State
from certagent.lifecycle.steps import Reload
from certagent.report import log, status, text
from certagent.report.step import StepReport
from tests.lifecycle.play import lane_of

START = Instant(datetime(2027, 1, 1, tzinfo=UTC), 0.0)
SPEC = Spec(
    name="mx1.example.org",
    names=("mx1.example.org",),
    key_types=("ecdsa-p256",),
    rotate_key=None,
    standby=True,
    tlsa_names={},
    tlsa_parameters=("3 1 1",),
    ttl_s=3600,
    safety_margin=timedelta(),
    drain=timedelta(),
    check_interval=timedelta(hours=6),
    mail_servers=(MailServer("postfix", (Service("mx1.example.org", 25, "smtp"),)),),
    cas=("https://ca.example/directory",),
)


def later(by: timedelta) -> Instant:
    return Instant(START.wall + by, START.elapsed_s + by.total_seconds())


def failing(lane: Lane, *moments: timedelta) -> State:
    """A line of work that has failed at these moments, and never worked."""
    state = State(name=SPEC.name)
    for moment in moments:
        failure = ev.Failed(lane=lane, kind="transient", code="mta.reload", detail="cannot reload", hint="look")
        state = fold(state, failure, later(moment))
    return state


@pytest.mark.parametrize(
    ("lane", "moment", "expected"),
    [
        ("reload postfix", ALARM, True),
        ("install postfix", 3 * ALARM, True),
        ("reload postfix", ALARM - timedelta(seconds=1), False),
        ("order ecdsa-p256", 3 * ALARM, False),
        ("observe _25._tcp.mx1.example.org.", 3 * ALARM, False),
    ],
)
def test_a_deployment_that_stays_open_is_an_alarm(lane: str, moment: timedelta, expected: bool) -> None:
    """Counted from the first failure in a row; what waits for a CA or DNS has limits and words of its own."""
    state = failing(lane_of(lane), timedelta(), moment)
    [failure] = state.failing
    assert alarms(failure, later(moment)) is expected
    shown = text.certificate(status.certificate(SPEC, state, later(moment), None), later(moment).wall)
    assert ("  ALARM " in shown, "  FAILING " in shown) == (expected, not expected)


@pytest.mark.parametrize(("alarm", "priority"), [(False, "<3>"), (True, "<2>")])
def test_the_log_has_a_priority_of_its_own_for_it(
    capsys: pytest.CaptureFixture[str], alarm: bool, priority: str
) -> None:
    log.start()
    try:
        failure = ev.Failed(lane=lane_of("reload postfix"), kind="transient", code="mta.reload", detail="cannot reload")
        log.report(
            StepReport("certificate", SPEC.name, 7, Reload(server="postfix", because="installed"), failure, 0.1, alarm)
        )
    finally:
        logging.getLogger("certagent").handlers = []
    assert capsys.readouterr().err.startswith(f"{priority}certificate=mx1.example.org seq=7 step=Reload ")
