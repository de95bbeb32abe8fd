"""`serving artifact`: keys of sealed artifacts, and signatures for other tools."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from serving.artifacts.bundles import Bundle, sha256
from serving.audit.spool import Spool, Spooled
from serving.cli import app
from serving.errors import ArtifactInvalid, ReleaseRefused, SettingInvalid, SignatureInvalid
from serving.trust.installation import edit_trusted
from tests.inference import graphs
from tests.releases import Vault

CONTENT = graphs.doubling()
VERSION = graphs.version_of(CONTENT)


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    """A data directory that holds the release of one version."""
    vault = Vault(tmp_path / "data")
    vault.release(VERSION, CONTENT)
    return vault


def run(vault: Vault, *arguments: str) -> Result:
    folder = str(vault.keys.parent)
    return CliRunner().invoke(app, ["artifact", *arguments, "--data-dir", folder])


def facts(vault: Vault, *arguments: str) -> dict[str, Any]:
    done = run(vault, *arguments, "--json")
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def events(vault: Vault) -> list[str]:
    found: list[Spooled] = []
    Spool(vault.keys.parent / "audit").drain(found.extend)
    return [each.event.name for each in found]


def test_cr_04_rotation_wraps_every_artifact_anew(vault: Vault) -> None:
    """All open; with --forget-old the old keys are gone; both are in the audit trail."""
    vault.store.put((b"another",))
    first = facts(vault, "rotate-key")
    second = facts(vault, "rotate-key", "--forget-old")

    assert (first["artifacts"], first["rewrapped"], first["forgotten"]) == (2, 2, [])
    assert first["key_id"] in second["forgotten"]
    assert vault.store.open(VERSION.digest) == CONTENT
    assert vault.store.open(sha256(b"another")) == b"another"
    assert events(vault) == ["artifacts:key:rotated"] * 2


def test_exported_bundle_verifies(vault: Vault, tmp_path: Path) -> None:
    """The files in the open, signed for other tools; changed, it does not verify."""
    folder = tmp_path / "out"
    done = facts(vault, "export-bundle", "model@1", "--to", str(folder))
    checked = ["artifact", "verify-bundle", str(folder), "--public-key", done["public_key"]]

    assert (folder / "model.onnx").read_bytes() == CONTENT
    assert "1 files are as they were signed" in CliRunner().invoke(app, checked).stdout
    assert events(vault) == ["artifacts:artifact:exported"]
    (folder / "model.onnx").write_bytes(b"other")
    assert isinstance(CliRunner().invoke(app, checked).exception, SignatureInvalid)


def test_export_refuses_what_does_not_hold(vault: Vault, tmp_path: Path) -> None:
    """An untrusted release, a version that there is not, a folder that is there already."""
    (tmp_path / "there").mkdir()
    to = ("--to", str(tmp_path / "out"))

    for arguments, kind in (
        (("model@2", *to), ReleaseRefused),
        (("model", *to), SettingInvalid),
        (("../x@1", *to), SettingInvalid),
        (("model@1", "--to", str(tmp_path / "there")), ArtifactInvalid),
    ):
        assert isinstance(run(vault, "export-bundle", *arguments).exception, kind)
    edit_trusted(vault.keys, lambda _: ())
    assert isinstance(run(vault, "export-bundle", "model@1", *to).exception, ReleaseRefused)
    assert not (tmp_path / "out").exists()


def test_artifact_with_a_signature_of_its_own_is_not_exported(vault: Vault, tmp_path: Path) -> None:
    """Ours would take its place."""
    bundle = Bundle("model.onnx", {"model.onnx": CONTENT, "model.sig": b"{}"})
    vault.release(graphs.version_of(b""), bundle)

    done = run(vault, "export-bundle", "model@1", "--to", str(tmp_path / "out"))

    assert isinstance(done.exception, ArtifactInvalid)


@pytest.mark.parametrize("verb", ["rotate-key", "export-bundle", "verify-bundle"])
def test_help_teaches_by_example(verb: str) -> None:
    """Every verb shows commands that can be typed."""
    done = CliRunner().invoke(app, ["artifact", verb, "--help"])

    assert f"serving artifact {verb}" in done.output
