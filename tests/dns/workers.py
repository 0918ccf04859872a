"""Providers for the child process of tests/dns/test_child.py."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from msgspec import Struct

from certagent.dns.providers.child import InChild
from certagent.dns.providers.protocol import RdType, RRset
from certagent.errors import Usage
from certagent.host import deadline


class Options(Struct):
    zones: tuple[str, ...] = ("example.org",)
    timeout_s: float = 30.0


class Worker:
    Options = Options

    def __init__(self, options: Options) -> None:
        pass

    def get(self, name: str, rdtype: RdType) -> RRset | None:
        match name.partition(".")[0]:
            case "argv":
                said = Path("/proc/self/cmdline").read_bytes().split(b"\0")
                return RRset(frozenset(part.decode() for part in said), 1)
            case "environ":
                return RRset(frozenset(f"{key}={value}" for key, value in os.environ.items()), 1)
            case "path":
                return RRset(frozenset(sys.path), 1)
            case "own":
                print("a library may print")
                return RRset(frozenset({"a"}), 1, ("A", "a"))
            case "left":
                return RRset(frozenset({str(deadline.left(3600))}), 1)
            case "defect":
                raise ValueError("the secret")
            case "usage":
                raise Usage("secret.file", "the detail", "the hint", retry_after_s=17)
            case "garbage":
                os.write(1, b"{}{")
            case "much":
                os.write(1, b"x" * 100_000)
            case "ends":
                os._exit(3)
            case "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            case "hangs":
                signal.pause()
            case _:
                pass
        return None

    def add(self, name: str, rdtype: RdType, values: frozenset[str], ttl_s: int, was: RRset | None) -> None:
        self.get(name, rdtype)


class Front(InChild):
    SERVICE = "the service"
    WORKER = f"{__name__}:Worker"
    LIBRARY = "json"
    EXTRA = "some"


class Lacking(Front):
    LIBRARY = "no_such_library"
