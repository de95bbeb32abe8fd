"""`serving model` against a running instance: a model's life on the command line, and imports."""

import json
from http.server import ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from serving.cli import app
from serving.core.principals import Role
from serving.errors import (
    DigestChanged,
    NotReady,
    OrderRefused,
    ParameterInvalid,
    ServingError,
    TransitionRefused,
)
from serving.registry.folder import DEFAULT_MODELS_DIR
from tests.cli.running import Run
from tests.instances import Instance
from tests.mlflow_server import FOLDER, MLMODEL, Mlflow

CENSUS = DEFAULT_MODELS_DIR / "census-employment"


def said(result: Result) -> Any:
    assert result.exit_code == 0, result.exception
    return json.loads(result.stdout)


def refused(result: Result) -> ServingError:
    assert isinstance(result.exception, ServingError), result.output
    return result.exception


VERBS = (
    "register",
    "list",
    "search",
    "show",
    "history",
    "card",
    "bom",
    "import",
    "add",
    "versions",
)
STEPS = ("alias", "deprecate", "reinstate", "retire", "reject")


@pytest.mark.parametrize("verb", [*VERBS, *STEPS])
def test_help_teaches_by_example(verb: str) -> None:
    """Every verb shows commands that can be typed, and can answer programs."""
    result = CliRunner().invoke(app, ["model", verb, "--help"])

    assert result.exit_code == 0
    assert f"serving model {verb}" in result.output
    assert "--json" in result.output


def test_a_models_life_on_the_command_line(run: Run) -> None:
    """Registered, changed, given versions, an alias, and an end, with everything in its history."""
    made = said(
        run(
            "register", "fraud", "--owner", "ada", "--tag", "area=cards", "--contact", "a", "--json"
        )
    )
    changed = said(run("register", "fraud", "--risk-tier", "limited", "--json"))
    file, definition = str(CENSUS / "1.onnx"), str(CENSUS / "model.yaml")
    words = ("add", "fraud", "1", "--file", file, "--definition", definition, "--json")
    version = said(run(*words))
    said(run("alias", "fraud", "candidate", "1", "--json"))
    shown = said(run("show", "fraud", "--json"))
    found = said(run("search", "fraud", "--tag", "area=cards", "--json"))
    said(run("reject", "fraud", "1", "--reason", "a test", "--json"))
    retired = said(run("retire", "fraud", "1", "--reason", "a test", "--json"))
    said(run("alias", "fraud", "candidate", "--remove", "--json"))
    history = said(run("history", "fraud", "--json"))

    assert (made["facts"]["contacts"], changed["facts"]["tags"]) == (["a"], {"area": "cards"})
    assert (changed["facts"]["risk_tier"], changed["revision"]) == ("limited", 2)
    assert (version["state"], version["author"][:6]) == ("registered", "local:")
    assert [each["alias"] for each in shown["aliases"]] == ["candidate"]
    assert ([each["name"] for each in found], retired["state"]) == (["fraud"], "retired")
    assert len(history) == 7


def test_refusals_are_the_registrys(run: Run) -> None:
    """A version that serves is not retired, another artifact under a name is not taken."""
    definition = str(CENSUS / "model.yaml")
    other = ("add", "census-employment", "1", "--file", str(CENSUS / "0.onnx"))

    deprecated = run("deprecate", "census-employment", "1", "--reason", "x", "--successor", "9")
    retired = run("retire", "census-employment", "1", "--reason", "x")
    added = run(*other, "--definition", definition)
    neither = run("add", "census-employment", "1", "--definition", definition)

    assert isinstance(refused(deprecated), ParameterInvalid)
    assert isinstance(refused(retired), TransitionRefused)
    assert isinstance(refused(added), DigestChanged)
    assert isinstance(refused(neither), ParameterInvalid)


def test_the_card_of_the_demo_model_is_made_of_its_yaml(run: Run) -> None:
    """Purpose, figures with intervals and parts, data and limits; what is missing is said."""
    text = run("card", "census-employment", "1").stdout
    card = said(run("card", "census-employment", "1", "--json"))
    bom = said(run("bom", "census-employment", "1"))

    for fact in ("Decisions about people", "age under 25", "0.8963 to 0.9028", "local-policy"):
        assert fact in text
    assert card["missing"] == ["training data: manifest"]
    assert bom["metadata"]["component"]["name"] == "census-employment"


def test_a_folder_is_imported_once(run: Run) -> None:
    """The second time everything is known; the versions that served before still do."""
    folder = str(DEFAULT_MODELS_DIR)
    first = said(run("import", "--folder", folder, "file-type", "census-employment", "--json"))
    second = said(run("import", "--folder", folder, "file-type", "census-employment", "--json"))
    states = said(run("versions", "file-type", "--json"))

    assert [each["registered"] for each in first] == [["1"], ["2", "0", "3"]]
    assert [each["registered"] for each in second] == [[], []]
    assert {each["state"] for each in states} <= {"registered", "validated"}  # Or inspected by now.


def test_an_mlflow_registry_is_imported_once(run: Run) -> None:
    """Model, versions, network, lineage, tags and aliases; nothing of it serves."""
    network = (CENSUS / "0.onnx").read_bytes()
    Mlflow.files = {"MLmodel": MLMODEL.encode(), "model.onnx": network}
    Mlflow.versions, Mlflow.place = ["2", "1"], f"mlflow-artifacts:/{FOLDER}"
    server = ThreadingHTTPServer(("127.0.0.1", 0), Mlflow)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    words = ("--mlflow", f"http://127.0.0.1:{server.server_port}", "doubler", "--owner", "ada")
    try:
        (first,) = said(run("import", *words, "--json"))
        (second,) = said(run("import", *words, "--json"))
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    shown = said(run("show", "doubler", "--json"))

    assert (first["registered"], second["known"]) == (["1", "2"], ["1", "2"])
    assert shown["model"]["facts"]["tags"] == {"area": "demo"}
    assert [each["alias"] for each in shown["aliases"]] == ["champion"]
    version = shown["versions"][0]
    assert version["lineage"]["code_revision"] == "abc123"
    assert version["definition"]["inputs"][0]["shape"] == [-1, 2]
    assert {each["state"] for each in shown["versions"]} == {"registered"}


def test_another_machines_registry_takes_a_token(
    run: Run, instance: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--url` asks with the credential of SERVING_TOKEN, in the role that it has."""
    monkeypatch.delenv("SERVING_TOKEN", raising=False)
    without = run("list", at=instance.control_url)
    monkeypatch.setenv("SERVING_TOKEN", instance.token(Role.AUDITOR))
    listed = said(run("list", "--json", at=instance.control_url))
    forbidden = run("register", "x", "--owner", "x", at=instance.control_url)

    assert isinstance(refused(without), ParameterInvalid)
    assert "census-employment" in [each["name"] for each in listed]
    assert refused(forbidden).code == "forbidden"


def test_without_an_instance_there_is_no_registry(tmp_path: Path) -> None:
    """Said in one line, with what to do."""
    result = CliRunner().invoke(app, ["model", "list", "--data-dir", str(tmp_path)])

    assert isinstance(refused(result), NotReady)
    assert not isinstance(refused(result), OrderRefused)
