"""Real handshakes with the real server: who gets in, what a rotation changes, what is never served."""

import asyncio
import socket
import ssl
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvloop

from serving.edge.credentials import credential_of
from serving.edge.http1.connection import Responder
from serving.edge.http1.heads import Head
from serving.edge.problems import response
from serving.edge.tls import ServerTls
from serving.errors import SettingInvalid
from serving.tls_settings import TlsFiles
from tests.edge.certificates import Authority
from tests.edge.wire import Echo, Served
from tests.places import wait_until

LOOPS = [uvloop.new_event_loop, asyncio.new_event_loop]
LONG_AGO = datetime(2021, 1, 1, tzinfo=UTC)
HELLO = b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def files(authority: Authority) -> TlsFiles:
    certificate, key = authority.issue("server")
    return TlsFiles(certificate=certificate, key=key)


def trusting(
    authority: Authority, certificate: Path | None = None, key: Path | None = None
) -> ssl.SSLContext:
    """A client's context, with the certificate that it shows."""
    context = ssl.create_default_context(cafile=str(authority.file))
    if certificate is not None:
        context.load_cert_chain(certificate, key)
    return context


def asking_for(authority: Authority, files: TlsFiles, **changes: Any) -> ServerTls:
    return ServerTls(files.model_copy(update={"client_ca": authority.file, **changes}), port="http")


@contextmanager
def connected(port: int, context: ssl.SSLContext) -> Iterator[ssl.SSLSocket]:
    with (
        socket.create_connection(("127.0.0.1", port), timeout=5) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as encrypted,
    ):
        yield encrypted


def asked(port: int, context: ssl.SSLContext, sent: bytes = HELLO) -> bytes:
    """What comes back for `sent`; a refused client may learn it only when it reads."""
    with connected(port, context) as encrypted:
        encrypted.sendall(sent)
        return encrypted.recv(65536)


def unanswered(port: int, context: ssl.SSLContext) -> bool:
    """Whether the connection ends, somehow, without a byte for the application."""
    try:
        return asked(port, context) == b""
    except OSError:
        return True


def serial_of(port: int, context: ssl.SSLContext) -> str:
    with connected(port, context) as encrypted:
        shown = encrypted.getpeercert()
    assert shown is not None
    return str(shown["serialNumber"])


class WhoAsks:
    """Answers with the common name's place in the credential: what the application is shown."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def __call__(self, head: Head, body: bytes | memoryview, responder: Responder) -> None:
        self.seen.append(credential_of(head.headers))
        responder.send(response(200, bytes(body), content_type="text/plain"))


@pytest.mark.parametrize("new_loop", LOOPS, ids=["uvloop", "asyncio"])
def test_requests_are_served_over_tls(
    new_loop: Callable[[], asyncio.AbstractEventLoop], authority: Authority, files: TlsFiles
) -> None:
    """Small bodies, long ones that are received in place, chunked ones, one after another."""
    tls, bodies = ServerTls(files, port="http"), [b"", b"a" * 100, b"b" * 3_000_000, b"c"]
    with (
        Served(Echo(), new_loop=new_loop, tls=tls) as served,
        httpx.Client(base_url=f"https://127.0.0.1:{served.port}", verify=trusting(authority)) as it,
    ):
        answers = [it.post("/x", content=body).content for body in bodies]
        chunked = it.post("/x", content=iter([b"d" * 1000] * 500)).content

    assert answers == [b"POST /x " + body for body in bodies]
    assert chunked == b"POST /x " + b"d" * 500_000


@pytest.mark.parametrize("new_loop", LOOPS, ids=["uvloop", "asyncio"])
def test_a_refusal_arrives_whole_and_ends_the_connection(
    new_loop: Callable[[], asyncio.AbstractEventLoop], authority: Authority, files: TlsFiles
) -> None:
    """TLS has no half-closed connection: the answer comes, and then the end."""
    with (
        Served(
            Echo(), new_loop=new_loop, linger_s=0.1, tls=ServerTls(files, port="http")
        ) as served,
        connected(served.port, trusting(authority)) as client,
    ):
        client.sendall(b"GET /a HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n")
        parts = []
        while part := client.recv(65536):
            parts.append(part)

    assert b"".join(parts).startswith(b"HTTP/1.1 400 ")
    assert b"Connection: close" in b"".join(parts)


def test_tls_1_1_is_refused_and_1_2_is_not(authority: Authority, files: TlsFiles) -> None:
    """What is older than TLS 1.2 has known weaknesses."""
    with Served(Echo(), tls=ServerTls(files, port="http")) as served:
        old, current = trusting(authority), trusting(authority)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
        old.set_ciphers("ALL:@SECLEVEL=0")
        current.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises(ssl.SSLError):
            asked(served.port, old)

        assert asked(served.port, current).startswith(b"HTTP/1.1 200 ")
        wait_until(lambda: served.failed_handshakes == 1)


def test_clients_without_a_certificate_of_the_authority_are_turned_away(
    authority: Authority, files: TlsFiles, tmp_path: Path
) -> None:
    """None, one of another authority, an expired one: no request is seen; each is counted."""
    echo, stranger = Echo(), Authority(tmp_path, "stranger")
    shown = ((), stranger.issue("bob"), authority.issue("carol", last_day=LONG_AGO))
    with Served(echo, tls=asking_for(authority, files)) as served:
        for each in shown:
            assert unanswered(served.port, trusting(authority, *each))
        good = asked(served.port, trusting(authority, *authority.issue("alice")))
        wait_until(lambda: served.failed_handshakes == len(shown))

    assert good.startswith(b"HTTP/1.1 200 ")
    assert echo.seen == [("GET", "/a", b"")]


def test_a_verified_certificate_is_part_of_each_request_of_its_connection(
    authority: Authority, files: TlsFiles
) -> None:
    """With and without a token; a connection without one shares nothing with those that have."""
    application = WhoAsks()
    alice = authority.issue("alice")
    tls = asking_for(authority, files, client_certificates="optional")
    with Served(application, tls=tls) as served:
        url = f"https://127.0.0.1:{served.port}/"
        for context in (trusting(authority, *alice), trusting(authority)):
            with httpx.Client(verify=context) as client:
                client.get(url)
                client.get(url, headers={"Authorization": "Bearer x"})
                client.get(url)

    der = ssl.PEM_cert_to_DER_cert(alice[0].read_text())
    assert application.seen[:3] == [(None, der), (b"Bearer x", der), (None, der)]
    assert application.seen[3:] == [None, b"Bearer x", None]


@pytest.mark.parametrize(
    "name", [b":certificate", b":Certificate", b"\x00certificate", b" :certificate"]
)
def test_no_header_passes_for_a_certificate(
    name: bytes, authority: Authority, files: TlsFiles
) -> None:
    """The name under which an application finds it cannot be sent."""
    application = WhoAsks()
    with Served(application, tls=ServerTls(files, port="http")) as served:
        sent = HELLO[:-2] + name + b": x\r\n\r\n"
        answer = asked(served.port, trusting(authority), sent)

    assert answer.startswith(b"HTTP/1.1 400 ")
    assert application.seen == []


def test_who_does_not_speak_tls_gets_no_answer_and_holds_nothing(files: TlsFiles) -> None:
    """A plain request, and a client that says nothing, end within the time for a head; no log."""
    with Served(Echo(), tls=ServerTls(files, port="http"), head_timeout_s=0.3) as served:
        with (
            socket.create_connection(("127.0.0.1", served.port), timeout=5) as plain,
            socket.create_connection(("127.0.0.1", served.port), timeout=5) as silent,
        ):
            plain.sendall(HELLO)
            assert b"HTTP" not in plain.recv(65536)
            assert silent.recv(65536) == b""
            wait_until(lambda: served.failed_handshakes == 2)

        assert served.connections == 0


def test_handshakes_end_with_the_server(files: TlsFiles) -> None:
    """A client in the middle of a handshake does not hold up a drain."""
    with (
        Served(Echo(), tls=ServerTls(files, port="http"), head_timeout_s=60) as served,
        socket.create_connection(("127.0.0.1", served.port), timeout=5) as silent,
    ):
        silent.sendall(b"\x16")
        served.aclose(drain_s=5)
        with suppress(ConnectionResetError):
            assert silent.recv(65536) == b""


def test_ft_21_rotation_keeps_open_connections(authority: Authority, files: TlsFiles) -> None:
    """New handshakes see the new certificate within seconds; an open connection goes on."""
    with (
        Served(Echo(), tls=ServerTls(files, port="http")) as served,
        connected(served.port, trusting(authority)) as open_before,
    ):
        before = serial_of(served.port, trusting(authority))
        authority.issue("server")
        wait_until(lambda: serial_of(served.port, trusting(authority)) != before)

        open_before.sendall(HELLO)
        assert open_before.recv(65536).startswith(b"HTTP/1.1 200 ")


def test_ft_21_pair_that_does_not_fit_changes_nothing(
    authority: Authority, files: TlsFiles, tmp_path: Path
) -> None:
    """Half a rotation, a key of another certificate, or no certificate: the last good one is used."""
    tls = ServerTls(files, port="http")
    assert files.key is not None
    assert files.certificate is not None
    good = files.key.read_bytes(), files.certificate.read_bytes()
    with Served(Echo(), tls=tls) as served:
        before = serial_of(served.port, trusting(authority))
        for wrong in (b"", b"junk", authority.issue("other")[1].read_bytes()):
            files.key.write_bytes(wrong)
            assert served.do(tls.follow) is False
            assert serial_of(served.port, trusting(authority)) == before
        files.key.unlink()
        assert served.do(tls.follow) is False
        files.key.write_bytes(good[0])
        files.certificate.write_bytes(b"junk")
        assert served.do(tls.follow) is False
        assert serial_of(served.port, trusting(authority)) == before
        authority.issue("server")

        assert served.do(tls.follow) is True
        assert serial_of(served.port, trusting(authority)) != before


def test_ft_21_expired_certificate_is_known_as_such(authority: Authority, files: TlsFiles) -> None:
    """Clients turn it down, the port tells when it ended, and a good one mends it without a start."""
    tls = ServerTls(files, port="http")
    with Served(Echo(), tls=tls) as served:
        authority.issue("server", last_day=LONG_AGO)
        served.do(tls.follow)
        with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
            asked(served.port, trusting(authority))
        assert tls.not_after == LONG_AGO
        authority.issue("server")
        served.do(tls.follow)

        assert asked(served.port, trusting(authority)).startswith(b"HTTP/1.1 200 ")
        assert tls.not_after > LONG_AGO


@pytest.mark.parametrize("broken", ["certificate", "key", "client_ca"])
@pytest.mark.parametrize("content", [None, b"", b"junk"])
def test_ft_21_files_that_cannot_be_used_refuse_to_start(
    broken: str, content: bytes | None, authority: Authority, files: TlsFiles
) -> None:
    """The message names the port's group of settings."""
    files = files.model_copy(update={"client_ca": authority.file})
    path: Path = getattr(files, broken)
    path.unlink() if content is None else path.write_bytes(content)

    with pytest.raises(SettingInvalid, match=r"^control"):
        ServerTls(files, port="control")


def test_ft_21_an_authority_that_is_taken_away_lets_nobody_in(
    authority: Authority, files: TlsFiles, tmp_path: Path
) -> None:
    """Authorities of clients are replaced as certificates are; their old ones end."""
    other = Authority(tmp_path, "other")
    alice, bob = authority.issue("alice"), other.issue("bob")
    tls = asking_for(authority, files)
    with Served(Echo(), tls=tls) as served:
        before = asked(served.port, trusting(authority, *alice))
        context = trusting(authority, *alice), trusting(authority, *bob)
        authority.file.write_bytes(other.certificate)
        served.do(tls.follow)
        ends = [unanswered(served.port, each) for each in context]

    assert before.startswith(b"HTTP/1.1 200 ")
    assert ends == [True, False]


def test_one_connection_too_many_is_told_so(authority: Authority, files: TlsFiles) -> None:
    """As without TLS: 503, and the end of it."""
    tls = ServerTls(files, port="http")
    with (
        Served(Echo(), tls=tls, max_connections=1) as served,
        connected(served.port, trusting(authority)) as first,
    ):
        first.sendall(HELLO)
        first.recv(65536)

        assert b"503" in asked(served.port, trusting(authority), b"")
