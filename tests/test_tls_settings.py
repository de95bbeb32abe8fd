"""Settings of a port: no plain text where others can listen, and files that go together."""

from pathlib import Path
from typing import Any, get_args

import pytest

from serving.core.principals import Role
from serving.errors import SettingInvalid
from serving.settings import Settings, load
from serving.tls_settings import RoleName

PAIR = {"certificate": "a.pem", "key": "a.key"}


def settings_of(**groups: Any) -> Settings:
    dotted = {f"{name}.{key}": it for name, group in groups.items() for key, it in group.items()}
    return load(environment={}, flags=dotted)


@pytest.mark.parametrize("group", ["http", "grpc", "control", "metrics"])
@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.7", "serving.example.com", ""])  # noqa: S104
def test_plain_text_off_loopback_refuses_to_start(group: str, host: str) -> None:
    """The reason names the group and both ways out; either of them is accepted."""
    with pytest.raises(SettingInvalid, match=rf"{group}: .*other machines.*plain_text: true"):
        settings_of(**{group: {"host": host}})

    settings_of(**{group: {"host": host, "plain_text": True}})
    settings_of(**{group: {"host": host, **PAIR}})


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_plain_text_on_loopback_is_permitted(host: str) -> None:
    """Nobody else can listen there."""
    assert settings_of(http={"host": host}).http.certificate is None


@pytest.mark.parametrize(
    "group",
    [{"certificate": "a.pem"}, {"key": "a.key"}, {"client_ca": "ca.pem"}],
    ids=["no key", "no certificate", "authority alone"],
)
def test_files_go_together(group: dict[str, str]) -> None:
    """Half a pair, or authorities without a pair, is a mistake and not plain text."""
    for name in ("http", "grpc", "control", "metrics"):
        with pytest.raises(SettingInvalid):
            settings_of(**{name: group})


@pytest.mark.parametrize("group", ["http", "grpc"])
def test_certificates_of_clients_can_be_optional(group: str) -> None:
    """Clients without one are let in, and need a token."""
    asked = {**PAIR, "client_ca": "ca.pem", "client_certificates": "optional"}

    assert not getattr(settings_of(**{group: asked}), group).requires_clients


def test_files_are_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Replicas read them, and they run in folders of Ray's choosing."""
    monkeypatch.chdir(tmp_path)

    assert settings_of(control=PAIR).control.certificate == tmp_path / "a.pem"


def test_roles_of_certificates_are_the_roles_there_are() -> None:
    """The settings cannot import them, so a test holds the two together."""
    assert set(get_args(RoleName)) == {role.value for role in Role}


def test_the_example_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """configs/tls.yaml says what its comments say."""
    root = Path(__file__).parents[1]
    monkeypatch.chdir(root)
    settings = load(config=root / "configs" / "tls.yaml", environment={})

    for port in (settings.http, settings.grpc, settings.metrics, settings.control):
        assert port.certificate == root / ".serving" / "tls" / "server.pem"
    assert settings.access.certificates[0].models == ("census-*",)
    assert settings.http.client_ca is not None
    assert not settings.http.requires_clients
