"""What `check` says of challenges before a CA asks for them."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from msgspec.structs import replace

from certagent.checks.challenges import findings
from certagent.facts.challenge import Method
from tests.lifecycle.play import SPEC


def said(*method: object) -> list[str]:
    spec = replace(SPEC, challenge=Method(*method))  # pyright: ignore[reportArgumentType]
    return [f"{one.outcome} {one.what}: {one.detail}" for one in findings(spec)]


def test_a_port_that_another_program_has_is_a_warning() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        for listen in (f"127.0.0.1:{port}", f"0.0.0.0:{port}"):
            [warning] = said("http-01", "", "", (listen,))
            assert warning.startswith(f"warning challenge http-01: port {port} is in use by py")
        assert said("tls-alpn-01", "", "", (f"127.0.0.2:{port}",)) == []
    assert said("http-01", "", "", (f"127.0.0.1:{port}",)) == []


def test_a_directory_that_is_none_is_a_warning(tmp_path: Path) -> None:
    assert said("http-01", "", str(tmp_path)) == []
    assert said("http-01", "", f"{tmp_path}/www") == [f"warning challenge http-01: {tmp_path}/www is no directory"]


@pytest.mark.parametrize("method", [("dns-01",), ("dns-persist-01", "_validation-persist")])
def test_records_need_no_port(method: tuple[str, ...]) -> None:
    assert said(*method) == []
