"""OpenSSF model signatures (v1.0): signed lists of a model's files that other tools verify, and theirs.

A signature is an in-toto statement in a Sigstore bundle, in a file of its own beside the model, usually
`model.sig`. It says which file has which SHA-256, and one digest over all of them in order.

A folder is verified against every file in it: one that is not listed is refused as one that is
missing is. What a signature says about files to leave out is never followed, nor are symbolic links:
both would let somebody put files beside those that were signed.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from serving.artifacts.paths import check_paths
from serving.errors import ArtifactInvalid, SignatureInvalid
from serving.trust.bundlekeys import BundleKey, BundleVerifier

SIGNATURE_NAME: Final = "model.sig"
PAYLOAD_TYPE: Final = "application/vnd.in-toto+json"
STATEMENT_TYPE: Final = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE: Final = "https://model_signing/signature/v1.0"
ALGORITHM: Final = "sha256"


class _Subject(msgspec.Struct, frozen=True):
    name: str
    digest: dict[str, str]


class _Resource(msgspec.Struct, frozen=True):
    name: str
    algorithm: str
    digest: str


class _Serialization(msgspec.Struct, frozen=True):
    method: str
    hash_type: str
    allow_symlinks: bool
    ignore_paths: tuple[str, ...] = ()


class _Predicate(msgspec.Struct, frozen=True):
    resources: tuple[_Resource, ...]
    serialization: _Serialization


class _Statement(
    msgspec.Struct, frozen=True, rename={"kind": "_type", "predicate_type": "predicateType"}
):
    kind: str
    subject: tuple[_Subject, ...]
    predicate_type: str
    predicate: _Predicate


def sign_files(name: str, digests: Mapping[str, str], key: BundleKey) -> bytes:
    """The content of a `model.sig`. digests: SHA-256 by path; name: of the model."""
    resources = tuple(_Resource(path, ALGORITHM, digests[path]) for path in sorted(digests))
    statement = _Statement(
        STATEMENT_TYPE,
        (_Subject(name, {ALGORITHM: _root(resources)}),),
        PREDICATE_TYPE,
        _Predicate(
            resources,
            _Serialization(
                "files", ALGORITHM, allow_symlinks=False, ignore_paths=(SIGNATURE_NAME,)
            ),
        ),
    )
    return key.bundle(msgspec.json.encode(statement), payload_type=PAYLOAD_TYPE)


def signed_files(content: bytes, verifier: BundleVerifier) -> dict[str, str]:
    """SHA-256 by path, as the owner of the key signed it. Raises SignatureInvalid."""
    payload = verifier.payload(content, payload_type=PAYLOAD_TYPE)
    try:
        statement = msgspec.json.decode(payload, type=_Statement)
        resources = statement.predicate.resources
        check_paths(each.name for each in resources)
        root = _root(resources)
    except (ValueError, UnicodeDecodeError) as error:
        raise SignatureInvalid(f"the signed statement is refused: {error}") from error
    serialization = statement.predicate.serialization
    if (statement.kind, statement.predicate_type) != (STATEMENT_TYPE, PREDICATE_TYPE):
        raise SignatureInvalid("the signed statement is of another kind")
    if (serialization.method, serialization.hash_type) != ("files", ALGORITHM) or any(
        each.algorithm != ALGORITHM for each in resources
    ):
        raise SignatureInvalid("only signatures over whole files by SHA-256 are verified")
    if [each.digest.get(ALGORITHM) for each in statement.subject] != [root]:
        raise SignatureInvalid("the signed statement contradicts itself")
    return {each.name: each.digest for each in resources}


def verify_folder(folder: Path, signature: Path, verifier: BundleVerifier) -> dict[str, str]:
    """The files of a folder, SHA-256 by path, when they are exactly those that were signed.

    Raises SignatureInvalid, ArtifactInvalid.
    """
    try:
        signed = signed_files(signature.read_bytes(), verifier)
        found = _hashed(folder, leave_out=signature.resolve())
    except OSError as error:
        raise ArtifactInvalid(f"{folder} cannot be read: {error}") from error
    for path in sorted(signed.keys() | found.keys()):
        if signed.get(path) != found.get(path):
            what = "was signed and is missing" if path not in found else "is not as it was signed"
            what = "is there and was not signed" if path not in signed else what
            raise SignatureInvalid(f"{path!r} {what}")
    return found


def _hashed(folder: Path, *, leave_out: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for path in folder.rglob("*"):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise ArtifactInvalid(f"{path} is no ordinary file")
        if path.is_file() and path.resolve() != leave_out:
            with path.open("rb") as content:
                digest = hashlib.file_digest(content, ALGORITHM).hexdigest()
            found[path.relative_to(folder).as_posix()] = digest
    return found


def _root(resources: tuple[_Resource, ...]) -> str:
    """The digest over all digests, in order. Raises ValueError."""
    hasher: Any = hashlib.sha256()
    for each in resources:
        hasher.update(bytes.fromhex(each.digest))
    return str(hasher.hexdigest())
