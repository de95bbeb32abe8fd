"""Own processes trust the very certificate of a port, whatever its name, and nothing else."""

import ssl
from pathlib import Path

import httpx
import pytest

from serving.access.ownports import trust_in, url_of
from serving.edge.tls import ServerTls
from serving.tls_settings import PortSettings
from tests.edge.certificates import Authority
from tests.edge.wire import Echo, Served


def port_of(pair: tuple[Path, Path], **more: object) -> PortSettings:
    return PortSettings.model_validate({"certificate": pair[0], "key": pair[1], **more})


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:80"),
        ("0.0.0.0", "http://127.0.0.1:80"),  # noqa: S104 - translated, not bound
        ("::", "http://[::1]:80"),
        ("localhost", "http://localhost:80"),
    ],
)
def test_addresses_can_be_called(host: str, url: str) -> None:
    """An address that is for listening only becomes one of this machine; TLS shows in the scheme."""
    plain = PortSettings(host=host, port=80, plain_text=True)
    files = {"certificate": Path("a"), "key": Path("b")}

    assert url_of(plain) == url
    assert url_of(plain.model_copy(update=files)) == url.replace("http", "https")


def test_only_the_port_s_own_certificate_is_trusted(tmp_path: Path) -> None:
    """Not another one of the same authority, nor the authority; names do not matter."""
    authority = Authority(tmp_path)
    served, other = (
        authority.issue("server", common_name="somewhere.else"),
        authority.issue("other"),
    )
    with Served(Echo(), tls=ServerTls(port_of(served), port="http")) as server:
        url = f"https://localhost:{server.port}/"
        answer = httpx.get(url, verify=trust_in(port_of(served)))
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            httpx.get(url, verify=trust_in(port_of(other)))

    assert answer.status_code == 200


def test_own_processes_show_the_server_s_pair_where_clients_need_one(tmp_path: Path) -> None:
    """And nowhere else: the key is not read for nothing."""
    authority = Authority(tmp_path)
    port = port_of(authority.issue("server"), client_ca=authority.file)
    with Served(Echo(), tls=ServerTls(port, port="control")) as server:
        answer = httpx.get(f"https://127.0.0.1:{server.port}/", verify=trust_in(port))

    assert answer.status_code == 200


def test_without_a_certificate_nothing_is_trusted() -> None:
    """A context for plain text must not become one that trusts the whole internet."""
    context = trust_in(PortSettings())

    assert context.verify_mode == ssl.CERT_REQUIRED
    assert context.cert_store_stats()["x509"] == 0


def test_files_that_cannot_be_read_are_a_passing_trouble(tmp_path: Path) -> None:
    """An OSError, as of a port that does not answer: clients try again."""
    with pytest.raises(OSError):  # noqa: PT011 - any
        trust_in(port_of((tmp_path / "a.pem", tmp_path / "a.key")))
