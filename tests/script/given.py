"""What has happened before a script begins, in phrases: a journal that the real planner and the real fold have filled.

Nothing is asked of any network. Every step ends as in the planner's forecast, until the moment that a phrase names.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from certagent.agent.wiring import Wiring
from certagent.config.load import load
from certagent.facts.dns import Answer, Observation, Security
from certagent.facts.moment import ClockId, Instant, Reading
from certagent.facts.tls import Chain, Served
from certagent.facts.unknown import Unknown
from certagent.lifecycle import events as ev
from certagent.lifecycle import forecast, planner
from certagent.lifecycle import steps as st
from certagent.lifecycle.rules import deployment, records
from certagent.lifecycle.rules.rule import View
from certagent.lifecycle.spec import Spec
from certagent.lifecycle.state import State
from certagent.store.journal import Journal
from certagent.store.lock import Presence
from tests.lifecycle.play import about
from tests.lifecycle.play import lane_of as in_lane

NAME = "mx1.example.org"
TLSA_NAME = f"_25._tcp.{NAME}."
START = datetime(2027, 1, 1, 12, tzinfo=UTC)
CONFIG = """\
state_dir: PLACE/state
ca:
  test: {directory: "https://ca.example/dir", test: true, agree_tos: true}
dns:
  providers:
    corp: {type: rfc2136, server: 127.0.0.1, zones: [example.org], key_file: PLACE/tsig.conf}
certificates:
"""
ENTRY = """\
  NAME:
    ca: test
    mail_servers:
      postfix:
        type: postfix
        config_dir: PLACE/postfix
        chain_files: {ecdsa: PLACE/NAME.pem}
        services:
          - {host: NAME, port: 25, mode: smtp, tlsa: true}
"""

OTHER = """\
  NAME:
    ca: test
    mail_servers:
      relay:
        type: command
        check: [/bin/false]
        reload: [/bin/true]
        files: {ecdsa: PLACE/NAME.pem}
        services:
          - {host: NAME, port: 1, mode: tls, addresses: [127.0.0.1]}
"""


class Clock:
    """A clock that only the test moves."""

    def __init__(self) -> None:
        self.passed = timedelta(0)

    def wall(self, _: object = None) -> datetime:
        """In place of `SystemClock.wall`."""
        return START + self.passed

    def reading(self, _: object = None) -> Reading:
        """In place of `SystemClock.reading`."""
        return Reading(ClockId("host", "boot"), 1000.0 + self.passed.total_seconds())


class Given:
    """A directory with a configuration and a state directory, and what has happened in it."""

    def __init__(self, place: Path, clock: Clock, cleanup: ExitStack) -> None:
        self.path = place / "config.yaml"
        self._place, self._clock, self._cleanup = place, clock, cleanup
        self._zone: dict[str, frozenset[str]] = {}
        (place / "state").mkdir(0o700)
        key = place / "tsig.conf"
        key.touch(0o600)
        key.write_text('key "k" { algorithm hmac-sha256; secret "c2VjcmV0IHNlY3JldCBzZWNyZXQ="; };\n')
        self.path.touch(0o600)
        self.configure(CONFIG + ENTRY.replace("NAME", NAME))

    def happens(self, phrase: str) -> None:
        """A phrase of a script's `given` line."""
        PHRASES[phrase](self)

    def configure(self, text: str) -> None:
        """Write the configuration."""
        self.path.write_text(text.replace("PLACE", str(self._place)))

    def edit(self, before: str, after: str) -> None:
        """Change the configuration."""
        text = self.path.read_text()
        assert before in text, before
        self.path.write_text(text.replace(before, after))

    def passes(self, delay: timedelta) -> None:
        """Time goes by."""
        self._clock.passed += delay

    @property
    def spec(self) -> Spec:
        """The certificate, as configured."""
        return load(self.path).certificates[NAME].spec

    @property
    def state(self) -> State:
        """What is known of it."""
        with self._opened() as journal:
            return journal.state(NAME)

    def journal(self, *events: ev.AnyEvent) -> None:
        """These events happen."""
        with self._opened() as journal:
            journal.append(NAME, *events)
            self._sleep(journal)

    def until(self, stop: Callable[[st.AnyStep | st.Wait, State], bool]) -> None:
        """Every step succeeds, until one that `stop` names would be next."""
        spec = self.spec
        with self._opened() as journal:
            for _ in range(200):
                state = journal.state(NAME)
                step = planner.plan(spec, state, journal.now())
                if stop(step, state):
                    self._sleep(journal)
                    return
                if isinstance(step, st.Wait):
                    self.passes(max(step.delay, timedelta(seconds=1)))
                    continue
                if step.changes:
                    journal.append(NAME, ev.Intended(step=step, lane=step.lane))
                state = journal.state(NAME)
                journal.append(NAME, *forecast._ideal(step, spec, state, self._zone, journal.now()))  # pyright: ignore[reportPrivateUsage]
                self.passes(timedelta(seconds=1))
        raise AssertionError("it does not come to that")

    def asks(self, request: ev.Requested) -> None:
        """The operator asks for something; DNS is observed, and what is served verified."""
        self.journal(request)
        for rule in (records.observe, deployment.verify):
            for step in rule(View.of(self.spec, self.state, self._now())):
                if not isinstance(step, st.Wait):
                    self.journal(*forecast._ideal(step, self.spec, self.state, self._zone, self._now()))  # pyright: ignore[reportPrivateUsage]

    def _now(self) -> Instant:
        with self._opened() as journal:
            return journal.now()

    def _sleep(self, journal: Journal[State, ev.AnyEvent]) -> None:
        step = planner.plan(self.spec, journal.state(NAME), journal.now())
        if isinstance(step, st.Wait):
            journal.sleep(NAME, step.delay, step.because)

    @contextmanager
    def _opened(self) -> Generator[Journal[State, ev.AnyEvent]]:
        wiring = Wiring(load(self.path))
        try:
            yield wiring.journal
        finally:
            wiring.store.close()

    # -- what others do ----------------------------------------------------------------------------------------------

    def fails(self, lane: str, kind: str, code: str, detail: str, hint: str) -> None:
        """Work has failed."""
        concerns, quick = about(code, kind)
        self.journal(
            ev.Failed(
                lane=in_lane(lane),
                concerns=concerns,
                quick=quick,
                kind=kind,
                code=code,
                detail=detail,
                hint=hint,
            )
        )

    def dns_answers(self, *, silent: str = "", security: Security = "secure", why: str = "", more: str = "") -> None:
        """An observation of DNS: as the zone is, but for a silent server, broken DNSSEC, or a value of others."""
        values = {*self._zone.get(TLSA_NAME, ()), *filter(None, [more])}
        answer = Answer(frozenset(values), 3600)
        second = Unknown(silent) if silent else answer
        answers = {"ns1.example.org./192.0.2.1": answer, "ns2.example.org./192.0.2.2": second}
        observation = Observation("example.org.", TLSA_NAME, answers, security, why)
        self.journal(ev.Observed(tlsa_name=TLSA_NAME, observation=observation, lane=in_lane(f"observe {TLSA_NAME}")))

    def damaged(self) -> None:
        """The disk has lost the journal."""
        for path in (self._place / "state").glob("journal.db-*"):
            path.unlink()
        (self._place / "state" / "journal.db").write_bytes(b"not a database " * 400)

    def daemon_runs(self) -> None:
        """A daemon has said that it is there."""
        self._cleanup.enter_context(Presence(self._place / "state" / "daemon.pid").held())


def _next_is(kind: type[st.AnyStep]) -> Callable[[Given], None]:
    return lambda given: given.until(lambda step, _: isinstance(step, kind))


def _served(given: Given) -> None:
    given.until(lambda step, _: isinstance(step, st.Wait) and step.delay > timedelta(hours=3))


def _caches(given: Given) -> None:
    given.until(lambda step, _: isinstance(step, st.Wait) and "not swapped" in step.because)


def _served_by_others(given: Given) -> None:
    chain = Chain("cd" * 32, (), (NAME,), START - timedelta(days=40), START + timedelta(days=50), "0f")
    met = Served(NAME, "192.0.2.25", 25, "ecdsa-p256", chain, 0.01)
    given.journal(ev.Inspected(server="postfix", served=(met,), lane=in_lane("inspect postfix")))


def _fleet(given: Given) -> None:
    names = [f"mx{number}.example.org" for number in range(2, 53)]
    given.configure(CONFIG + "".join(ENTRY.replace("NAME", name) for name in (NAME, *names)))


PHRASES: dict[str, Callable[[Given], None]] = {
    "a new host": lambda given: None,
    "a certificate of somebody else is served": _served_by_others,
    "the CA has an order": _next_is(st.Respond),
    "a certificate is issued": _next_is(st.Install),
    "it is served and published": _served,
    "the files are swapped": _next_is(st.Reload),
    "the mail server is reloaded": _next_is(st.Verify),
    "old processes may live on": lambda given: given.until(
        lambda step, _: isinstance(step, st.Wait) and "old" in step.because
    ),
    "a renewal is asked for": lambda given: given.asks(ev.Requested(what="renew")),
    "a rotation is asked for": lambda given: given.journal(ev.Requested(what="rotate")),
    "caches are waited for": _caches,
    "new standby keys are published": lambda given: given.until(
        lambda step, state: isinstance(step, st.Wait) and state.keys[-1].id == "k3"
    ),
    "a minute passes": lambda given: given.passes(timedelta(minutes=1)),
    "a day passes": lambda given: given.passes(timedelta(days=1)),
    "100 days pass": lambda given: given.passes(timedelta(days=100)),
    "the CA is away": lambda given: given.fails(
        "order ecdsa-p256", "transient", "ca.unreachable", "https://ca.example/dir: connection refused", "is it up?"
    ),
    "the DNS server refuses the key": lambda given: given.fails(
        "challenge ecdsa-p256",
        "misconfigured",
        "dns.refused",
        "127.0.0.1:53 says BADSIG to the TSIG key",
        "compare PLACE/tsig.conf with the key of the server",
    ),
    "the reload fails": lambda given: given.fails(
        "reload postfix", "transient", "mta.reload", "postfix: the master process does not answer", "postfix status"
    ),
    "two hours pass": lambda given: given.passes(timedelta(hours=2)),
    "DNS is observed": lambda given: given.dns_answers(),
    "a name server is silent": lambda given: given.dns_answers(silent="no answer within 5 s"),
    "DNSSEC is broken": lambda given: given.dns_answers(security="bogus", why="the signature has expired"),
    "somebody else's record is there too": lambda given: given.dns_answers(more=f"3 1 1 {'ef' * 32}"),
    "the zone is not signed": lambda given: given.dns_answers(security="insecure", why="no DS record"),
    "the mail server serves something else": lambda given: given.journal(
        ev.VerifyFailed(server="postfix", generation="g1", served=(), lane=in_lane("verify postfix"))
    ),
    "the daemon runs": Given.daemon_runs,
    "52 certificates": _fleet,
    "two key types": lambda given: given.edit("    ca: test\n", "    ca: test\n    keys: [ecdsa-p256, rsa-2048]\n"),
    "no standby": lambda given: given.edit("    ca: test\n", "    ca: test\n    standby: false\n"),
    "no TLSA records": lambda given: given.edit(", tlsa: true", ""),
    "the CA is misspelled": lambda given: given.edit("ca: test\n", "ca: tset\n"),
    "a key is misspelled": lambda given: given.edit("type: postfix", "type: postfix\n        servces: []"),
    "a mode is misspelled": lambda given: given.edit("mode: smtp", "mode: stmp"),
    "an unknown kind of mail server": lambda given: given.edit("type: postfix", "type: courier"),
    "others may write the configuration": lambda given: given.path.chmod(0o666),
    "others may read the TSIG key": lambda given: (given.path.parent / "tsig.conf").chmod(0o644),
    "there is no configuration": lambda given: given.path.unlink(),
    "the journal is damaged": Given.damaged,
    "a service that does not listen": lambda given: given.configure(CONFIG + OTHER.replace("NAME", NAME)),
}
"""Each is about the certificate `mx1.example.org`."""
