"""`serving approval`, `serving webhook` and `serving audit`, against a real control port."""

import json
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from serving.cli import app
from serving.errors import NotFound, OrderRefused, ParameterInvalid, SignatureInvalid
from tests.instances import Instance

VERSION = "census-employment@1"

Run = Callable[..., Result]


@pytest.fixture
def run(instance: Instance) -> Run:
    def invoke(*words: str, token: str = "") -> Result:
        command = [*words, "--config", str(instance.config)]
        return CliRunner().invoke(app, command, env={"SERVING_TOKEN": token})

    return invoke


def said(result: Result) -> Any:
    assert result.exit_code == 0, result.exception
    return json.loads(result.stdout)


def token(run: Run, subject: str, *roles: str) -> str:
    held = [word for role in roles for word in ("--role", role)]
    return run("token", "--subject", subject, *held).stdout.strip()


VERBS = (
    *("approval request", "approval list", "approval show", "approval approve"),
    *("approval reject", "approval withdraw", "approval comment", "approval override"),
    *("webhook add", "webhook list", "webhook remove", "webhook test"),
    *("audit verify", "audit list", "audit export"),
)


@pytest.mark.parametrize("verb", VERBS)
def test_help_teaches_by_example(verb: str) -> None:
    """Every verb shows commands that can be typed; all but an export answer programs."""
    result = CliRunner().invoke(app, [*verb.split(), "--help"])

    assert result.exit_code == 0
    assert "Examples:" in result.output
    assert f"serving {verb}" in result.output
    assert "--json" in result.output or verb == "audit export"


def test_request_goes_its_way_by_commands(run: Run) -> None:
    """Each as themselves: asked for, discussed, refused to its author, agreed to by another."""
    version = VERSION
    alice = token(run, "alice", "developer", "approver", "caller")
    grace = token(run, "grace", "approver")
    order = ("approval", "request", version, "--kind", "retire", "--reason", "old", "--json")
    asked = said(run(*order, token=alice))
    said(run("approval", "comment", asked["id"], "why now?", "--json", token=grace))
    own = run("approval", "approve", asked["id"], "--reason", "mine", token=alice)
    agreed = run("approval", "approve", asked["id"], "--reason", "yes", token=grace)
    shown = run("approval", "show", asked["id"]).stdout
    listed = run("approval", "list", "--state", "approved").stdout

    assert isinstance(own.exception, OrderRefused)
    assert "separation_of_duties" in str(own.exception)
    assert agreed.stdout == f"{asked['id']} retire {version}: approved\n"
    assert "grace retire approved: yes" in shown
    assert "grace: why now?" in shown
    assert asked["id"] in listed
    trail = run("audit", "list", "--object", f"version:{version}", "--limit", "500").stdout
    for name in ("request:opened", "approval:refused", "approval:given", "request:approved"):
        assert f"governance:{name}" in trail


def test_request_is_rejected_and_withdrawn_by_commands(run: Run) -> None:
    """With a reason each; what is no version is refused before anything is asked."""
    version = VERSION
    alice, grace = token(run, "alice", "developer"), token(run, "grace", "approver")
    order = ("approval", "request", version, "--kind", "retire", "--reason", "x", "--json")
    first = said(run(*order, token=alice))["id"]
    rejected = said(run("approval", "reject", first, "--reason", "no", "--json", token=grace))
    second = said(run(*order, token=alice))["id"]
    withdrawn = said(run("approval", "withdraw", second, "--reason", "x", "--json", token=alice))
    third = said(run(*order, token=alice))["id"]
    run("approval", "approve", third, "--reason", "yes", token=grace)
    back = ("approval", "withdraw", third, "--approval", "--reason", "no", "--json")
    taken = said(run(*back, token=grace))
    nonsense = run("approval", "request", "fraud", "--reason", "x")

    assert [each["state"] for each in (rejected, withdrawn)] == ["rejected", "withdrawn"]
    assert taken["id"] == third
    assert isinstance(nonsense.exception, ParameterInvalid)


def test_override_by_command_is_listed_as_one(run: Run) -> None:
    """By somebody with the role; the local operator has it."""
    version = VERSION

    given = said(run("approval", "override", version, "--reason", "incident", "--json"))

    assert (given["kind"], given["state"]) == ("override", "approved")


def test_webhooks_are_kept_by_commands(run: Run) -> None:
    """The secret alone goes to standard output; what must not be called is refused."""
    added = run("webhook", "add", "https://hooks.example.com/serving", "--event", "governance:*")
    (view,) = said(run("webhook", "list", "--json"))["webhooks"]
    tested = run("webhook", "test", view["id"])
    listed = run("webhook", "list").stdout
    removed = run("webhook", "remove", view["id"])
    refused = run("webhook", "add", "https://169.254.169.254/")

    assert added.stdout.startswith("whsec_")
    assert added.stdout.strip() not in listed
    assert tested.stdout.startswith("queued ")
    assert "hooks.example.com" in listed
    assert removed.stdout == f"removed {view['id']}\n"
    assert isinstance(refused.exception, OrderRefused)


def test_trail_is_verified_while_the_product_runs(
    run: Run, instance: Instance, tmp_path: Path
) -> None:
    """From the database, from an export, and from a copy that somebody changed."""
    run("key", "create", "--subject", "ci", "--role", "caller")
    seen = run("audit", "verify", "--json")
    assert seen.exit_code == 0, seen.stdout
    live = said(seen)
    file = tmp_path / "trail.jsonl"
    exported = run("audit", "export", str(file))
    keys = str(instance.data_dir / "keys" / "trusted-keys.json")
    offline = run("audit", "verify", "--file", str(file), "--trusted", keys)
    copy = tmp_path / "registry.sqlite"
    shutil.copy(instance.data_dir / "registry.sqlite", copy)
    with sqlite3.connect(copy) as opened:
        opened.execute("UPDATE audit_events SET actor = 'nobody' WHERE position = 3")
    opened.close()
    changed = run("audit", "verify", "--database", str(copy))

    assert live["intact"]
    assert exported.exit_code == 0
    assert offline.stdout.startswith("intact")
    assert changed.exit_code == 1
    assert "edited at event 3" in changed.stdout
    listed = said(run("audit", "list", "--name", "product:*", "--limit", "1", "--json"))
    assert listed["name"].startswith("product:")


def test_what_cannot_be_verified_says_so(run: Run, tmp_path: Path) -> None:
    """A file that is not there, and keys that are none."""
    gone = run("audit", "verify", "--file", str(tmp_path / "gone"))
    (tmp_path / "keys.json").write_text("{}")
    keys = run("audit", "verify", "--trusted", str(tmp_path / "keys.json"))

    assert isinstance(gone.exception, NotFound)
    assert isinstance(keys.exception, SignatureInvalid)
