import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from serving.access.issuer import LocalIssuer
from serving.access.tokens import Authenticator
from serving.cli import app, main
from serving.cli.credentials import seconds_of
from serving.cli.output import table
from serving.core.clock import SystemClock
from serving.core.principals import Principal, Role
from serving.errors import ServingError, SettingInvalid
from serving.settings import AccessSettings, Settings, load


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Tests run in an empty folder."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def runner() -> CliRunner:
    return CliRunner()


def verify(token: str, data_dir: Path) -> Principal:
    clock = SystemClock()
    issuer = LocalIssuer.open(data_dir / "keys", AccessSettings(), clock)
    authenticator = Authenticator([issuer.trusted], AccessSettings())
    return authenticator.authenticate(f"Bearer {token}".encode(), clock.wall_ns() / 1e9)


@pytest.mark.parametrize("verb", ["up", "status", "token", "config show"])
def test_help_teaches_by_example(runner: CliRunner, verb: str) -> None:
    """Every verb shows commands that can be typed."""
    result = runner.invoke(app, [*verb.split(), "--help"])

    assert result.exit_code == 0
    assert "Examples:" in result.output
    assert f"serving {verb}" in result.output


def test_token_prints_one_token_and_nothing_else(runner: CliRunner, tmp_path: Path) -> None:
    """What goes to standard output can be used as it is."""
    result = runner.invoke(
        app,
        ["token", "--subject", "me", "--role", "caller", "--model", "a", "--model", "b"],
    )

    principal = verify(result.stdout.removesuffix("\n"), tmp_path / ".serving")
    assert (
        Principal("me", frozenset({Role.CALLER}), frozenset({"a", "b"}), issuer="serving-local")
        == principal
    )


def test_token_of_a_member_of_a_tenant(runner: CliRunner, tmp_path: Path) -> None:
    """--tenant says whose member the subject is; without it the token is of nobody's."""
    asked = ["token", "--subject", "me", "--role", "caller", "--data-dir", str(tmp_path / "x")]
    made = [
        runner.invoke(app, [*asked, *more]).stdout.strip() for more in ((), ("--tenant", "acme"))
    ]

    assert [verify(each, tmp_path / "x").tenant for each in made] == ["", "acme"]


def test_token_for_every_model_by_default(runner: CliRunner, tmp_path: Path) -> None:
    """Without --model the token is not limited."""
    result = runner.invoke(
        app,
        ["token", "--subject", "me", "--role", "operator", "--data-dir", str(tmp_path / "x")],
    )

    assert verify(result.stdout.strip(), tmp_path / "x").models is None


def test_token_is_refused_where_nobody_would_believe_it(runner: CliRunner, tmp_path: Path) -> None:
    """With other issuers configured the local one is off, and the message says how to have both."""
    config = tmp_path / "issuers.yaml"
    issuer = "{name: 'https://a.example.com', audiences: [serving], keys_file: keys.json}"
    arguments = ["token", "--subject", "me", "--role", "caller", "--config", str(config)]
    for more, code in (("", 1), (", local_issuer: true", 0)):
        config.write_text(f"access: {{issuers: [{issuer}]{more}}}\n")
        result = runner.invoke(app, arguments)
        assert (result.exit_code == 0) == (code == 0)
        if code:
            assert "access.local_issuer: true switches it on" in str(
                result.exception or result.output
            )


def test_token_before_the_first_start_keeps_its_folder_private(
    runner: CliRunner, tmp_path: Path
) -> None:
    """The data directory that `serving token` makes is one that `serving up` accepts."""
    runner.invoke(app, ["token", "--subject", "me", "--role", "caller"])

    assert (tmp_path / ".serving").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("15m", 900), ("1.5h", 5400), ("1d", 86400)]
)
def test_durations_are_read_as_people_write_them(text: str, seconds: float) -> None:
    """A number and at most one unit."""
    assert seconds == seconds_of(text)


@pytest.mark.parametrize("text", ["", "h", "1 h", "-1h", "1w", "1h30m", "1e3"])
def test_other_durations_are_refused(text: str) -> None:
    """The refusal shows what may be written."""
    with pytest.raises(SettingInvalid, match="write 90s, 15m, 1h or 1d"):
        seconds_of(text)


def test_shown_settings_are_a_valid_file(runner: CliRunner, tmp_path: Path) -> None:
    """What `config show` prints gives the same settings when it is loaded."""
    result = runner.invoke(app, ["config", "show"])
    (tmp_path / "shown.yaml").write_text(result.stdout)

    assert load(environment={}) == load(config=tmp_path / "shown.yaml", environment={})


def test_flag_beats_environment_beats_file(
    runner: CliRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The order of precedence, as seen from the command line."""
    file = tmp_path / "file.yaml"
    file.write_text(yaml.safe_dump({"data_dir": "file", "http": {"port": 1}, "log": {}}))
    monkeypatch.setenv("SERVING_HTTP_PORT", "2")
    monkeypatch.setenv("SERVING_DATA_DIR", "environment")

    result = runner.invoke(
        app, ["config", "show", "--json", "--config", str(file), "--data-dir", "flag"]
    )

    shown = Settings.model_validate(json.loads(result.stdout))
    assert (str(shown.data_dir), shown.http.port) == ("flag", 2)


def test_status_without_an_instance_says_how_to_start_one(runner: CliRunner) -> None:
    """Nothing runs here, and what to type."""
    result = runner.invoke(app, ["status"])

    assert isinstance(result.exception, ServingError)
    assert "start it with `serving up`" in result.exception.message


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["status"], "serving: nothing runs on "),
        (["up", "--engine", "spark"], "serving: inference.engine = 'spark': "),
        (["up", "--config", "absent.yaml"], "serving: cannot read the configuration absent.yaml"),
        (["token", "--subject", "me", "--role", "caller", "--ttl", "1y"], "serving: --ttl '1y' is"),
    ],
)
def test_refusal_is_one_line_and_status_two(
    arguments: list[str],
    complaint: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Never a traceback; nothing on standard output."""
    monkeypatch.setattr(sys, "argv", ["serving", *arguments])

    with pytest.raises(SystemExit) as exit_:
        main()

    written = capsys.readouterr()
    assert (exit_.value.code, written.out, written.err.count("\n")) == (2, "", 1)
    assert written.err.startswith(complaint)


def test_module_is_the_same_as_the_command() -> None:
    """`python -m serving` works where the dependencies are there."""
    done = subprocess.run(
        [sys.executable, "-m", "serving", "--help"], capture_output=True, text=True, check=True
    )

    assert "Start with `serving up`" in done.stdout


def test_command_line_needs_neither_ray_nor_onnxruntime() -> None:
    """Help, tokens and status answer at once."""
    code = "import sys, serving.cli; print({'ray', 'onnxruntime'} & set(sys.modules))"

    done = subprocess.run(  # noqa: S603 - our own code
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )

    assert done.stdout.strip() == "set()"


def test_columns_are_as_wide_as_their_widest_cell() -> None:
    """Tables line up and end without blanks."""
    text = table(("A", "LONG HEAD"), [("a long cell", "x")])

    assert text == "A            LONG HEAD\na long cell  x"
