"""The bridge to dns-lexicon at a fake: one of its drivers that may be used, and one that is only a second opinion."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from certagent.dns.providers import lexicon
from certagent.dns.providers.lexicon import Driver, Lexicon, Worker


class LuaDnsOptions(lexicon.Options, frozen=True, kw_only=True):
    """With the fake in the service's place."""

    url: str
    provider: str = "luadns"


class LuaDnsWorker(Worker):
    Options = LuaDnsOptions

    def make(self, config: Any) -> Any:
        return _at(self._options, super().make(config), "/v1")


class LuaDns(Lexicon):
    WORKER = f"{__name__}:LuaDnsWorker"
    Options = LuaDnsOptions


class PorkbunOptions(LuaDnsOptions, frozen=True, kw_only=True):
    provider: str = "porkbun"


PORKBUN = {"porkbun": Driver("Porkbun", ("auth_key", "auth_secret"))}


class PorkbunWorker(Worker):
    Options = PorkbunOptions
    DRIVERS = PORKBUN
    capabilities = replace(Worker.capabilities, ttl_floor_s=600)

    def make(self, config: Any) -> Any:
        return _at(self._options, super().make(config), "")


class Porkbun(Lexicon):
    WORKER = f"{__name__}:PorkbunWorker"
    Options = PorkbunOptions
    DRIVERS = PORKBUN


def _at(options: Any, made: Any, path: str) -> Any:
    made.api_endpoint = options.url + path
    return made
