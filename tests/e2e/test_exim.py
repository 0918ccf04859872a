"""The real Exim: what `check` finds, what clients meet, and that no signal does harm.

What its TLS library has a part in is tested with GnuTLS and with OpenSSL, the rest with Debian's own, which has GnuTLS.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from certagent.errors import Misconfigured, Transient, Unsafe
from certagent.facts.tls import Service
from certagent.facts.unknown import Unknown
from certagent.host import replace
from certagent.mta.exim.server import Exim, Options, eximconf
from certagent.mta.files import Files
from certagent.probe.handshake import probe_all
from tests.lab import exim as lab
from tests.lab import handshake
from tests.lab.addresses import MX2, ZONE
from tests.lab.wait import until
from tests.mta import chains

HOST, OTHER = f"mx2.{ZONE}", f"other.{ZONE}"
BOTH = frozenset({"ecdsa-p256", "rsa-2048"})
ECDSA = frozenset({"ecdsa-p256"})
NO_TLS = "TLS not available"
"""Of what is said of STARTTLS that is answered with 454."""

OLD, OLD_RSA = chains.make(name=HOST), chains.make("rsa-2048", HOST)
NEW, NEW_RSA = chains.make(name=HOST), chains.make("rsa-2048", HOST)
OLD_PEMS = {"ecdsa-p256": OLD.credential, "rsa-2048": OLD_RSA.credential}
NEW_PEMS = {"ecdsa-p256": NEW.credential, "rsa-2048": NEW_RSA.credential}


@pytest.fixture
def tls(place: Path) -> Path:
    """The directory of the files, empty."""
    lab.program()  # and Exim's user
    directory = place / "tls"
    directory.mkdir(mode=0o755)
    return directory


Start = Callable[[Mapping[str, str]], lab.Exim]


each_build = pytest.mark.parametrize("build", lab.BUILDS, indirect=True)


@pytest.fixture
def build(request: pytest.FixtureRequest) -> str:
    """Which Exim is started: Debian's, where a test does not ask for each."""
    wanted = getattr(request, "param", "GnuTLS")
    if why := lab.missing(wanted):
        pytest.skip(why)
    return wanted


@pytest.fixture
def start(place: Path, build: str) -> Iterator[Start]:
    """Starts Exim with these TLS settings; it is ended after the test."""
    running: list[lab.Exim] = []

    def started(settings: Mapping[str, str]) -> lab.Exim:
        server = lab.Exim(place / "mx2", settings, build=build)
        running.append(server)
        server.start()
        return server

    yield started
    for server in running:
        server.stop()


def put(path: Path, pem: bytes, user: str = lab.USER) -> Path:
    path.touch(mode=0o600)
    path.write_bytes(pem)
    shutil.chown(path, user)
    return path


@pytest.fixture
def dual(tls: Path, start: Start) -> lab.Exim:
    """Exim with a combined file of each kind."""
    files = [put(tls / "ecdsa.pem", OLD.pem), put(tls / "rsa.pem", OLD_RSA.pem)]
    return start({"tls_certificate": " : ".join(map(str, files))})


def options(server: lab.Exim, tls: Path, *kinds: str) -> Options:
    return Options(
        {kind: str(tls / f"{kind}.pem") for kind in kinds or ("ecdsa", "rsa")},
        config=str(server.config),
        program=str(server.program),
    )


@pytest.fixture
def exim(dual: lab.Exim, tls: Path) -> Exim:
    return Exim("mx2", options(dual, tls))


def served(port: int = 25, host: str = HOST) -> dict[str, str]:
    """The key of each kind that is served, or why none was seen."""
    service = Service(host, port, "tls" if port == 465 else "smtp")
    found = probe_all([service], lambda _: (MX2,), sorted(BOTH), 5)
    return {one.key_type: one.chain.why if isinstance(one.chain, Unknown) else one.chain.spki for one in found}


def serves(ecdsa: chains.Chain, rsa: chains.Chain, port: int = 25) -> bool:
    return served(port) == {"ecdsa-p256": ecdsa.spki, "rsa-2048": rsa.spki}


def wrong(exim: Exim, key_types: frozenset[str] = BOTH, code: str = "mta.config") -> Misconfigured:
    with pytest.raises(Misconfigured) as caught:
        exim.check(key_types)
    assert caught.value.code == code
    return caught.value


def do_as_told(error: Misconfigured) -> None:
    """Edits the file that the hint names, and runs its command, as the operator would."""
    told, command = error.hint.rsplit("then run: ", 1)
    if told:
        file = re.match(r"in (\S+) set ", told)
        assert file
        values = dict(re.findall(r"`(\w+) = ([^`]*)`", told))
        path = Path(file[1])
        path.write_text(eximconf.changed(path.read_text(), {**dict.fromkeys(re.findall(r"`(\w+)`", told)), **values}))
    subprocess.run(["sh", "-c", command], check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


class TestCheck:
    @each_build
    def test_a_sound_configuration_passes_running_or_not(self, dual: lab.Exim, exim: Exim) -> None:
        exim.check(BOTH)
        assert exim.advice(BOTH) == ()
        dual.stop()
        exim.check(BOTH)

    @pytest.mark.parametrize("listed", ["{tls}/ecdsa.pem", "{tls}/old.pem:{tls}/ecdsa.pem", "/gone.pem", ""])
    def test_an_installed_file_that_is_not_listed_is_reported_and_the_remedy_works(
        self, dual: lab.Exim, exim: Exim, tls: Path, listed: str
    ) -> None:
        put(tls / "old.pem", NEW_RSA.pem)
        dual.configure({"tls_certificate": listed.format(tls=tls)})
        error = wrong(exim)
        assert f"tls_certificate does not lead to {tls}/" in error.detail
        do_as_told(error)
        exim.check(BOTH)
        until(lambda: serves(OLD, OLD_RSA), 10, "both are served")

    @each_build
    def test_lists_that_do_not_fit_each_other_are_reported_and_the_remedy_works(
        self, dual: lab.Exim, tls: Path, build: str
    ) -> None:
        """With OpenSSL a list of keys in another order works, and only the certificate without a key fails."""
        for kind, chain in (("ecdsa", OLD), ("rsa", OLD_RSA)):
            put(tls / f"{kind}.crt", chain.leaf + chain.issuer)
            put(tls / f"{kind}.key", chain.key)
        pairs = {k: Files(fullchain=f"{tls}/{k}.crt", key=f"{tls}/{k}.key") for k in ("ecdsa", "rsa")}
        exim = Exim("mx2", Options(dict(pairs), config=str(dual.config), program=str(dual.program)))
        certificates = f"{tls}/ecdsa.crt : {tls}/rsa.crt"
        for keys, by_openssl in (
            (f"{tls}/rsa.key : {tls}/ecdsa.key", (OLD.spki, OLD_RSA.spki)),
            (f"{tls}/ecdsa.key", (OLD.spki, "alert handshake failure")),
        ):
            dual.configure({"tls_certificate": certificates, "tls_privatekey": keys})
            exim.reload()
            met = {"GnuTLS": (NO_TLS, NO_TLS), "OpenSSL": by_openssl}[build]
            assert all(one in key for one, key in zip(met, served().values(), strict=True)), served()
            error = wrong(exim)
            assert "tls_certificate does not lead to " in error.detail
        assert "names 2 files and tls_privatekey 1" in error.detail
        do_as_told(error)
        exim.check(BOTH)
        until(lambda: serves(OLD, OLD_RSA), 10, "both are served")

    @each_build
    def test_a_unmanaged_file_that_breaks_tls_is_reported_and_the_remedy_works(
        self, dual: lab.Exim, exim: Exim, tls: Path, build: str
    ) -> None:
        second = put(tls / "second.pem", NEW.pem)
        first_is_served = {"GnuTLS": NEW.spki, "OpenSSL": NO_TLS}[build]
        for unmanaged, why, met in (
            ("/gone.pem", "is missing: no TLS at all", NO_TLS),
            (second, "of the same algorithm", first_is_served),
        ):
            dual.configure({"tls_certificate": f"{unmanaged} : {tls}/ecdsa.pem : {tls}/rsa.pem"})
            os.kill(dual.pid, signal.SIGHUP)
            until(lambda met=met: met in served()["ecdsa-p256"], 10, "it breaks")
            error = wrong(exim)
            assert why in error.detail
            do_as_told(error)
            until(lambda: serves(OLD, OLD_RSA), 10, "both are served")

    def test_a_file_that_nothing_would_renew_is_reported(self, exim: Exim, tls: Path) -> None:
        error = wrong(exim, ECDSA)
        assert f"leads to {tls}/rsa.pem, which nothing renews" in error.detail
        do_as_told(error)
        exim.check(ECDSA)

    def test_what_was_never_installed_is_listed_only_when_it_is_there(
        self, dual: lab.Exim, exim: Exim, tls: Path
    ) -> None:
        (tls / "rsa.pem").unlink()
        dual.configure({"tls_certificate": f"{tls}/ecdsa.pem"})
        os.kill(dual.pid, signal.SIGHUP)
        exim.check(BOTH)
        ((what, hint),) = exim.advice(BOTH)
        assert f"does not lead to {tls}/rsa.pem yet" in what
        with pytest.raises(Misconfigured, match=r"rsa\.pem, which is installed") as caught:
            exim.install(NEW_PEMS)
        assert hint == f"once it is there: {caught.value.hint}"
        do_as_told(caught.value)
        exim.install(NEW_PEMS)
        until(lambda: serves(NEW, NEW_RSA), 10, "both are served")

    @each_build
    def test_the_default_of_a_self_signed_certificate_is_reported_and_the_remedy_works(
        self, dual: lab.Exim, exim: Exim
    ) -> None:
        dual.configure({})
        assert "is empty: Exim serves a certificate signed by itself" in wrong(exim).detail
        do_as_told(wrong(exim))
        exim.check(BOTH)

    def test_nobody_being_offered_tls_is_reported_and_the_remedy_works(
        self, dual: lab.Exim, exim: Exim, tls: Path
    ) -> None:
        settings = {"tls_certificate": f"{tls}/ecdsa.pem : {tls}/rsa.pem", "tls_advertise_hosts": ""}
        dual.configure(settings)
        exim.check(BOTH)  # port 465 is for TLS alone
        dual.config.write_text(dual.config.read_text().replace("tls_on_connect_ports = 465", ""))
        error = wrong(exim)
        assert "nobody is offered STARTTLS" in error.detail
        do_as_told(error)
        exim.check(BOTH)

    def test_a_broken_configuration_is_reported_and_changes_nothing(
        self, dual: lab.Exim, exim: Exim, tls: Path
    ) -> None:
        dual.config.write_text("nonsense = 1\n")
        error = wrong(exim)
        assert "its own check fails: Exim configuration error" in error.detail
        assert error.hint == f"run: {dual.program} -C {dual.config} -bV"
        with pytest.raises(Misconfigured, match=r"mta\.config"):
            exim.install(NEW_PEMS)
        assert (tls / "ecdsa.pem").read_bytes() == OLD.pem
        assert serves(OLD, OLD_RSA)

    @each_build
    def test_a_key_that_exims_user_cannot_read_is_reported_and_the_remedy_works(
        self, exim: Exim, dual: lab.Exim, tls: Path
    ) -> None:
        shutil.chown(tls / "ecdsa.pem", "root")
        error = wrong(exim, code="mta.files")
        assert f"{tls}/ecdsa.pem is of root:" in error.detail
        os.kill(dual.pid, signal.SIGHUP)
        until(lambda: NO_TLS in served()["rsa-2048"], 10, "no TLS at all")
        subprocess.run(["sh", "-c", error.hint.removeprefix("run: ")], check=True)
        exim.check(BOTH)
        until(lambda: serves(OLD, OLD_RSA), 10, "both are served")

    def test_a_directory_that_hides_the_files_is_reported_and_nothing_is_installed(self, exim: Exim, tls: Path) -> None:
        tls.chmod(0o700)
        error = wrong(exim, code="mta.files")
        assert f"{tls} is closed to its user {lab.USER}" in error.detail
        with pytest.raises(Misconfigured, match="is closed to its user"):
            exim.install(NEW_PEMS)
        assert (tls / "ecdsa.pem").read_bytes() == OLD.pem
        subprocess.run(["sh", "-c", error.hint.removeprefix("run: ")], check=True)
        exim.check(BOTH)

    def test_an_owner_that_shuts_exim_out_is_reported(self, dual: lab.Exim, tls: Path) -> None:
        closed = Options(
            {"ecdsa": str(tls / "ecdsa.pem")}, config=str(dual.config), program=str(dual.program), owner="root"
        )
        assert f"are closed to its user {lab.USER}" in wrong(Exim("mx2", closed)).detail

    def test_files_that_exim_cannot_use_are_refused_at_once(self) -> None:
        apart = Files(cert="/c", chain="/i", key="/k")
        with pytest.raises(Misconfigured, match=r"mta\.config"):
            Exim("mx2", Options({"ecdsa": apart}))

    @each_build
    def test_what_served_before_makes_way_for_a_new_file_of_its_kind(self, dual: lab.Exim, tls: Path) -> None:
        (tls / "ecdsa.pem").rename(tls / "old.pem")
        dual.configure({"tls_certificate": f"{tls}/old.pem : {tls}/rsa.pem"})
        exim = Exim("mx2", options(dual, tls, "ecdsa"))
        exim.check(ECDSA)
        ((what, hint),) = exim.advice(ECDSA)
        when, _, remedy = hint.partition(": ")
        assert when == "once it is there"
        put(tls / "ecdsa.pem", NEW.pem)
        do_as_told(Misconfigured("mta.config", what, remedy))
        exim.check(ECDSA)
        until(lambda: serves(NEW, OLD_RSA), 10, "the new file, and the other kind beside it")


class TestInstall:
    @each_build
    def test_every_port_serves_both_new_keys_at_once_after_the_reload(self, exim: Exim, tls: Path) -> None:
        exim.install(NEW_PEMS)
        assert serves(OLD, OLD_RSA)  # it was loaded when the daemon started
        assert exim.installed() == {"ecdsa-p256": NEW.der, "rsa-2048": NEW_RSA.der}
        assert {(path.owner(), path.stat().st_mode & 0o777) for path in tls.iterdir()} == {(lab.USER, 0o600)}
        exim.reload()
        for port in (25, 465, 587):
            assert serves(NEW, NEW_RSA, port)

    @each_build
    def test_left_to_its_watch_exim_refuses_nobody(self, dual: lab.Exim, tls: Path) -> None:
        """Without SIGHUP: of many new TLS connections a second, each meets the old key or the new one."""
        exim = Exim("mx2", msgspec.structs.replace(options(dual, tls), hangup=False))
        met: list[str] = []
        done = threading.Event()

        def client() -> None:
            while not done.is_set():
                try:
                    met.append(handshake.served_tlsa(MX2))
                except OSError as error:
                    met.append(repr(error))

        began = time.monotonic()
        with ThreadPoolExecutor(4) as pool:
            for _ in range(4):
                pool.submit(client)
            try:
                exim.install(NEW_PEMS)
                exim.reload()
                took = time.monotonic() - began
                until(lambda: serves(NEW, NEW_RSA), 10, "both new keys are served")
            finally:
                done.set()
        keys = {f"3 1 1 {chain.spki}": name for name, chain in zip("oOnN", (OLD, OLD_RSA, NEW, NEW_RSA), strict=True)}
        counts = Counter(keys.get(one, one) for one in met)
        print(f"{len(met) / took:.0f} new TLS connections a second while Exim's watch took over: {dict(counts)}")
        assert counts.keys() <= {*keys.values()}
        assert keys[met[0]] in "oO"
        assert keys[met[-1]] in "nN"

    @each_build
    def test_a_single_combined_file(self, tls: Path, start: Start) -> None:
        put(tls / "ecdsa.pem", OLD.pem)
        exim = Exim("mx2", options(start({"tls_certificate": f"{tls}/ecdsa.pem"}), tls, "ecdsa"))
        exim.check(ECDSA)
        exim.install({"ecdsa-p256": NEW.credential})
        exim.reload()
        assert served()["ecdsa-p256"] == NEW.spki

    @each_build
    def test_certificate_and_key_apart(self, tls: Path, start: Start) -> None:
        put(tls / "tls.crt", OLD.leaf + OLD.issuer)
        put(tls / "tls.key", OLD.key)
        server = start({"tls_certificate": f"{tls}/tls.crt", "tls_privatekey": f"{tls}/tls.key"})
        apart = Files(fullchain=str(tls / "tls.crt"), key=str(tls / "tls.key"))
        exim = Exim("mx2", Options({"ecdsa": apart}, config=str(server.config), program=str(server.program)))
        exim.check(ECDSA)
        assert ["no rename replaces together" in what for what, _ in exim.advice(ECDSA)] == [True]
        exim.install({"ecdsa-p256": NEW.credential})
        exim.reload()
        assert served()["ecdsa-p256"] == NEW.spki

    def test_what_was_saved_is_restored_also_when_the_configuration_is_broken(
        self, dual: lab.Exim, exim: Exim, tls: Path
    ) -> None:
        saved = exim.saved()
        exim.install(NEW_PEMS)
        dual.config.write_text("nonsense = 1\n")
        exim.restore(saved)
        assert (tls / "ecdsa.pem").read_bytes() == OLD.pem
        assert (tls / "rsa.pem").owner() == lab.USER

    def test_a_broken_file_is_refused_and_every_old_one_stays(self, exim: Exim, tls: Path) -> None:
        with pytest.raises(Unsafe, match=r"mta\.pem"):
            exim.install({**NEW_PEMS, "ecdsa-p256": chains.paired(NEW, OLD)})
        assert (tls / "rsa.pem").read_bytes() == OLD_RSA.pem
        assert serves(OLD, OLD_RSA)

    @each_build
    def test_a_key_that_does_not_fit_ends_tls_with_every_key_until_it_is_fixed(self, exim: Exim, tls: Path) -> None:
        """As somebody else may have left it: neither Exim's own check nor SIGHUP says a word."""
        put(tls / "ecdsa.pem", NEW.key + OLD.leaf + OLD.issuer)
        exim.reload()
        assert all(NO_TLS in why for why in served().values())
        exim.install(NEW_PEMS)
        exim.reload()
        assert serves(NEW, NEW_RSA)

    def test_a_full_disk_leaves_the_old_file(self, exim: Exim, tls: Path) -> None:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k,mode=755", "small", tls], check=True)
        try:
            put(tls / "ecdsa.pem", OLD.pem)
            (tls / "ballast").write_bytes(b"x" * (3 * 4096))
            with pytest.raises(Transient, match=r"No space left on device \[mta\.disk\]"):
                exim.install({"ecdsa-p256": NEW.credential})
            assert (tls / "ecdsa.pem").read_bytes() == OLD.pem
        finally:
            subprocess.run(["umount", tls], check=True)


class TestSni:
    """Two names, each with files of its own, by an expression that each connection evaluates."""

    @pytest.fixture(params=["if", "lookup"])
    def exims(self, tls: Path, start: Start, request: pytest.FixtureRequest) -> tuple[Exim, Exim]:
        """For the name OTHER, and for all others."""
        put(tls / "default.pem", OLD.pem)
        put(tls / f"{OTHER}.pem", OLD_RSA.pem)
        value = {
            "if": f"${{if eq{{${{lc:$tls_in_sni}}}}{{{OTHER}}}{{{tls}/{OTHER}.pem}}{{{tls}/default.pem}}}}",
            "lookup": f"{tls}/${{lookup{{$tls_in_sni.pem}}dsearch{{{tls}}}{{$value}}{{default.pem}}}}",
        }[request.param]
        server = start({"tls_certificate": value})

        def made(kind: str, file: str, *sni: str) -> Exim:
            config, program = str(server.config), str(server.program)
            return Exim("mx2", Options({kind: str(tls / file)}, config=config, program=program, sni=sni))

        return made("rsa", f"{OTHER}.pem", OTHER), made("ecdsa", "default.pem", "", HOST)

    @each_build
    def test_each_is_judged_and_served_by_its_name(self, exims: tuple[Exim, Exim], tls: Path) -> None:
        other, default = exims
        other.check(frozenset({"rsa-2048"}))
        default.check(ECDSA)
        other.install({"rsa-2048": NEW_RSA.credential})
        default.install({"ecdsa-p256": NEW.credential})
        assert served(host=OTHER)["rsa-2048"] == NEW_RSA.spki  # each connection reads anew
        assert served(host=HOST)["ecdsa-p256"] == NEW.spki

    @each_build
    def test_a_name_with_a_broken_file_gets_no_handshake_and_others_do(
        self, exims: tuple[Exim, Exim], tls: Path, build: str
    ) -> None:
        (tls / f"{OTHER}.pem").write_bytes(b"")
        alert = {"GnuTLS": "internal error", "OpenSSL": "unrecognized name"}[build]
        assert all(alert in why for why in served(host=OTHER).values())
        assert served(host=HOST)["ecdsa-p256"] == OLD.spki
        (tls / "default.pem").write_bytes(
            b""
        )  # what is for clients that ask for no name is read first, for all of them
        (tls / f"{OTHER}.pem").write_bytes(OLD_RSA.pem)
        assert all(NO_TLS in why for why in served(host=OTHER).values())

    def test_a_name_that_leads_elsewhere_is_reported(self, exims: tuple[Exim, Exim], start: Start, tls: Path) -> None:
        swapped = Options(
            {"rsa": f"{tls}/{OTHER}.pem"},
            config=exims[0]._options.config,  # pyright: ignore[reportPrivateUsage]
            program=str(lab.program()),
            sni=(OTHER, HOST),
        )
        error = wrong(Exim("mx2", swapped), frozenset({"rsa-2048"}))
        assert f"tls_certificate for {HOST} does not lead to {tls}/{OTHER}.pem" in error.detail

    def test_what_only_a_connection_knows_is_reported_and_not_judged(
        self, dual: lab.Exim, exim: Exim, tls: Path
    ) -> None:
        by_port = "${{if eq{{$received_port}}{{25}}{{{}}}{{/other.pem}}}}"
        dual.configure({"tls_certificate": by_port.format(f"{tls}/ecdsa.pem : {tls}/rsa.pem")})
        exim.check(BOTH)
        ((what, _),) = exim.advice(BOTH)
        assert "depends on $received_port: only a handshake can tell" in what
        dual.configure({"tls_certificate": by_port.format(f"{tls}/ecdsa.pem")})
        assert f"does not name {tls}/rsa.pem, which is installed" in wrong(exim).detail

    def test_an_expression_that_fails_is_reported(self, dual: lab.Exim, exim: Exim) -> None:
        dual.configure({"tls_certificate": "${if eq{$tls_in_sni}{x}{/x.pem}"})
        assert '"if"' in wrong(exim).detail


class TestList:
    """A file that names those in use, which each connection reads once."""

    @pytest.fixture
    def listed(self, dual: lab.Exim, tls: Path) -> Exim:
        """What is served so far is named by the settings."""
        return Exim("mx2", msgspec.structs.replace(options(dual, tls), list=str(tls / "mx2.list"), hangup=False))

    @pytest.fixture
    def ready(self, dual: lab.Exim, listed: Exim) -> Exim:
        """Once more: the settings have led to the list since the first run."""
        with pytest.raises(Misconfigured) as caught:
            listed.install(OLD_PEMS)
        do_as_told(caught.value)
        until(lambda: serves(OLD, OLD_RSA), 10, "what the list names is served")
        return listed

    def test_the_first_run_writes_it_and_tells_what_to_do(self, listed: Exim, tls: Path) -> None:
        listed.check(BOTH)
        ((what, hint),) = listed.advice(BOTH)
        assert what == f"tls_certificate does not read {tls}/mx2.list yet: the first run writes it and stops there"
        with pytest.raises(Misconfigured, match=r"does not lead to .*ecdsa\.pem\.2, .*which is installed") as caught:
            listed.install(NEW_PEMS)
        assert hint == f"once it is there: {caught.value.hint}"
        do_as_told(caught.value)
        listed.check(BOTH)
        assert listed.advice(BOTH) == ()
        until(lambda: serves(NEW, NEW_RSA), 10, "both are served")

    @each_build
    def test_what_it_names_is_served_at_once_and_the_files_before_it_stay(self, ready: Exim, tls: Path) -> None:
        before = sorted(set(tls.glob("*.pem.*")))
        ready.check(BOTH)
        ready.install(NEW_PEMS)
        ready.reload()
        assert serves(NEW, NEW_RSA)
        assert all(path.exists() for path in before)
        assert set(ready.installed()) == BOTH
        ready.install(OLD_PEMS)  # put back
        assert serves(OLD, OLD_RSA)
        ready.check(BOTH)

    def test_a_list_that_is_missing_ends_tls_and_the_next_run_heals_it(self, ready: Exim, tls: Path) -> None:
        (tls / "mx2.list").unlink()
        assert all(NO_TLS in why for why in served().values())
        ready.check(BOTH)
        assert ready.advice(BOTH) == ()
        ready.install(NEW_PEMS)
        assert serves(NEW, NEW_RSA)

    def test_a_kind_that_is_given_up_is_not_named_any_more(self, ready: Exim) -> None:
        ready.install({"ecdsa-p256": NEW.credential})
        ready.check(ECDSA)
        found = served()
        assert found["ecdsa-p256"] == NEW.spki
        assert "handshake" in found["rsa-2048"]

    def test_a_file_of_another_kind_that_somebody_has_put_into_it_stays(
        self, dual: lab.Exim, ready: Exim, tls: Path
    ) -> None:
        ours = Exim(
            "mx2", msgspec.structs.replace(options(dual, tls, "ecdsa"), list=str(tls / "mx2.list"), hangup=False)
        )
        (tls / "mx2.list").write_text(f"{tls}/ecdsa.pem.2 : {tls}/rsa.pem\n")
        ours.install({"ecdsa-p256": NEW.credential})
        assert (tls / "mx2.list").read_text() == f"{tls}/ecdsa.pem.1 : {tls}/rsa.pem\n"
        assert serves(NEW, OLD_RSA)
        ours.check(ECDSA)

    def test_killed_before_the_list_is_replaced_it_serves_the_old_and_does_it_again(
        self, ready: Exim, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as patched:
            patched.setattr(replace, "write", killed)
            with pytest.raises(KeyboardInterrupt):
                ready.install(NEW_PEMS)
        assert serves(OLD, OLD_RSA)
        ready.check(BOTH)
        ready.install(NEW_PEMS)
        assert serves(NEW, NEW_RSA)

    @pytest.mark.parametrize("pages", [1, 2, 3])
    def test_a_full_disk_at_any_of_its_files_leaves_all_that_is_in_use(
        self, dual: lab.Exim, tls: Path, pages: int
    ) -> None:
        """Each file takes a page: of the two keys' and the list's the first, the second, or the third fails."""
        exim = Exim("mx2", msgspec.structs.replace(options(dual, tls), list=str(tls / "mx2.list"), hangup=False))
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k,mode=755", "small", tls], check=True)
        try:
            with pytest.raises(Misconfigured) as caught:
                exim.install(OLD_PEMS)
            do_as_told(caught.value)
            until(lambda: serves(OLD, OLD_RSA), 10, "what the list names is served")
            free = os.statvfs(tls).f_bavail - (pages - 1)
            (tls / "ballast").write_bytes(b"x" * (free * 4096))
            with pytest.raises(Transient, match=r"No space left on device \[mta\.disk\]"):
                exim.install(NEW_PEMS)
            assert serves(OLD, OLD_RSA)
            exim.check(BOTH)
            (tls / "ballast").unlink()
            exim.install(NEW_PEMS)
            assert serves(NEW, NEW_RSA)
        finally:
            subprocess.run(["umount", "-l", tls], check=True)

    def test_what_was_saved_is_restored_byte_for_byte(self, ready: Exim, tls: Path) -> None:
        def there() -> dict[str, bytes]:
            return {str(path): path.read_bytes() for path in tls.iterdir()}

        before, saved = there(), ready.saved()
        ready.install(NEW_PEMS)
        ready.install(NEW_PEMS)
        assert there() != before
        ready.restore(saved)
        assert there() == before
        assert serves(OLD, OLD_RSA)

    def test_restored_to_nothing_there_is_neither_list_nor_file(self, listed: Exim, tls: Path) -> None:
        saved = listed.saved()
        assert saved == {}
        with pytest.raises(Misconfigured):
            listed.install(NEW_PEMS)
        listed.restore(saved)
        assert sorted(path.name for path in tls.iterdir()) == ["ecdsa.pem", "rsa.pem"]

    def test_the_list_is_a_file_of_exims_directory_and_no_secret(self, ready: Exim, tls: Path) -> None:
        assert (tls / "mx2.list").stat().st_mode & 0o777 == 0o644
        assert all(path.stat().st_mode & 0o777 == 0o600 for path in tls.glob("*.pem.*"))
        (tls / "mx2.list").unlink()
        (tls / "mx2.list").symlink_to(tls / "elsewhere")
        assert "is a symlink" in wrong(ready, code="mta.files").detail

    def test_what_no_list_can_name_is_refused_at_once(self, dual: lab.Exim, tls: Path) -> None:
        pair = {"ecdsa": Files(fullchain="/a.crt", key="/a.key")}
        with pytest.raises(Misconfigured, match="a list names combined files"):
            Exim("mx2", msgspec.structs.replace(options(dual, tls), files=pair, list="/a.list"))
        with pytest.raises(Misconfigured, match="relative"):
            Exim("mx2", msgspec.structs.replace(options(dual, tls), list="a.list"))

    def test_without_one_a_setting_that_each_connection_reads_is_advised_to_have_it(
        self, dual: lab.Exim, exim: Exim, tls: Path
    ) -> None:
        dual.configure({"tls_certificate": f"${{if eq{{$tls_in_sni}}{{x}}{{/x}}{{{tls}/ecdsa.pem : {tls}/rsa.pem}}}}"})
        ((what, hint),) = exim.advice(BOTH)
        assert "each connection reads certificate and key one after the other" in what
        assert f"`list: {tls}/mx2.list`" in hint


def killed(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


class TestReload:
    @pytest.mark.parametrize("hangup", [True, False])
    def test_one_that_is_started_for_each_connection_has_no_daemon(
        self, dual: lab.Exim, tls: Path, hangup: bool
    ) -> None:
        """By a real socket activation: it serves what is installed, and nothing is signalled or missed."""
        exim = Exim("mx2", msgspec.structs.replace(options(dual, tls), hangup=hangup))
        dual.stop()
        argv = ["systemd-socket-activate", "--inetd", "--accept", *(f"--listen={MX2}:{port}" for port in (25, 587))]
        with subprocess.Popen([*argv, str(dual.program), "-C", str(dual.config), "-bs"]) as activation:
            try:
                until(lambda: serves(OLD, OLD_RSA), 10, "Exim is started for a connection")
                exim.install(NEW_PEMS)
                exim.reload()
                assert serves(NEW, NEW_RSA)
            finally:
                activation.kill()

    def test_a_stopped_exim_is_down(self, dual: lab.Exim, exim: Exim) -> None:
        dual.stop()
        with pytest.raises(Transient, match=r"mta\.down") as caught:
            exim.reload()
        subprocess.run(["sh", "-c", caught.value.hint.removeprefix("run: ")], check=True)
        until(dual.greets, 5, "the hint started it")
        exim.reload()

    def test_a_broken_configuration_is_found_before_the_signal(self, dual: lab.Exim, exim: Exim) -> None:
        sound = dual.config.read_text()
        dual.config.write_text(sound.replace("primary_hostname", "primary_hostnam"))
        with pytest.raises(Transient, match=r"no SIGHUP was sent.*\[mta\.reload\]"):
            exim.reload()
        assert serves(OLD, OLD_RSA)
        os.kill(dual.pid, signal.SIGHUP)
        until(lambda: not dual.running(), 5, "this is what the signal would have done")
        dual.config.write_text(sound)

    def test_a_daemon_that_ends_of_the_signal_is_reported(self, dual: lab.Exim, exim: Exim) -> None:
        text = dual.config.read_text()
        dual.config.write_text(text.replace("25 : 465 : 587", "25 : nonsense"))  # `exim -bV` does not see it
        with pytest.raises(Transient, match=r"the daemon ended when SIGHUP made it read.*\[mta\.reload\]"):
            exim.reload()
        until(lambda: not dual.running(), 5, "it has ended")

    def test_a_daemon_that_is_deaf_after_the_signal_is_reported(
        self, dual: lab.Exim, exim: Exim, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("certagent.mta.exim.eximdaemon._RESTART_S", 0.5)
        dual.config.write_text(dual.config.read_text().replace(MX2, "192.0.2.1"))
        with pytest.raises(Transient, match=r"does not listen where it did"):
            exim.reload()
        assert dual.running()

    @pytest.mark.parametrize("other", ["another program", "another Exim"])
    def test_a_stale_pid_file_signals_nobody(self, dual: lab.Exim, exim: Exim, place: Path, other: str) -> None:
        dual.stop()
        program = "/bin/sleep"
        if other == "another Exim":
            program = shutil.copy(program, place / "exim4")
        stranger = subprocess.Popen([program, "60"])
        try:
            until(lambda: Path(f"/proc/{stranger.pid}/comm").read_text().strip() in {"sleep", "exim4"}, 5, "it runs")
            dual.pid_file.write_text(f"{stranger.pid}\n")
            with pytest.raises(Transient, match=r"is not its daemon; no signal was sent \[mta\.down\]"):
                exim.reload()
            assert stranger.poll() is None
        finally:
            stranger.kill()
            stranger.wait()
            dual.pid_file.unlink()


class TestDiscover:
    """On Debian's own configuration, generated by Debian's own program, and on files written by hand."""

    def test_a_host_without_exim_or_without_its_configuration_has_none(self, place: Path) -> None:
        assert Exim.discover() == []
        with lab.debian(place):
            Path("/var/lib/exim4/config.autogenerated").unlink()
            assert Exim.discover() == []

    @pytest.mark.parametrize("split", ["true", "false"])
    def test_debians_default_and_the_change_that_it_needs(self, place: Path, split: str) -> None:
        with lab.debian(place, use_split_config=split, local_interfaces="127.0.0.1 ; ::1"):
            (found,) = Exim.discover()
            (change,) = found.changes
            files = {"true": "conf.d/main/000_localmacros", "false": "exim4.conf.localmacros"}
            assert change.file == f"/etc/exim4/{files[split]}"
            assert change.before == ""
            assert found.options == {"files": {"ecdsa": "/etc/exim4/tls/ecdsa.pem"}}
            assert found.uses == {}
            assert [(s.port, s.mode, s.addresses) for s in found.services] == [(25, "smtp", ("127.0.0.1", "::1"))]
            assert any("loopback" in note for note in found.notes)
            Path(change.file).write_text(change.after)
            subprocess.run(["update-exim4.conf"], check=True)
            (found,) = Exim.discover()
            options = Options(**found.options)
            install_directory()
            exim = Exim("exim", options)
            exim.install({"ecdsa-p256": OLD.credential})
            exim.check(ECDSA)
            (found,) = Exim.discover()
            assert found.uses == {"tls_certificate": "/etc/exim4/tls/ecdsa.pem"}
            assert (found.options, found.changes) == ({"files": {"ecdsa": "/etc/exim4/tls/ecdsa.pem"}}, ())

    def test_a_list_is_found_and_kept(self, place: Path) -> None:
        with lab.debian(place):
            install_directory()
            wanted = {"files": {"ecdsa": "/etc/exim4/tls/ecdsa.pem"}, "list": "/etc/exim4/tls/mx2.list"}
            exim = Exim("exim", msgspec.convert(wanted, Options))
            with pytest.raises(Misconfigured) as caught:
                exim.install({"ecdsa-p256": OLD.credential})
            macros = Path("/etc/exim4/conf.d/main/000_localmacros")
            assert f"in {macros} set `MAIN_TLS_ENABLE = yes`, `MAIN_TLS_CERTKEY = ${{readfile{{" in caught.value.hint
            values = dict(re.findall(r"`(\w+) = ([^`]*)`", caught.value.hint))
            macros.write_text(eximconf.changed("", values))
            subprocess.run(["update-exim4.conf"], check=True)
            exim.check(ECDSA)
            (found,) = Exim.discover()
            assert (found.options, found.changes) == (wanted, ())

    def test_debians_rule_for_the_key_is_kept(self, place: Path) -> None:
        """README.Debian: certificate and key apart, the key of root:Debian-exim with mode 0640."""
        with lab.debian(place):
            Path("/etc/exim4/conf.d/main/000_localmacros").write_text("MAIN_TLS_ENABLE = yes\n")
            subprocess.run(["update-exim4.conf"], check=True)
            put(Path("/etc/exim4/exim.crt"), OLD.leaf + OLD.issuer, "root")
            put(Path("/etc/exim4/exim.key"), OLD.key, "root").chmod(0o640)
            shutil.chown("/etc/exim4/exim.key", "root", lab.USER)
            (found,) = Exim.discover()
            pair = {"fullchain": "/etc/exim4/exim.crt", "key": "/etc/exim4/exim.key"}
            assert found.options == {"files": {"ecdsa": pair}, "owner": "root", "group": lab.USER, "mode": "0640"}
            assert found.changes == ()
            assert any("no rename replaces together" in note for note in found.notes)
            exim = Exim("exim", msgspec.convert(found.options, Options))
            exim.check(ECDSA)
            exim.install({"ecdsa-p256": NEW.credential})
            exim.check(ECDSA)
            assert exim.installed() == {"ecdsa-p256": NEW.der}

    def test_a_file_written_by_hand_with_links_into_another_programs_directory(self, place: Path) -> None:
        with lab.debian(place):
            live = place / "live"
            live.mkdir()
            for name, pem in (("fullchain.pem", OLD_RSA.leaf + OLD_RSA.issuer), ("privkey.pem", OLD_RSA.key)):
                put(place / name, pem)
                (live / name).symlink_to(place / name)
            conf = Path("/etc/exim4/exim4.conf")
            outgoing = "begin transports\nsmtp:\n  driver = smtp\n  tls_certificate = /etc/client.pem\n"
            conf.write_text(
                "primary_hostname = mx2.example\ndaemon_smtp_ports = smtp : 465 : submission\n"
                "tls_on_connect_ports = 465\nlocal_interfaces = <; 192.0.2.1 ; [2001:db8::1]:26\n"
                f"tls_certificate = {live}/fullchain.pem\ntls_privatekey = \\\n  {live}/privkey.pem\n{outgoing}"
            )
            (found,) = Exim.discover()
            assert found.uses == {"tls_certificate": f"{live}/fullchain.pem", "tls_privatekey": f"{live}/privkey.pem"}
            assert found.options == {"files": {"rsa": "/etc/exim4/tls/rsa.pem"}}
            assert {(s.host, s.port, s.mode, s.addresses) for s in found.services} == {
                ("mx2.example", 25, "smtp", ("192.0.2.1",)),
                ("mx2.example", 26, "smtp", ("2001:db8::1",)),
                ("mx2.example", 465, "tls", ("192.0.2.1",)),
                ("mx2.example", 587, "smtp", ("192.0.2.1",)),
            }
            (change,) = found.changes
            assert (change.file, change.before) == (str(conf), conf.read_text())
            lines = change.after.splitlines()
            assert "tls_certificate = /etc/exim4/tls/rsa.pem" in lines
            assert "tls_privatekey" not in change.after
            assert change.after.endswith(outgoing)
            conf.write_text(change.after)
            install_directory()
            exim = Exim("exim", Options(found.options["files"]))
            exim.install({"rsa-2048": NEW_RSA.credential})
            exim.check(frozenset({"rsa-2048"}))


def install_directory() -> None:
    Path("/etc/exim4/tls").mkdir(mode=0o755)
