"""A service of the operator's own commands: what is run when, what is believed, and what an error says."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from certagent.errors import Error, Misconfigured, Transient
from certagent.mta.command import Command, Options
from tests.mta import chains

OLD, NEW = chains.make(), chains.make()
ECDSA = frozenset({"ecdsa-p256"})


@pytest.fixture
def place(tmp_path: Path) -> Path:
    tmp_path.chmod(0o755)
    return tmp_path


def script(place: Path, name: str, text: str) -> tuple[str, ...]:
    """A command that notes its name in `ran` and does `text`."""
    path = place / name
    path.write_text(f"#!/bin/sh\necho {name} >>{place}/ran\n{text}\n")
    path.chmod(0o755)
    return (str(path),)


def ran(place: Path) -> list[str]:
    path = place / "ran"
    return path.read_text().split() if path.exists() else []


def command(
    place: Path, *, check: str | None = None, reload: str = "", restart: str | None = None, timeout: str = "5s"
) -> Command:
    if not (place / "chain.pem").exists():
        (place / "chain.pem").touch(mode=0o600)
    return Command(
        "relay",
        Options(
            files={"ecdsa": str(place / "chain.pem")},
            check=None if check is None else script(place, "check", check),
            reload=script(place, "reload", reload),
            restart=None if restart is None else script(place, "restart", restart),
            timeout=timeout,
        ),
    )


class TestOptions:
    def test_as_they_stand_in_a_config(self) -> None:
        given = {
            "files": {"rsa": {"fullchain": "/etc/x/chain", "key": "/etc/x/key"}, "ecdsa": "/etc/x/both"},
            "owner": "mail",
            "mode": "0640",
            "reload": ["/bin/systemctl", "reload", "x"],
        }
        options = msgspec.convert(given, Options)
        assert (options.timeout, options.check, options.restart) == ("30s", None, None)
        Command("x", options)
        assert Command.discover() == []

    @pytest.mark.parametrize(
        "wrong",
        [
            {"reload": []},
            {"reload": "/bin/true"},
            {"timeout": "0s"},
            {"timeout": "601s"},
            {"timeout": 30},
            {"mode": 384},
            {"shell": True},
        ],
    )
    def test_what_makes_no_sense_is_refused(self, wrong: dict[str, object]) -> None:
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert({"files": {"rsa": "/a"}, "reload": ["/bin/true"], **wrong}, Options)

    def test_a_program_has_its_absolute_path(self) -> None:
        for setting in ("check", "reload", "restart"):
            given = {"files": {"rsa": "/a.pem"}, "reload": ["/bin/true"], setting: ["systemctl", "x"]}
            with pytest.raises(
                Misconfigured, match=rf"service x: {setting}: systemctl is no absolute path \[mta\.config"
            ):
                Command("x", msgspec.convert(given, Options))


class TestCheck:
    def test_a_sound_service_passes_and_nothing_but_its_check_is_run(self, place: Path) -> None:
        command(place, check="exit 0", restart="").check(ECDSA)
        assert ran(place) == ["check"]
        command(place).check(ECDSA)
        assert ran(place) == ["check"]

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            (
                "echo one; echo two >&2; echo 'line 7: no such thing' >&2; exit 1",
                "its check fails: line 7: no such thing",
            ),
            ("echo only output; exit 2", "its check fails: only output"),
            ("exit 3", "its check fails: exit status 3"),
            ("printf 'a\\033[31mb'; exit 1", r"its check fails: a \[31mb"),
        ],
    )
    def test_one_that_says_no_is_reported_in_its_last_words(self, place: Path, text: str, said: str) -> None:
        with pytest.raises(Misconfigured, match=rf"service relay: {said} \[mta\.config\]") as caught:
            command(place, check=text).check(ECDSA)
        assert caught.value.hint == f"run: {place}/check"

    def test_one_that_is_killed_has_said_nothing_about_the_configuration(self, place: Path) -> None:
        with pytest.raises(Transient, match=r"check: ended by signal 9 \(Killed\) \[mta\.reload\]"):
            command(place, check="kill -9 $$").check(ECDSA)

    def test_one_that_does_not_end_is_given_up(self, place: Path) -> None:
        with pytest.raises(Transient, match=r"service relay: .*/check: no end after 1 s \[mta\.reload\]"):
            command(place, check="sleep 9", timeout="1s").check(ECDSA)

    def test_a_key_type_without_a_file_is_reported(self, place: Path) -> None:
        with pytest.raises(Misconfigured, match=r"service relay: no file for rsa-2048 \[mta\.config\]"):
            command(place).check(frozenset({"rsa-2048"}))

    def test_files_that_cannot_be_placed_are_reported_before_the_check_is_run(self, place: Path) -> None:
        one = command(place, check="exit 0")
        place.chmod(0o777)
        with pytest.raises(Misconfigured, match=r"mta\.files"):
            one.check(ECDSA)
        assert ran(place) == []

    @pytest.mark.parametrize("program", ["check", "reload", "restart"])
    def test_a_program_that_others_may_write_is_never_run(self, place: Path, program: str) -> None:
        one = command(place, check="exit 0", reload="exit 1", restart="exit 0")
        one.check(ECDSA)
        (place / "ran").unlink()
        for mode in (0o777, 0o775, 0o644, None):
            if mode is None:
                (place / program).unlink()
            else:
                (place / program).chmod(mode)
            with pytest.raises(Misconfigured, match=rf"{program}: .*{program}") as caught:
                one.check(ECDSA)
            assert caught.value.code == "mta.config"
            with pytest.raises(Error):
                one.reload()
            assert program not in ran(place)
            (place / "ran").unlink(missing_ok=True)

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
    def test_nor_is_one_of_another_user(self, place: Path) -> None:
        one = command(place)
        os.chown(place / "reload", 65534, -1)
        with pytest.raises(Misconfigured, match=r"reload belongs to user 65534 .*\[mta\.config\]"):
            one.check(ECDSA)

    @pytest.mark.parametrize("way", ["open/reload", "open/link", "link"])
    def test_nor_one_that_others_may_exchange(self, place: Path, way: str) -> None:
        (place / "open").mkdir()
        (place / "open" / "link").symlink_to(script(place, "reload", "")[0])
        (place / "link").symlink_to(script(place / "open", "reload", "")[0])
        (place / "open").chmod(0o777)
        one = Command("relay", Options(files={"ecdsa": str(place / "chain.pem")}, reload=(f"{place}/{way}",)))
        for call in (lambda: one.check(ECDSA), one.reload):
            with pytest.raises(
                Misconfigured, match=rf"others may write into {place}/open: anybody.*\[mta\.config\]"
            ) as caught:
                call()
            assert caught.value.hint == f"chmod go-w {place}/open"
        assert ran(place) == ran(place / "open") == []

    def test_links_that_nobody_else_may_exchange_are_followed(self, place: Path) -> None:
        (place / "usr").mkdir(mode=0o755)
        (place / "bin").symlink_to("usr")
        script(place / "usr", "reload", "")
        for argv in ((f"{place}/bin/reload",), ("/bin/sh", "-c", "exit 0"), ("/usr/bin/env", "true")):
            one = Command("relay", Options(files={"ecdsa": str(place / "chain.pem")}, reload=argv))
            one.check(ECDSA)
            one.reload()
        assert ran(place / "usr") == ["reload"]


class TestReload:
    def test_success_is_the_end_of_it(self, place: Path) -> None:
        command(place, check="exit 0", restart="exit 0").reload()
        assert ran(place) == ["reload"]

    def test_a_failure_is_reported_in_its_last_words(self, place: Path) -> None:
        with pytest.raises(Transient, match=r"service relay: reload fails: not running \[mta\.reload\]") as caught:
            command(place, reload="echo not running >&2; exit 1").reload()
        assert caught.value.hint == f"run: {place}/reload"

    def test_one_that_is_killed_has_said_nothing_about_the_configuration(self, place: Path) -> None:
        with pytest.raises(Transient, match=r"check: ended by signal 9 \(Killed\) \[mta\.reload\]"):
            command(place, check="kill -9 $$").check(ECDSA)

    def test_one_that_does_not_end_is_given_up(self, place: Path) -> None:
        with pytest.raises(Transient, match=r"no end after 1 s \[mta\.reload\]"):
            command(place, reload="sleep 9", timeout="1s").reload()

    @pytest.mark.parametrize(("reload", "timeout"), [("exit 1", "10s"), ("sleep 60", "4s")])
    def test_where_it_fails_a_sound_service_is_restarted(self, place: Path, reload: str, timeout: str) -> None:
        command(place, reload=reload, check="exit 0", restart="exit 0", timeout=timeout).reload()
        command(place, reload=reload, restart="exit 0", timeout=timeout).reload()
        assert ran(place) == ["reload", "check", "restart", "reload", "restart"]

    @pytest.mark.parametrize(("check", "timeout"), [("exit 1", "10s"), ("sleep 60", "4s")])
    def test_a_service_that_could_not_start_again_is_not_stopped(self, place: Path, check: str, timeout: str) -> None:
        with pytest.raises(Transient, match="reload fails"):
            command(place, reload="exit 1", check=check, restart="exit 0", timeout=timeout).reload()
        assert ran(place) == ["reload", "check"]

    def test_a_restart_that_fails_is_reported(self, place: Path) -> None:
        with pytest.raises(Transient, match=r"restart fails: exit status 4 \[mta\.reload\]"):
            command(place, reload="exit 1", restart="exit 4").reload()


class TestSecrets:
    def test_a_command_gets_nothing_of_the_agent_and_nothing_of_the_key(
        self, place: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("DNS_TOKEN", "secret")
        one = command(place, reload=f'(env; echo "$0 $*"; cat; pwd) >{place}/seen')
        one.install({"ecdsa-p256": NEW.credential})
        one.reload()
        seen = (place / "seen").read_text().splitlines()
        names = {line.split("=")[0] for line in seen if "=" in line} - {"PWD", "SHLVL", "_", "OLDPWD"}
        assert names == {"PATH", "LC_ALL"}
        assert seen[-2:] == [f"{place}/reload ", "/"]


def test_files_are_those_of_the_layout(place: Path) -> None:
    one = command(place, check="exit 1")
    (place / "chain.pem").unlink()
    one.check(ECDSA)  # the service's own check cannot say yes yet
    assert one.advice(ECDSA) == (
        (f"{place}/chain.pem is not there yet: the first run writes it", f"let the service read {place}/chain.pem"),
    )
    one.install({"ecdsa-p256": OLD.credential})
    saved = one.saved()
    assert (one.advice(ECDSA), one.installed(), set(saved)) == ((), {"ecdsa-p256": OLD.der}, {f"{place}/chain.pem"})
    one.install({"ecdsa-p256": NEW.credential})
    one.restore(saved)
    assert one.installed() == {"ecdsa-p256": OLD.der}


def test_two_files_are_reported_to_be_two(place: Path) -> None:
    given = {"files": {"ecdsa": {"fullchain": f"{place}/f", "key": f"{place}/k"}}, "reload": ["/bin/true"]}
    notes = Command("x", msgspec.convert(given, Options)).advice(ECDSA)
    assert notes[-1][0].startswith("key and certificate are in two files")
