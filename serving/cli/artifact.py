"""`serving artifact`: sealed artifacts, their keys, and signatures for other tools."""

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from serving.access.operators import operator_name
from serving.app.directory import DataDirectory
from serving.artifacts.exporting import export_bundle
from serving.artifacts.locations import open_artifacts, open_keys
from serving.artifacts.manifest import MANIFEST_TYPE, Manifest
from serving.artifacts.modelsigning import SIGNATURE_NAME, verify_folder
from serving.artifacts.release import read_release, release_file
from serving.artifacts.store import ArtifactStore
from serving.audit.events import Event, EventName
from serving.audit.spool import Spool
from serving.cli.groups import Answers, AtDirectory, grouped
from serving.cli.output import complain
from serving.core.actors import Actor
from serving.core.clock import SystemClock
from serving.errors import ArtifactInvalid, ReleaseRefused, SettingInvalid, SignatureInvalid
from serving.settings import Settings
from serving.trust.bundlekeys import BundleKey, BundleVerifier
from serving.trust.installation import read_trusted
from serving.trust.keystores import LocalKeyStore

app = typer.Typer(
    help="Sealed artifacts: the keys they are sealed with, and signatures for other tools.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
PUBLIC_NAME = "bundle-key.pem"


class Rotated(msgspec.Struct, frozen=True):
    """What a rotation did. forgotten: older wrapping keys that are destroyed now."""

    key_id: str
    artifacts: int
    rewrapped: int
    forgotten: tuple[str, ...]


class Exported(msgspec.Struct, frozen=True):
    folder: str
    signature: str
    public_key: str
    files: dict[str, str]


@app.command("rotate-key")
@grouped
def rotate_key(
    *,
    forget_old: Annotated[
        bool, typer.Option(help="Destroy the older wrapping keys once nothing needs them.")
    ] = False,
    at: AtDirectory,
) -> None:
    """Make a new wrapping key and wrap the data key of every artifact with it.

    Artifacts stay as they are, and whatever runs goes on. Stopped in between, each opens with the old
    or the new key; run it again to finish. With a key-management service (`artifacts.key_command`) the
    service makes the key, and is the one to destroy old ones.

    \b
    Examples:
      serving artifact rotate-key
      serving artifact rotate-key --forget-old
    """
    settings = at.settings()
    directory = DataDirectory.at(settings.data_dir)
    store, keys = _store(settings, directory), open_keys(settings.artifacts, directory.keys)
    if forget_old and not isinstance(keys, LocalKeyStore):
        raise SettingInvalid("--forget-old is for the key file; ask your key-management service")
    key_id = keys.rotate()
    digests = store.digests()
    rewrapped = sum(store.rewrap(digest, key_id) for digest in digests)
    forgotten = keys.forget(key_id) if forget_old and isinstance(keys, LocalKeyStore) else ()
    done = Rotated(key_id, len(digests), rewrapped, forgotten)
    _record(directory, EventName.ARTIFACT_KEY_ROTATED, f"key:{key_id}", done)
    at.tell(done, lambda: _rotated(done))


@app.command("export-bundle")
@grouped
def export(
    version: Annotated[str, typer.Argument(help="MODEL@VERSION, as it was released.")],
    *,
    to: Annotated[Path, typer.Option(help="A folder that does not exist yet.")],
    at: AtDirectory,
) -> None:
    """Write a released version into a folder, readable, with an OpenSSF model signature.

    Anybody with the public key can verify it, with this command or another tool:

    \b
    Examples:
      serving artifact export-bundle census-employment@1 --to census
      serving artifact verify-bundle census --public-key .serving/keys/bundle-key.pem
      model_signing verify key census --signature census/model.sig --public-key bundle-key.pem
    """
    settings = at.settings()
    directory = DataDirectory.at(settings.data_dir)
    manifest = _manifest(directory, version)
    key = BundleKey(directory.keys)
    _record(directory, EventName.ARTIFACT_EXPORTED, f"version:{version}", {"folder": str(to)})
    signature = export_bundle(manifest, _store(settings, directory), key, to)
    public = directory.keys / PUBLIC_NAME
    public.write_bytes(key.verifier.pem)
    done = Exported(str(to), str(signature), str(public), manifest.digests)
    at.tell(
        done, lambda: f"{len(manifest.files)} files of {version} in {to}, signed in {signature}"
    )
    if not at.json:
        complain(f"whoever verifies it needs {public}")


@app.command("verify-bundle")
@grouped
def verify(
    folder: Annotated[Path, typer.Argument(help="A folder with the files of a model.")],
    *,
    public_key: Annotated[Path, typer.Option(help="PEM file of the key that signed it.")],
    signature: Annotated[
        Path | None, typer.Option(help=f"The signature. Default: {SIGNATURE_NAME} in the folder.")
    ] = None,
    answers: Answers,
) -> None:
    """Verify a folder against its OpenSSF model signature: every file, and no other.

    Signatures by keys on P-256, P-384 and P-521 are verified, as `model_signing sign key` makes them.

    \b
    Examples:
      serving artifact verify-bundle census --public-key bundle-key.pem
    """
    try:
        pem = public_key.read_bytes()
    except OSError as error:
        raise SettingInvalid(f"--public-key {public_key}: {error.strerror}") from error
    found = verify_folder(folder, signature or folder / SIGNATURE_NAME, BundleVerifier(pem))
    answers.tell({"verified": found}, lambda: f"{len(found)} files are as they were signed")


def _rotated(done: Rotated) -> str:
    text = (
        f"wrapping key {done.key_id}: {done.rewrapped} of {done.artifacts} artifacts wrapped anew"
    )
    return f"{text}\ndestroyed: {', '.join(done.forgotten)}" if done.forgotten else text


def _store(settings: Settings, directory: DataDirectory) -> ArtifactStore:
    return open_artifacts(
        settings, folder=directory.artifacts, keys_dir=directory.keys, clock=SystemClock()
    )


def _manifest(directory: DataDirectory, version: str) -> Manifest:
    """The signed manifest of a release, whether or not it may serve now."""
    model, _, name = version.partition("@")
    if not model or not name or "/" in version:
        raise SettingInvalid(f"{version!r} is not written as MODEL@VERSION")
    try:
        release = read_release(release_file(directory.releases, model, name))
        signed = read_trusted(directory.keys).verify(
            release.manifest,
            payload_type=MANIFEST_TYPE,
            role="artifact",
            at_ns=SystemClock.wall_ns(),
        )
    except (SignatureInvalid, OSError) as error:
        raise ReleaseRefused(f"the release of {version} is refused: {error}") from error
    manifest = Manifest.decode(signed.payload)
    if (manifest.model, manifest.version) != (model, name):
        raise ArtifactInvalid(f"the release of {version} is about another version")
    return manifest


def _record(directory: DataDirectory, name: EventName, object_: str, after: object) -> None:
    actor = Actor(subject=operator_name(), source="cli")
    event = Event.by(actor, name, object_, after=msgspec.to_builtins(after))
    Spool(directory.audit).add(event, at_ns=SystemClock.wall_ns())
