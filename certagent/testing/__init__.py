"""Conformance suites for authors of plug-ins."""

from certagent.testing.credentials import issued
from certagent.testing.dns_provider import DnsCheck, dns_provider_suite
from certagent.testing.mail_server import MailServerCheck, Running, credentials, mail_server_suite

__all__ = [
    "DnsCheck",
    "MailServerCheck",
    "Running",
    "credentials",
    "dns_provider_suite",
    "issued",
    "mail_server_suite",
]
