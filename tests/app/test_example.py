import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from serving.app.example import how_to_call, token_command, try_command
from serving.settings import Deployment, Settings

URL = "http://127.0.0.1:8000"


@pytest.fixture
def installation(tmp_path: Path) -> Path:
    """The `bin` folder of an environment with `serving` installed."""
    folder = tmp_path / ".venv" / "bin"
    folder.mkdir(parents=True)
    for name in ("python", "serving"):
        (folder / name).touch(mode=0o755)
    return folder


def body_of(command: str) -> dict[str, Any]:
    """What curl would send."""
    words = shlex.split(command)
    found: dict[str, Any] = json.loads(words[words.index("-d") + 1])
    return found


def test_command_on_the_path_is_called_by_its_name(installation: Path) -> None:
    """An active environment needs no path."""
    call = how_to_call(
        working_directory=Path("/"),
        executable=installation / "python",
        search_path=str(installation),
    )

    assert call == "serving"


def test_command_of_another_installation_is_not_meant(installation: Path, tmp_path: Path) -> None:
    """A `serving` that is found first but belongs elsewhere would ask the wrong one."""
    other = tmp_path / "other"
    other.mkdir()
    (other / "serving").touch(mode=0o755)

    call = how_to_call(
        working_directory=other, executable=installation / "python", search_path=str(other)
    )

    assert str(installation / "serving") == call


def test_command_below_the_working_directory_is_called_by_a_short_path(
    installation: Path, tmp_path: Path
) -> None:
    """In a clone it reads `.venv/bin/serving`."""
    call = how_to_call(
        working_directory=tmp_path, executable=installation / "python", search_path=""
    )

    assert call == ".venv/bin/serving"


def test_without_the_command_the_interpreter_is_called(tmp_path: Path) -> None:
    """A package that only lies on the path is run as a module."""
    call = how_to_call(working_directory=tmp_path, executable=tmp_path / "python", search_path="")

    assert f"{tmp_path}/python -m serving" == call


def test_token_command_names_a_data_directory_that_is_not_the_default(tmp_path: Path) -> None:
    """What is pasted asks the issuer of the running instance, blanks in its path included."""
    settings = Settings(data_dir=tmp_path / "my data")

    words = shlex.split(token_command(settings, call="serving"))

    assert words[:6] == ["serving", "token", "--subject", "me", "--role", "caller"]
    assert ["--data-dir", str(tmp_path / "my data")] == words[6:]


def test_tokens_of_an_organisation_come_from_its_issuers() -> None:
    """Where the local issuer is off, no command is printed that would be refused."""
    issuer = {"name": "https://a.example.com", "audiences": ["serving"], "keys_file": "keys.json"}
    settings = Settings.model_validate({"access": {"issuers": [issuer]}})

    assert token_command(settings, call="serving") == "from https://a.example.com"
    tried = try_command(settings, url="http://127.0.0.1:8000", call="serving")
    assert '"Authorization: Bearer $TOKEN"' in tried


def test_token_command_is_short_for_the_default_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the place where `serving up` was typed, nothing needs to be said."""
    settings = Settings(data_dir=Path.cwd() / ".serving")

    assert token_command(settings, call="serving") == "serving token --subject me --role caller"


def test_demo_model_is_tried_with_a_real_row() -> None:
    """The first row of its samples, whatever other models are served."""
    settings = Settings()

    body = body_of(try_command(settings, url=URL, call="serving"))

    (tensor,) = body["inputs"]
    assert (tensor["shape"], tensor["datatype"], len(tensor["data"])) == ([1, 16], "FP32", 16)
    assert any(tensor["data"])


def test_other_models_are_tried_with_zeros_of_their_shape(tmp_path: Path) -> None:
    """Dimensions that may vary become one."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "model.yaml").write_text(
        """
model: mine
owner: tests
description: Does nothing.
task: none
licence: none
source: tests
inputs:
  - {name: ids, datatype: INT64, shape: [-1, -1]}
  - {name: mask, datatype: BOOL, shape: [-1, 2]}
outputs: [{name: y, datatype: FP32, shape: [-1, 2]}]
versions:
  - {version: "1", file: 1.onnx, sha256: "SHA", description: one, provenance: tests}
""".replace("SHA", "0" * 64)
    )
    settings = Settings(models_dir=tmp_path, deployments=(Deployment(model="mine", stable="1"),))

    command = try_command(settings, url=URL, call="serving")

    assert f"{URL}/v2/models/mine/infer" in command
    assert body_of(command) == {
        "inputs": [
            {"name": "ids", "shape": [1, 1], "datatype": "INT64", "data": [0]},
            {"name": "mask", "shape": [1, 2], "datatype": "BOOL", "data": [False, False]},
        ]
    }


def test_without_models_the_server_itself_is_asked() -> None:
    """There is always something that works."""
    assert f"curl -s {URL}/v2" == try_command(Settings(deployments=()), url=URL, call="serving")
