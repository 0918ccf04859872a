"""Conformance suites for authors of plug-ins."""

from certagent.testing.dns_provider import DnsCheck, dns_provider_suite
from certagent.testing.memory import Memory, Shared
from certagent.testing.store import StoreCheck, store_suite

__all__ = ["DnsCheck", "Memory", "Shared", "StoreCheck", "dns_provider_suite", "store_suite"]
