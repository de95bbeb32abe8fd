"""`serving tls init`: what it prints can be used as it is."""

import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from serving.cli import app
from serving.edge.tls import ServerTls
from serving.inference.places import ChannelCertificates
from serving.settings import load


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Tests run in an empty folder, and leave the mask of new files as it was."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "umask", lambda mask: mask)


def test_settings_it_prints_serve_tls(tmp_path: Path) -> None:
    """Standard output is a file of settings with which every port has a context."""
    done = CliRunner().invoke(app, ["tls", "init", "--client", "batch"])
    config = tmp_path / "tls.yaml"
    config.write_text(done.stdout)
    settings = load(config=config, environment={})

    assert done.exit_code == 0
    for name in ("http", "grpc", "control", "metrics"):
        ServerTls(getattr(settings, name), port=name)
    assert settings.http.client_ca is not None
    assert [rule.subject for rule in settings.access.certificates] == ["batch"]


def test_words_for_people_are_on_standard_error(tmp_path: Path) -> None:
    """Where the files are, and a line to paste that uses them."""
    done = CliRunner().invoke(app, ["tls", "init", "--client", "batch"])
    folder = tmp_path / ".serving" / "tls"

    assert f"curl --cacert {folder / 'ca.pem'} --cert {folder / 'client-batch.pem'}" in done.stderr
    assert "https://127.0.0.1:8000/v2/models" in done.stderr


def test_json_names_every_file(tmp_path: Path) -> None:
    """For programs; asking again changes nothing, and without clients none are asked for."""
    first, second = [
        json.loads(CliRunner().invoke(app, ["tls", "init", "--json"]).stdout) for _ in range(2)
    ]

    assert first == second
    assert first["clients"] == {}
    assert "client_ca" not in first["settings"]["http"]
    for name in ("authority", "certificate", "key"):
        assert Path(first[name]).is_relative_to(tmp_path / ".serving" / "tls")
        assert Path(first[name]).exists()


def test_the_channel_has_an_authority_of_its_own(tmp_path: Path) -> None:
    """Whoever holds a client's certificate of the ports is no gateway and no replica."""
    done = CliRunner().invoke(app, ["tls", "init", "--channel"])
    config = tmp_path / "tls.yaml"
    config.write_text(done.stdout)
    channel = load(config=config, environment={}).channel

    ChannelCertificates(channel).client()
    assert channel.listen == "tls"
    assert channel.client_ca is not None
    assert channel.client_ca.read_bytes() != (tmp_path / ".serving/tls/ca.pem").read_bytes()


@pytest.mark.parametrize("verb", ["tls init"])
def test_help_teaches_by_example(verb: str) -> None:
    """Every verb shows commands that can be typed."""
    done = CliRunner().invoke(app, [*verb.split(), "--help"])

    assert "Examples:" in done.output
    assert f"serving {verb}" in done.output
