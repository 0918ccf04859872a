from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from certagent.acme import ari

START, END = "2026-11-21T00:00:00Z", "2026-11-22T00:00:00Z"
KEY = ec.generate_private_key(ec.SECP256R1())


def certificate(serial: int, key_identifier: bytes | None) -> x509.Certificate:
    name = x509.Name([])
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(KEY.public_key())
        .serial_number(serial)
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=1))
    )
    if key_identifier is not None:
        extension = x509.AuthorityKeyIdentifier(key_identifier, None, None)
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(KEY, hashes.SHA256())


def body(start: str = START, end: str = END, **more: str) -> bytes:
    return json.dumps({"suggestedWindow": {"start": start, "end": end}, **more}).encode()


class TestCertificateId:
    def test_the_example_of_the_rfc(self) -> None:
        """RFC 9773 section 4.1: the serial's leading zero byte is part of the name."""
        identifier = bytes.fromhex("69885B6B87464041E1B37B847BA0AE2CDE01C8D4")
        assert ari.certificate_id(certificate(0x87654321, identifier)) == "aYhba4dGQEHhs3uEe6CuLN4ByNQ.AIdlQyE"

    @pytest.mark.parametrize(("serial", "text"), [(0x7F, "fw"), (0x80, "AIA"), (0xFF, "AP8"), (0x100, "AQA")])
    def test_a_serial_is_written_as_in_der(self, serial: int, text: str) -> None:
        """No more bytes than DER uses, no fewer."""
        assert ari.certificate_id(certificate(serial, b"\1")) == f"AQ.{text}"

    def test_a_certificate_without_key_identifier_has_no_name(self) -> None:
        assert ari.certificate_id(certificate(1, None)) is None

    @pytest.mark.filterwarnings("ignore:Parsed a serial number")
    def test_one_with_a_negative_serial_has_no_name(self) -> None:
        """RFC 5280 section 4.1.2.2 forbids it, and a CA of one's own may not know that."""
        der = certificate(0x4321, b"\1").public_bytes(serialization.Encoding.DER)
        negative = x509.load_der_x509_certificate(der.replace(b"\x02\x02\x43\x21", b"\x02\x02\xc3\x21", 1))
        assert negative.serial_number < 0
        assert ari.certificate_id(negative) is None


class TestWindow:
    def test_a_window(self) -> None:
        window = ari.window(body(explanationURL="https://ca.example/why"), 3600)
        assert (window.start, window.end) == (datetime(2026, 11, 21, tzinfo=UTC), datetime(2026, 11, 22, tzinfo=UTC))
        assert (window.explanation_url, window.retry_after_s) == ("https://ca.example/why", 3600)

    @pytest.mark.parametrize(
        "wrong",
        [
            body(END, START),
            body(START, START),
            body("2026-11-21T00:00:00", END),  # no zone
            body("soon", END),
            b"{}",
            b"[]",
            b"\xff",
            b"<html>",
            b'{"suggestedWindow": {"start": null, "end": null}}',
        ],
    )
    def test_what_is_no_window_is_a_value_error(self, wrong: bytes) -> None:
        with pytest.raises(ValueError):
            ari.window(wrong, None)

    def test_without_retry_after_it_is_six_hours(self) -> None:
        """RFC 9773 section 4.3.3."""
        assert ari.window(body(), None).retry_after_s == 6 * 3600

    @given(st.floats(0, 1e12))
    def test_retry_after_stays_between_a_minute_and_a_day(self, asked: float) -> None:
        assert 60 <= ari.window(body(), asked).retry_after_s <= 86400
