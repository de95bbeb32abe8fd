"""`serving trust`: whose signatures count."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from typer.testing import CliRunner, Result

from serving.audit.spool import Spool, Spooled
from serving.cli import app
from serving.errors import SettingInvalid, SignatureInvalid
from serving.trust.installation import installation_key, read_trusted
from serving.trust.signatures import SigningKey

TYPE = "application/vnd.serving.test+json"
FUTURE_NS = 3_000_000_000_000_000_000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "data"


def run(folder: Path, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["trust", *arguments, "--data-dir", str(folder)])


def facts(folder: Path, *arguments: str) -> list[dict[str, Any]]:
    done = run(folder, *arguments, "--json")
    assert done.exit_code == 0, done.output
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def recorded(folder: Path) -> list[Spooled]:
    found: list[Spooled] = []
    Spool(folder / "audit").drain(found.extend)
    return found


def test_an_installation_trusts_itself(folder: Path) -> None:
    """In every role, as a table and as JSON."""
    (own,) = facts(folder, "list")

    assert own["name"] == "installation"
    assert run(folder, "list").stdout.splitlines()[1].split()[:2] == [own["key_id"], "trusted"]


@pytest.mark.parametrize("form", ["base64", "pem"])
def test_added_key_may_sign_what_it_was_added_for(folder: Path, tmp_path: Path, form: str) -> None:
    """At once, and nothing else; the act is in the audit trail with its reason."""
    made = Ed25519PrivateKey.generate()
    raw = made.public_key().public_bytes_raw()
    pem = made.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    (tmp_path / "ci.pem").write_bytes(pem)
    text = base64.b64encode(raw).decode() if form == "base64" else str(tmp_path / "ci.pem")

    (added,) = facts(
        folder, "add", "ci", "--public-key", text, "--role", "artifact", "--reason", "new"
    )

    envelope = SigningKey(made).sign(TYPE, b"x")
    keys = read_trusted(folder / "keys")
    keys.verify(envelope, payload_type=TYPE, role="artifact", at_ns=1)
    with pytest.raises(SignatureInvalid, match="may not sign"):
        keys.verify(envelope, payload_type=TYPE, role="approval", at_ns=1)
    (event,) = [each.event for each in recorded(folder)]
    assert (event.name, event.object, event.reason) == (
        "trust:key:added",
        f"key:{added['key_id']}",
        "new",
    )
    assert event.actor.startswith("local:")


def test_revoked_key_counts_no_more(folder: Path) -> None:
    """It stays in the list, so that everybody sees when it ended."""
    key = installation_key(folder / "keys")
    (ended,) = facts(folder, "revoke", key.key_id, "--reason", "stolen")

    assert ended["revoked_at_ns"] > 0
    assert "revoked" in run(folder, "list").stdout
    with pytest.raises(SignatureInvalid, match="revoked"):
        read_trusted(folder / "keys").verify(
            key.sign(TYPE, b"x"), payload_type=TYPE, role="log", at_ns=1
        )
    assert [each.event.name for each in recorded(folder)] == ["trust:key:revoked"]


@pytest.mark.parametrize("overlap", [(), ("--overlap", "90d")], ids=["for ever", "for a time"])
def test_rotation_keeps_what_was_signed(folder: Path, overlap: tuple[str, ...]) -> None:
    """The new key signs; the old one's signatures count on, for ever or for a time."""
    old = installation_key(folder / "keys")
    (added,) = facts(folder, "rotate", *overlap)
    new = installation_key(folder / "keys")

    keys = read_trusted(folder / "keys")
    assert new.key_id == added["key_id"] != old.key_id
    for key in (old, new):
        envelope = key.sign(TYPE, b"x")
        keys.verify(envelope, payload_type=TYPE, role="artifact", at_ns=added["not_before_ns"] + 1)
    later = {"payload_type": TYPE, "role": "artifact", "at_ns": FUTURE_NS}
    if overlap:
        with pytest.raises(SignatureInvalid, match="expired"):
            keys.verify(old.sign(TYPE, b"x"), **later)  # type: ignore[arg-type]  # by name
    else:
        keys.verify(old.sign(TYPE, b"x"), **later)  # type: ignore[arg-type]  # by name


def test_what_makes_no_sense_is_refused(folder: Path) -> None:
    """A key twice, a role that there is not, a key that there is not."""
    text = installation_key(folder / "keys").public.text
    for arguments in (
        ("add", "again", "--public-key", text, "--role", "log"),
        ("add", "x", "--public-key", SigningKey.create().public.text, "--role", "king"),
        ("revoke", "0000"),
    ):
        assert isinstance(run(folder, *arguments).exception, SettingInvalid)
    assert len(read_trusted(folder / "keys").keys) == 1


@pytest.mark.parametrize("verb", ["list", "add", "revoke", "rotate"])
def test_help_teaches_by_example(verb: str) -> None:
    """Every verb shows commands that can be typed."""
    done = CliRunner().invoke(app, ["trust", verb, "--help"])

    assert f"serving trust {verb}" in done.output
