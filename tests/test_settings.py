"""Settings: who overrides whom, and what a mistake is told."""

import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from serving.errors import SettingInvalid
from serving.settings import Settings, load


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A file that changes three settings."""
    path = tmp_path / "serving.yaml"
    path.write_text("http: {port: 9000, workers: 2}\nlog: {durability: process}\n")
    return path


def test_later_sources_override_earlier_ones(config: Path) -> None:
    """Default, file, environment, flag: each overrides what came before it, and nothing else."""
    environment = {"SERVING_HTTP_PORT": "9001", "SERVING_CONTROL_PORT": "9003", "HOME": "/"}

    settings = load(config=config, environment=environment, flags={"http.port": 9002})

    assert settings.http.port == 9002
    assert settings.control.port == 9003
    assert settings.http.workers == 2
    assert settings.log.durability == "process"
    assert settings.metrics.port == 8002


def test_a_flag_that_was_not_given_changes_nothing(config: Path) -> None:
    """None stands for absent."""
    assert load(config=config, environment={}, flags={"http.port": None}).http.port == 9000


def test_every_setting_has_an_environment_name() -> None:
    """SERVING_, group, field: each scalar setting can be given its own default as text."""
    defaults = Settings()
    groups = {name: dict(value) for name, value in defaults if isinstance(value, BaseModel)}
    environment = {
        f"SERVING_{group}_{field}".upper(): str(default)
        for group, fields in groups.items()
        for field, default in fields.items()
        if default is not None and not isinstance(default, dict | tuple)
    }

    assert len(environment) > 60
    assert load(environment=environment) == defaults


def test_an_empty_file_changes_nothing(tmp_path: Path) -> None:
    """A file of comments only gives the defaults."""
    path = tmp_path / "serving.yaml"
    path.write_text("# nothing\n")

    assert load(config=path, environment={}) == Settings()


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"SERVING_HTTP_PROT": "9000"}, "SERVING_HTTP_PROT='9000' is not a setting.*HTTP_PORT"),
        ({"SERVING_HTPT_PORT": "9000"}, "SERVING_HTPT_PORT='9000' is not a setting.*SERVING_HTTP_"),
        ({"SERVING_": "1"}, "is not a setting"),
        ({"SERVING_HTTP_PORT": "eighty"}, "http.port = 'eighty': .*integer"),
        ({"SERVING_HTTP_PORT": "0"}, "http.port = '0': .*greater than or equal to 1"),
        ({"SERVING_HTTP_PORT": "70000"}, "http.port = '70000': .*less than or equal to 65535"),
        ({"SERVING_HTTP_HEAD_TIMEOUT_S": "5s"}, "http.head_timeout_s = '5s': .*number"),
        ({"SERVING_HTTP_HEAD_TIMEOUT_S": "nan"}, "http.head_timeout_s = 'nan'"),
        ({"SERVING_HTTP_IDLE_TIMEOUT_S": "0"}, "http.idle_timeout_s = '0': .*greater than 0"),
        ({"SERVING_LOG_DURABILITY": "disk"}, "log.durability = 'disk': .*'fsync', 'process'"),
        ({"SERVING_HTTP": "9000"}, "http = '9000'"),
        ({"SERVING_DEPLOYMENTS": "census"}, "deployments = 'census'"),
        ({"SERVING_HTTP_PORT": "8002"}, "http.port, grpc.port, metrics.port.* must differ"),
        ({"SERVING_CONTROL_LEASE_S": "3"}, "control.renew_s must be at most half"),
    ],
    ids=str,
)
def test_op_05_a_mistake_in_the_environment_is_named(
    environment: dict[str, str], words: str
) -> None:
    """The message has the setting's name, its value and what is permitted."""
    with pytest.raises(SettingInvalid) as refusal:
        load(environment=environment)

    assert re.search(words, refusal.value.message)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("http: {prot: 9000}", "http.prot = '9000': .*not permitted"),
        ("htpt: {port: 9000}", "htpt: .*not permitted"),
        ("http: 9000", "http = '9000'"),
        ("http: {port: [1]}", "http.port"),
        ("- http", "must hold groups of settings, not list"),
        ("http: {port: 1", "cannot read the configuration"),
        ("\x00", "cannot read the configuration"),
        ("deployments: [{model: m}]", "deployments.0.stable: .*required"),
        ("deployments: [{model: m, stable: '1', shadows: ['1']}]", "shadows must not name"),
        ("deployments: [{model: m, stable: '1', min_replicas: 2}]", "at least min_replicas"),
        ("deployments: [{model: m, stable: '1'}, {model: m, stable: '2'}]", "each model once"),
    ],
    ids=str,
)
def test_op_05_a_mistake_in_the_file_is_named(tmp_path: Path, text: str, words: str) -> None:
    """Unknown keys, wrong types, damaged YAML and contradictions stop the start."""
    path = tmp_path / "serving.yaml"
    path.write_text(text)

    with pytest.raises(SettingInvalid) as refusal:
        load(config=path, environment={})

    assert re.search(words, refusal.value.message)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """A missing file, a folder, and bytes that are no text."""
    (tmp_path / "latin.yaml").write_bytes(b"http: \xe9")
    for name in ("missing.yaml", ".", "latin.yaml"):
        with pytest.raises(SettingInvalid, match="cannot read the configuration"):
            load(config=tmp_path / name, environment={})


def test_a_flag_cannot_reach_through_a_value(tmp_path: Path) -> None:
    """A file that puts a value where a group belongs is told so when a flag sets a field of it."""
    path = tmp_path / "serving.yaml"
    path.write_text("http: 9000")

    with pytest.raises(SettingInvalid, match="http must be a group of settings, not 9000"):
        load(config=path, environment={}, flags={"http.port": 1})


def test_settings_never_change() -> None:
    """Groups are frozen: what was read at the start holds until the end."""
    settings: Any = Settings()

    with pytest.raises(ValidationError):
        settings.http.port = 1
    with pytest.raises(ValidationError):
        settings.http = settings.grpc


def test_everything_listens_on_loopback_by_default() -> None:
    """Opening a port to the network is a decision that someone writes down."""
    settings = Settings()

    assert {settings.http.host, settings.metrics.host, settings.control.host} == {"127.0.0.1"}
