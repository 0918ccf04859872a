"""The programs in hooks/, as far as no server is needed: their limits, and what they keep secret."""

from __future__ import annotations

import http.server
import json
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from certagent.dns.providers.command import Command, Options
from certagent.errors import Error, Misconfigured, Transient
from tests.lab.wait import until

HOOKS = Path(__file__).resolve().parents[2] / "hooks"
NAME = "_acme-challenge.mx1.example.org."
ADAPTERS = ("dns-lego-exec", "dns-certbot-manual", "dns-acme-sh")
each_adapter = pytest.mark.parametrize("name", ADAPTERS)


def program(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}")
    path.chmod(0o755)
    return path


def hook(name: str, *args: str | Path, timeout: str = "30s", env: dict[str, str] | None = None) -> Command:
    program = str(HOOKS / name)
    zones = ("example.org",)
    return Command(Options(program=program, args=tuple(map(str, args)), zones=zones, timeout=timeout, env=env or {}))


def caught(command: Command, value: str = "value") -> Error:
    with pytest.raises(Error) as caught:
        command.add(NAME, "TXT", frozenset({value}), 60, None)
    return caught.value


def adapter(name: str, directory: Path, text: str = "dns_my_add() { :; }\n") -> Command:
    return hook(name, "--state", directory / "state", program(directory / "dns_my.sh", text))


# -- what is refused ---------------------------------------------------------------------------------------------------


@each_adapter
def test_a_script_that_others_may_change(name: str, tmp_path: Path) -> None:
    """It would run as root."""
    command = adapter(name, tmp_path)
    (tmp_path / "dns_my.sh").chmod(0o777)
    error = caught(command)
    assert isinstance(error, Misconfigured)
    assert "others than root may change" in error.detail


@each_adapter
def test_a_directory_that_others_may_change(name: str, tmp_path: Path) -> None:
    command = adapter(name, tmp_path)
    tmp_path.chmod(0o777)
    assert "others than root may change" in caught(command).detail


@each_adapter
def test_an_environment_that_others_may_read(name: str, tmp_path: Path) -> None:
    script = program(tmp_path / "dns_my.sh", "")
    env = tmp_path / "env"
    env.write_text("TOKEN=secret\n")
    env.chmod(0o644)
    error = caught(hook(name, "--env", env, "--state", tmp_path / "state", script))
    assert "others may read" in error.detail
    assert "chmod 600" in error.hint


@pytest.mark.parametrize("name", [*ADAPTERS, "dns-manual", "dns-zonefile"])
def test_arguments_that_are_missing(name: str, tmp_path: Path) -> None:
    """The error is the operator's to repair, and shows what is wanted."""
    error = caught(hook(name))
    assert isinstance(error, Misconfigured)
    assert "required" in error.detail
    assert "usage:" in error.hint


def test_certbot_hooks_know_no_other_names(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match=r"does not begin with _acme-challenge\."):
        adapter("dns-certbot-manual", tmp_path).add("x.example.org.", "TXT", frozenset({"x"}), 60, None)


def test_a_script_without_its_function(tmp_path: Path) -> None:
    error = caught(adapter("dns-acme-sh", tmp_path, "dns_other_add() { :; }\n"))
    assert "has no function dns_my_add" in error.detail


# -- what is kept ------------------------------------------------------------------------------------------------------


@each_adapter
def test_words_are_never_taken_for_something_else(name: str, tmp_path: Path) -> None:
    """Values with quotes, spaces and dollars reach the script as they are, and nothing of them is run."""
    text = """\
kept() { printf '%s|' "$@" >>"$OUT"; }
if [ -n "$CERTBOT_VALIDATION" ]; then kept "$CERTBOT_DOMAIN" "$CERTBOT_VALIDATION"; else kept "$@"; fi
dns_my_add() { kept "$@"; }
"""
    out = tmp_path / "out"
    script = program(tmp_path / "dns_my.sh", text)
    value = "$(touch /tmp/x) `id` \"a\" 'b' \\ ; & *"
    hook(name, "--state", tmp_path / "state", script, env={"OUT": str(out)}).add(
        NAME, "TXT", frozenset({value}), 60, None
    )
    assert f"|{value}|" in out.read_text()


@each_adapter
def test_a_script_that_prints_without_end_or_hangs(name: str, tmp_path: Path) -> None:
    """Of the one the end is shown; the other one ends with the time limit, and so does its child."""
    text = "dns_my_add() { :; }\nhead -c 3000000 /dev/zero | tr '\\0' x >&2\necho last words >&2\nexit 3\n"
    error = caught(adapter(name, tmp_path, text))
    assert isinstance(error, Transient)
    assert "last words" in error.detail
    script = program(tmp_path / "dns_my.sh", f"echo $$ >{tmp_path}/pid\nsleep 1000\n")
    command = hook(name, "--state", tmp_path / "state", script, timeout="2s")
    assert isinstance(caught(command), Transient)
    pid = int((tmp_path / "pid").read_text())
    until(lambda: not os.path.exists(f"/proc/{pid}/exe"), 10, "its child has ended")


def test_what_certbot_hooks_are_given(tmp_path: Path) -> None:
    auth = program(tmp_path / "auth", f"env | grep ^CERTBOT_ | sort >{tmp_path}/out; echo from auth")
    cleanup = program(tmp_path / "cleanup", f'echo "$CERTBOT_AUTH_OUTPUT" >{tmp_path}/cleaned')
    command = hook("dns-certbot-manual", "--state", tmp_path / "state", "--cleanup", cleanup, auth)
    command.add(NAME, "TXT", frozenset({"value"}), 60, None)
    assert (tmp_path / "out").read_text().splitlines() == [
        "CERTBOT_ALL_DOMAINS=mx1.example.org",
        "CERTBOT_DOMAIN=mx1.example.org",
        "CERTBOT_REMAINING_CHALLENGES=0",
        "CERTBOT_VALIDATION=value",
    ]
    command.remove(NAME, "TXT", frozenset({"value"}), command.get(NAME, "TXT"))
    assert (tmp_path / "cleaned").read_text() == "from auth\n"


# -- the host of acme.sh's scripts -------------------------------------------------------------------------------------


class Api(http.server.ThreadingHTTPServer):
    """Says what it was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[dict[str, Any]] = []


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Api  # pyright: ignore[reportIncompatibleVariableOverride]

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        asked = {"method": self.command, "path": self.path, "headers": dict(self.headers.items()), "body": body}
        self.server.asked.append(asked)
        self.send_response(200)
        self.send_header("X-Answer", "yes")
        self.end_headers()
        self.wfile.write(b'{ "id" : 7 }')

    do_POST = do_PUT = do_GET  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@pytest.fixture
def api() -> Iterator[Api]:
    server = Api()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def host(tmp_path: Path, body: str, **env: str) -> str:
    """What a script's function writes to its file."""
    text = f"dns_my_add() {{\n{body}\n}}\n"
    out = tmp_path / "out"
    script = program(tmp_path / "dns_my.sh", text)
    command = hook(
        "dns-acme-sh", "--state", tmp_path / "state", "--conf", tmp_path / "conf", script, env={"OUT": str(out), **env}
    )
    command.add(NAME, "TXT", frozenset({"value"}), 60, None)
    return out.read_text()


def test_requests(api: Api, tmp_path: Path) -> None:
    """Headers, body, method and type as the script has them; the answer and its headers come back."""
    url = f"http://127.0.0.1:{api.server_port}"
    token = 'to"k\\en'
    body = f"""
export _H1='Authorization: Bearer {token}'
response="$(_get '{url}/zones?name=a' | _normalizeJson)"
printf '%s %s' "$response" "$(grep -ci x-answer "$HTTP_HEADER")" >"$OUT"
_post '{{"a": "@b"}}' '{url}/records' '' PUT application/json >/dev/null
_post 'x=1' '{url}/records' >/dev/null || return 1
"""
    assert host(tmp_path, body) == '{"id":7} 1'
    get, put, post = api.asked
    assert (get["method"], get["path"], get["headers"]["Authorization"]) == ("GET", "/zones?name=a", f"Bearer {token}")
    assert (put["method"], put["body"], put["headers"]["Content-Type"]) == ("PUT", '{"a": "@b"}', "application/json")
    assert (post["method"], post["body"]) == ("POST", "x=1")


def test_secrets_are_no_arguments(api: Api, tmp_path: Path) -> None:
    """Neither headers nor bodies nor URLs nor keys: others may see the arguments of every program."""
    seen = tmp_path / "seen"
    for name in ("curl", "python3", "base64", "grep"):
        program(tmp_path / name, f'printf "%s\\n" "$*" >>{seen}\nexec /usr/bin/{name} "$@"')
    url = f"http://127.0.0.1:{api.server_port}/hidden-url"
    body = f"""
_saveaccountconf_mutable MY_Token hidden-token
export _H1="Authorization: $(_readaccountconf_mutable MY_Token)"
_get {url} >/dev/null && _post hidden-body {url} >/dev/null
printf text | _hmac sha256 "$(printf hidden-key | _hex_dump | tr -d ' ')" hex >"$OUT"
"""
    made = host(tmp_path, body, PATH=f"{tmp_path}:/usr/bin:/bin")
    assert len(made) == 64
    assert len(api.asked) == 2
    assert api.asked[0]["headers"]["Authorization"] == "hidden-token"
    assert "hidden" not in seen.read_text()
    assert "--config" in seen.read_text()


ACCOUNT = [
    ("plain", "plain"),
    ('it\'s "quoted" $x', 'it\'s "quoted" $x'),
    ("two\nlines", "two\nlines"),
]


@pytest.mark.parametrize(("value", "read"), ACCOUNT)
def test_the_account_is_kept(tmp_path: Path, value: str, read: str) -> None:
    """Also what has quotes and lines; the newest counts, and others stay; nobody else may read it."""
    body = """
[ -n "$VALUE" ] && { _saveaccountconf_mutable MY_Key old; _saveaccountconf_mutable MY_Key "$VALUE"; }
_saveaccountconf other 1
_readaccountconf_mutable MY_Key >"$OUT"
"""
    assert host(tmp_path, body, VALUE=value) == read
    conf = tmp_path / "conf"
    assert conf.stat().st_mode & 0o777 == 0o600
    assert conf.read_text().count("SAVED_MY_Key=") == 1


FUNCTIONS = [
    ("printf 'a b/c~' | _url_encode", "a%20b%2Fc~"),
    ("printf 'a' | _base64 | _dbase64", "a"),
    ("printf abc | _digest sha256 hex", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
    ("printf abc | _digest sha1", "qZk+NkcGgWq6PiVxeFDCbJzQ2J0="),
    ("printf '' | _hmac sha1 6b6579 hex", "f42bb0eeb018ebbd4597ae7213711ec60760843f"),
    ("printf 616263 | _h2b", "abc"),
    ("printf abc | _hex_dump", " 61 62 63 "),
    ("_math 3 + 4", "7"),
    ("_getfield a,b,c 2", "b\n"),
    ("printf 'a\"b' | _json_encode", 'a\\"b'),
    ("printf Ab | _upper_case", "AB"),
    ("printf 'id: 12 x' | _egrep_o '[0-9]+' | _head_n 1", "12\n"),
    ("_contains abc b && _startswith abc a && _endswith abc c && ! _contains abc x && printf yes", "yes"),
    ("_exists sh && ! _exists no-such-program && printf yes", "yes"),
]


@pytest.mark.parametrize(("call", "expected"), FUNCTIONS)
def test_functions(tmp_path: Path, call: str, expected: str) -> None:
    """Each as acme.sh's scripts use it."""
    assert host(tmp_path, f'{call} >"$OUT"') == expected


def test_every_function_is_in_the_list() -> None:
    """The first lines of the host name all that it has."""
    text = (HOOKS / "acme-sh-host").read_text()
    head, _, code = text.partition("\numask ")
    defined = {line.partition("(")[0] for line in code.splitlines() if line.startswith("_") and "() {" in line}
    internal = {"_curl", "_option", "_python"}
    listed = {word for word in re.split(r"[\s,]+", head) if word.startswith("_") and not word.startswith("_H")} - {
        "_mutable"
    }
    named = listed | {f"{name}_mutable" for name in listed if name.endswith("accountconf")}
    assert defined - internal == named


def test_the_index_has_every_program() -> None:
    """hooks/README.md is where an operator looks."""
    index = (HOOKS / "README.md").read_text()
    names = {path.name for path in HOOKS.iterdir() if path.is_file() and path.name != "README.md"}
    assert names == {name for name in names if f"]({name})" in index}


def test_the_state_is_kept_for_the_next_run(tmp_path: Path) -> None:
    command = adapter("dns-lego-exec", tmp_path, "exit 0\n")
    command.add(NAME, "TXT", frozenset({"value"}), 60, None)
    assert json.loads((tmp_path / "state").read_text()) == {NAME: {"ttl_s": 60, "values": {"value": ""}}}
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o600
