"""Conformance suites for authors of plug-ins."""

from certagent.testing.dns_provider import DnsCheck, dns_provider_suite

__all__ = ["DnsCheck", "dns_provider_suite"]
