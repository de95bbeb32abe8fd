"""`serving key`, `serving access` and `serving token revoke`, against a real control port."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from serving.cli import app
from serving.errors import NotReady, OrderRefused, ParameterInvalid
from tests.instances import Instance

Run = Callable[..., Result]


@pytest.fixture
def run(instance: Instance) -> Run:
    def invoke(*words: str, standard_input: str | None = None) -> Result:
        command = [*words, "--config", str(instance.config)]
        return CliRunner().invoke(app, command, input=standard_input)

    return invoke


def said(result: Result) -> Any:
    assert result.exit_code == 0, result.exception
    return json.loads(result.stdout)


@pytest.mark.parametrize(
    "verb",
    [
        *("key create", "key list", "key revoke", "key rotate", "token revoke"),
        *("access explain", "access grant", "access deny", "access revoke", "access list"),
        *("access disable", "access enable"),
    ],
)
def test_help_teaches_by_example(verb: str) -> None:
    """Every verb shows commands that can be typed, and can answer programs."""
    result = CliRunner().invoke(app, [*verb.split(), "--help"])

    assert result.exit_code == 0
    assert "Examples:" in result.output
    assert f"serving {verb}" in result.output
    assert "--json" in result.output


def test_key_is_printed_alone_and_once(run: Run, instance: Instance) -> None:
    """Standard output is the key and nothing else; lists never show it again."""
    created = run("key", "create", "--subject", "ci", "--role", "caller", "--model", "fraud-*")
    secret = created.stdout.strip()
    listed = run("key", "list")
    (view,) = [key for key in said(run("key", "list", "--json")) if key["key"] in secret]

    assert re.fullmatch("svk_[0-9a-f]{12}_[0-9a-f]{64}", secret)
    assert "not shown again" in created.stderr
    assert (view["subject"], view["models"], view["state"]) == ("ci", ["fraud-*"], "active")
    assert view["owner"].startswith("local:")
    assert secret not in listed.stdout
    assert view["key"] in listed.stdout
    assert secret.encode() not in (instance.data_dir / "access.json").read_bytes()


def test_key_is_replaced_and_revoked(run: Run) -> None:
    """Rotation names the new key, and both verbs speak JSON."""
    old = said(run("key", "create", "--subject", "ci", "--role", "caller", "--json"))
    new = said(run("key", "rotate", old["key"], "--overlap", "10m", "--ttl", "1d", "--json"))
    revoked = said(run("key", "revoke", new["key"], "--json"))
    text = run("key", "revoke", old["key"]).stdout

    states = {key["key"]: key for key in said(run("key", "list", "--json"))}
    assert states[old["key"]]["successor"] == new["key"]
    assert revoked == {"revoked": new["key"]}
    assert text == f"revoked {old['key']}\n"
    assert {states[each["key"]]["state"] for each in (old, new)} == {"revoked"}


def test_grant_and_denial_are_explained_and_taken_back(run: Run) -> None:
    """What is asked before, during and after says which rule decides."""
    question = (
        "access",
        "explain",
        "--subject",
        "alice",
        "--action",
        "infer",
        "--model",
        "fraud-1",
    )
    before = run(*question).stdout
    grant = run("access", "grant", "--subject", "al*", "--role", "caller", "--model", "fraud-*")
    during = run(*question).stdout
    denial = said(run("access", "deny", "--subject", "alice", "--comment", "left", "--json"))
    after = said(run(*question, "--role", "operator", "--json"))
    listed = run("access", "list").stdout
    rules = said(run("access", "list", "--json"))["rules"]

    assert before.startswith("refused: no role of the credential")
    assert during.startswith(f"allowed: rule {grant.stdout.strip()} grants role caller")
    assert (after["allowed"], after["rule"]) == (False, denial["rule"])
    assert [each in listed for each in ("fraud-*", "everything", "left")] == [True] * 3
    for rule in rules:
        assert run("access", "revoke", rule["rule"]).exit_code == 0
    assert said(run("access", "list", "--json"))["rules"] == []


def test_subject_is_disabled_and_enabled(run: Run) -> None:
    """Somebody is turned away and let in again."""
    disabled = said(run("access", "disable", "bob/x", "--comment", "gone", "--json"))
    listed = said(run("access", "list", "--json"))["revocations"]
    enabled = run("access", "enable", "bob/x").stdout

    assert disabled == {"disabled": "bob/x"}
    assert [(each["kind"], each["value"], each["comment"]) for each in listed] == [
        ("subject", "bob/x", "gone")
    ]
    assert enabled == "enabled bob/x\n"


def test_token_is_revoked_by_its_id_and_never_named_as_an_argument(run: Run) -> None:
    """A whole token comes through standard input; others are named by id, subject, or everybody."""
    issued = said(run("token", "--subject", "bob", "--role", "caller", "--json"))
    revoked = said(run("token", "revoke", "-", "--json", standard_input=issued["token"] + "\n"))
    by_id = run("token", "revoke", "0f3c5a9e").stdout
    by_subject = said(run("token", "revoke", "--subject", "bob", "--json"))

    assert (revoked["kind"], revoked["value"]) == ("token", issued["token_id"])
    assert by_id == "revoked 0f3c5a9e\n"
    assert (by_subject["kind"], by_subject["since_s"] > 0) == ("issued_before", True)
    assert issued["token"] not in json.dumps(revoked)


@pytest.mark.parametrize(
    "words",
    [
        ("token",),
        ("token", "--subject", "a"),
        ("token", "revoke"),
        ("token", "revoke", "x", "--subject", "y"),
        ("token", "revoke", "-"),
    ],
)
def test_incomplete_order_is_refused_before_it_is_sent(run: Run, words: tuple[str, ...]) -> None:
    """The message says what is missing."""
    result = run(*words, standard_input="not a token\n")

    assert isinstance(result.exception, ParameterInvalid)


def test_refusal_of_the_control_port_is_told_with_its_code(run: Run) -> None:
    """What went wrong there, in one line here."""
    result = run("key", "revoke", "nothing")

    assert isinstance(result.exception, OrderRefused)
    assert result.exception.message.endswith("there is no such key (not_found)")


def test_without_an_instance_there_is_nobody_to_ask(tmp_path: Path) -> None:
    """The message says how to start one."""
    result = CliRunner().invoke(app, ["key", "list", "--data-dir", str(tmp_path)])

    assert isinstance(result.exception, NotReady)
    assert "serving up" in result.exception.message


def test_everybody_is_last(run: Run) -> None:
    """Everything that was issued until now ends, the next command has a credential of its own."""
    ended = said(run("token", "revoke", "--everybody", "--json"))

    assert (ended["kind"], ended["value"]) == ("issued_before", "*")
