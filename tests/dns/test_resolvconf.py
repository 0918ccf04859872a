"""/etc/resolv.conf, whatever stands in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from certagent.dns import resolvconf
from certagent.errors import Misconfigured


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"search example.org\nnameserver 127.0.0.1\n", ("127.0.0.1",)),
        (b"nameserver localhost\nnameserver\nnameserver https://x/\n nameserver ::1 # mine\n", ("::1",)),
        (b"\xff\0\nnameserver 192.0.2.1\n", ("192.0.2.1",)),
        (b"".join(b"nameserver 192.0.2.%d\n" % n for n in range(9)), ("192.0.2.0", "192.0.2.1", "192.0.2.2")),
        (b"nameserver 127.0.0.1:53\n", None),
        (b"", None),
        (None, None),
    ],
)
def test_resolv_conf(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None, found: tuple[str, ...] | None
) -> None:
    """A line that names no address is passed over."""
    file = tmp_path / "resolv.conf"
    monkeypatch.setattr(resolvconf, "_RESOLV_CONF", file)
    if content is not None:
        file.write_bytes(content)
    if found:
        assert resolvconf.resolvers() == found
    else:
        with pytest.raises(Misconfigured, match=r"dns\.no_resolver"):
            resolvconf.resolvers()
