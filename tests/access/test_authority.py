"""The local authority: what it makes is accepted by strict clients, and stays what it is."""

import ssl
from pathlib import Path

import httpx
import pytest

from serving.access.authority import LocalAuthority
from serving.core.clock import SystemClock
from serving.edge.tls import ServerTls
from serving.errors import ParameterInvalid, StartFailed
from serving.tls_settings import TlsFiles
from tests.edge.certificates import Authority
from tests.edge.wire import Echo, Served


@pytest.fixture
def authority(tmp_path: Path) -> LocalAuthority:
    return LocalAuthority(tmp_path / "tls", SystemClock())


def test_strict_clients_accept_what_it_makes(authority: LocalAuthority) -> None:
    """By name and by address, in both directions, with every check that OpenSSL has."""
    certificate, key = authority.server()
    files = TlsFiles(certificate=certificate, key=key, client_ca=authority.ca_file)
    context = ssl.create_default_context(cafile=str(authority.ca_file))
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.load_cert_chain(*authority.client("batch"))
    with Served(Echo(), tls=ServerTls(files, port="http")) as served:
        for host in ("localhost", "127.0.0.1"):
            answer = httpx.get(f"https://{host}:{served.port}/", verify=context)
            assert answer.status_code == 200


def test_a_server_is_not_a_client_of_another_name(
    authority: LocalAuthority, tmp_path: Path
) -> None:
    """A client's certificate does not pass for a server."""
    certificate, key = authority.client("batch")
    files = TlsFiles(certificate=certificate, key=key)
    context = ssl.create_default_context(cafile=str(authority.ca_file))
    context.check_hostname = False
    with (
        Served(Echo(), tls=ServerTls(files, port="http")) as served,
        pytest.raises(httpx.ConnectError, match="purpose"),
    ):
        httpx.get(f"https://127.0.0.1:{served.port}/", verify=context)


def test_what_is_there_stays(authority: LocalAuthority) -> None:
    """Asking again changes no file, so that certificates handed out stay good."""
    made = [*authority.server(), *authority.client("a"), authority.ca_file]
    before = [path.read_bytes() for path in made]
    again = LocalAuthority(authority.folder, SystemClock())
    again.server()
    again.client("a")

    assert [path.read_bytes() for path in made] == before
    assert {path.stat().st_mode & 0o777 for path in made} == {0o600}
    assert authority.folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("name", ["", "../x", "a b", "a/b", "a\n", "a.b", "é" * 300])
def test_names_that_are_no_file_names_are_refused(authority: LocalAuthority, name: str) -> None:
    """The name is part of a path and of a certificate."""
    with pytest.raises(ParameterInvalid):
        authority.client(name)


@pytest.mark.parametrize("broken", ["ca.key", "ca.pem", "server.key", "server.pem"])
def test_damaged_files_are_named(authority: LocalAuthority, broken: str) -> None:
    """Nothing is made over what a person may still need."""
    authority.server()
    (authority.folder / broken).write_bytes(b"junk")
    with pytest.raises(StartFailed, match=broken):
        LocalAuthority(authority.folder, SystemClock()).server()


def test_a_key_that_others_can_read_is_refused(authority: LocalAuthority) -> None:
    """Whoever has it can make certificates for anybody."""
    (authority.folder / "ca.key").chmod(0o644)
    with pytest.raises(StartFailed, match="others on this machine"):
        LocalAuthority(authority.folder, SystemClock())


def test_it_is_not_the_authority_of_others(authority: LocalAuthority, tmp_path: Path) -> None:
    """Certificates of another authority of the same name are strangers."""
    stranger = Authority(tmp_path, "serving local authority")
    certificate, key = stranger.issue("server")
    context = ssl.create_default_context(cafile=str(authority.ca_file))
    with (
        Served(
            Echo(), tls=ServerTls(TlsFiles(certificate=certificate, key=key), port="http")
        ) as it,
        pytest.raises(httpx.ConnectError),
    ):
        httpx.get(f"https://127.0.0.1:{it.port}/", verify=context)
