"""Conformance suites for authors of plug-ins."""

from certagent.testing.credentials import issued
from certagent.testing.dns_provider import DnsCheck, dns_provider_suite
from certagent.testing.mail_server import MailServerCheck, Running, credentials, mail_server_suite
from certagent.testing.memory import Memory, Shared
from certagent.testing.memory_vault import MemoryVault
from certagent.testing.store import StoreCheck, store_suite
from certagent.testing.vault import VaultCheck, vault_suite

__all__ = [
    "DnsCheck",
    "MailServerCheck",
    "Memory",
    "MemoryVault",
    "Running",
    "Shared",
    "StoreCheck",
    "VaultCheck",
    "credentials",
    "dns_provider_suite",
    "issued",
    "mail_server_suite",
    "store_suite",
    "vault_suite",
]
