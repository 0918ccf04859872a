"""Ports in the configuration of mail servers, and other odd bytes there."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest

from certagent.errors import Error
from certagent.mta import pemfile
from certagent.mta.exim import eximconf
from certagent.mta.opensmtpd import smtpdconf
from certagent.mta.ports import port_of
from certagent.mta.sendmail import sendmailcf


@pytest.mark.parametrize(
    ("text", "port"),
    [
        ("25", 25),
        ("0465", 465),
        ("smtp", 25),
        ("submissions", 465),
        ("domain", 53),
        *(
            (text, None)
            for text in ("", "0", "65536", "9" * 5000, "-1", "+1", " 1", "²", "٣", "a\0b", "x" * 5000, "\x1b")
        ),
    ],
)
def test_a_port_is_a_number_or_a_known_name(text: str, port: int | None) -> None:
    assert port_of(text) == port


ODD = ["\0", "²", "٣", "9" * 5000, "x" * 5000, "\x1b[31m", "\udcff"]


@pytest.mark.parametrize("odd", ODD)
def test_odd_words_in_the_files_of_daemons(tmp_path: Path, odd: str) -> None:
    """They name no port, and end nothing."""
    file = tmp_path / "conf"
    file.write_text(f"listen on lo port {odd} tls\ninclude {odd}\n", errors="surrogateescape")
    with suppress(Error):  # what is included is not there
        assert [one.port for one in smtpdconf.read(file).listeners] == [0]
    file.write_text(f"O DaemonPortOptions=Port={odd}, Addr={odd}\n", errors="surrogateescape")
    assert [(one.port, one.address) for one in sendmailcf.read(file).ports] == [(25, "")]
    assert eximconf.ports(f"25 : {odd} : 465") == [25, 465]


MEGABYTE = 1 << 20


@pytest.mark.parametrize(
    "piece",
    ["-----BEGIN A-----", "-----BEGIN ", "-----BEGIN A-----\n-----END B-----\n", "-----END A-----", "-", " ", "\0"],
)
def test_a_megabyte_of_beginnings_is_read_in_time(piece: str) -> None:
    """Once through: a search that began anew at each would take a quarter of an hour, and hold up every thread."""
    assert pemfile.blocks((piece * (MEGABYTE // len(piece))).encode()) == []


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("-----BEGIN A-----\nx\n-----END A-----\n", ["A"]),
        ("-----BEGIN A-----\n-----BEGIN B-----\nx\n-----END B-----\n-----END A-----\n", ["B"]),
        ("-----BEGIN A-----\nx\n-----END B-----\n-----BEGIN C-----\n-----END C-----", ["C"]),
        ("-----BEGIN a-----\n-----END a-----\n", []),
        ("-----BEGIN -----\n-----END -----\n", []),
        ("-----BEGIN A", []),
    ],
)
def test_a_block_has_one_beginning_and_its_own_end(text: str, labels: list[str]) -> None:
    """RFC 7468 section 3."""
    assert [label for label, _ in pemfile.blocks(text.encode())] == labels


def test_files_of_daemons_are_read_in_time(tmp_path: Path) -> None:
    """A megabyte in one line, or in empty ones."""
    file = tmp_path / "conf"
    for piece in ('"\\', "\\", '"', "listen on a ", "{", "\n", "O x= ", "O x=" + " " * 4096 + "x", "#"):
        file.write_text(piece * (MEGABYTE // len(piece)))
        smtpdconf.read(file)
        sendmailcf.read(file)
        eximconf.items(piece * (MEGABYTE // len(piece)))
