"""OpenSSF model signatures: theirs verified by ours, ours by theirs, and what neither may accept."""

import base64
import warnings
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from serving.artifacts.bundles import sha256
from serving.artifacts.modelsigning import PAYLOAD_TYPE, sign_files, signed_files, verify_folder
from serving.errors import ArtifactInvalid, SignatureInvalid, StartFailed
from serving.trust.bundlekeys import BundleKey, BundleVerifier

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of its dependencies, at import
    from model_signing import signing, verifying

FILES = {"model.onnx": b"a graph", "weights/one.bin": b"numbers", "weights/two.bin": b"more"}
DIGESTS = {path: sha256(content) for path, content in FILES.items()}


@pytest.fixture
def key(tmp_path: Path) -> BundleKey:
    return BundleKey(tmp_path / "keys")


@pytest.fixture
def public(tmp_path: Path, key: BundleKey) -> Path:
    path = tmp_path / "public.pem"
    path.write_bytes(key.verifier.pem)
    return path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    for path, content in FILES.items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    return folder


@pytest.fixture
def signature(model: Path, key: BundleKey) -> Path:
    path = model / "model.sig"
    path.write_bytes(sign_files("model", DIGESTS, key))
    return path


def their_key(folder: Path) -> tuple[Path, Path]:
    """A key pair on P-384, as they make them."""
    made = ec.generate_private_key(ec.SECP384R1())
    private, public = folder / "their.key", folder / "their.pem"
    private.write_bytes(
        made.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    public.write_bytes(
        made.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    return private, public


def their_check(public: Path, model: Path, signature: Path) -> None:
    """Raises ValueError when it does not hold."""
    configuration = verifying.Config()  # type: ignore[no-untyped-call]  # theirs
    configuration.use_elliptic_key_verifier(public_key=public).verify(model, signature)


def test_our_signature_is_verified_by_theirs(model: Path, signature: Path, public: Path) -> None:
    """And refused by theirs once a file was changed."""
    their_check(public, model, signature)

    (model / "model.onnx").write_bytes(b"another graph")
    with pytest.raises(ValueError, match="Hash mismatch"):
        their_check(public, model, signature)


def test_their_signature_is_verified_by_ours(model: Path, tmp_path: Path) -> None:
    """Made with another curve, and with the statement in their own form of JSON."""
    private, public = their_key(tmp_path)
    signature = tmp_path / "model.sig"
    configuration = signing.Config()  # type: ignore[no-untyped-call]  # theirs
    configuration.use_elliptic_key_signer(private_key=private).sign(model, signature)

    found = verify_folder(model, signature, BundleVerifier(public.read_bytes()))

    assert found == DIGESTS


def test_folder_as_it_was_signed_passes(model: Path, signature: Path, key: BundleKey) -> None:
    """The signature itself lies in it and is no part of it."""
    assert verify_folder(model, signature, key.verifier) == DIGESTS


@pytest.mark.parametrize(
    ("path", "content", "reason"),
    [
        ("model.onnx", b"other", "not as it was signed"),
        ("weights/one.bin", None, "is missing"),
        ("weights/three.bin", b"added", "was not signed"),
        (".gitignore", b"added", "was not signed"),
    ],
    ids=["changed", "removed", "added", "hidden"],
)
def test_ar_19_folder_that_differs_is_refused(
    signature: Path, key: BundleKey, *, path: str, content: bytes | None, reason: str
) -> None:
    """Changed, removed or added; also where other tools would look away."""
    model = signature.parent
    if content is None:
        (model / path).unlink()
    else:
        (model / path).write_bytes(content)

    with pytest.raises(SignatureInvalid, match=reason):
        verify_folder(model, signature, key.verifier)


def test_ar_19_links_are_refused(model: Path, signature: Path, key: BundleKey) -> None:
    """Also one that leads to the right content, and one that leads in a circle."""
    (model / "weights" / "circle").symlink_to(model)

    with pytest.raises(ArtifactInvalid, match="no ordinary file"):
        verify_folder(model, signature, key.verifier)


@pytest.mark.parametrize("paths", [["../x"], ["a", "A"], []], ids=["outside", "case", "none"])
def test_ar_20_statement_with_bad_paths_is_refused(paths: list[str], key: BundleKey) -> None:
    """However well it is signed."""
    content = sign_files("model", dict.fromkeys(paths, sha256(b"")), key)

    with pytest.raises(SignatureInvalid, match="is refused"):
        signed_files(content, key.verifier)


def resigned(key: BundleKey, **changes: object) -> bytes:
    """A statement with members changed, signed again."""
    bundle = msgspec.json.decode(sign_files("model", DIGESTS, key))
    statement = msgspec.json.decode(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
    return key.bundle(msgspec.json.encode(statement | changes), payload_type=PAYLOAD_TYPE)


STATEMENTS: dict[str, dict[str, object]] = {
    "type": {"_type": "https://in-toto.io/Statement/v0"},
    "predicate": {"predicateType": "https://model_signing/Digests/v0.1"},
    "subject": {"subject": [{"name": "m", "digest": {"sha256": "0" * 64}}]},
    "no subject": {"subject": []},
    "no list": {"predicate": {}},
}


@pytest.mark.parametrize("changes", STATEMENTS.values(), ids=list(STATEMENTS))
def test_ar_18_statement_that_is_another_is_refused(
    changes: dict[str, object], key: BundleKey
) -> None:
    """Of another kind, about another digest, or none."""
    with pytest.raises(SignatureInvalid):
        signed_files(resigned(key, **changes), key.verifier)


def test_ar_17_every_changed_byte_of_a_signature_is_refused(key: BundleKey) -> None:
    """Unless it means the same: spare bits of base64, the name of a member that nobody reads."""
    whole = bytearray(sign_files("model", {"model.onnx": sha256(b"")}, key))
    for at in range(0, len(whole), 3):
        whole[at] ^= 1
        try:
            found = signed_files(bytes(whole), key.verifier)
        except SignatureInvalid:
            found = {}
        assert found in ({}, {"model.onnx": sha256(b"")})
        whole[at] ^= 1


def test_ar_21_signature_of_another_key_is_refused(key: BundleKey, tmp_path: Path) -> None:
    """With its own hint, with the expected one's, and without any signature."""
    other = BundleKey(tmp_path / "other")
    content = sign_files("model", DIGESTS, other)

    with pytest.raises(SignatureInvalid, match="another key"):
        signed_files(content, key.verifier)
    posing = content.replace(other.verifier.hint.encode(), key.verifier.hint.encode())
    with pytest.raises(SignatureInvalid, match="does not fit"):
        signed_files(posing, key.verifier)
    bundle = msgspec.json.decode(sign_files("model", DIGESTS, key))
    bundle["dsseEnvelope"]["signatures"] = []
    with pytest.raises(SignatureInvalid, match="has one signature"):
        signed_files(msgspec.json.encode(bundle), key.verifier)


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b"x" * (16 * 1024 * 1024 + 1)])
def test_what_is_no_bundle_is_refused(content: bytes, key: BundleKey) -> None:
    """With one kind of error."""
    with pytest.raises(SignatureInvalid):
        signed_files(content, key.verifier)


def test_keys_of_other_kinds_are_refused(tmp_path: Path) -> None:
    """For signing and for verifying."""
    (tmp_path / "bundle.p256").write_bytes(b"nothing")
    (tmp_path / "bundle.p256").chmod(0o600)

    with pytest.raises(StartFailed, match="private key in PEM"):
        BundleKey(tmp_path)
    with pytest.raises(SignatureInvalid, match="is PEM"):
        BundleVerifier(b"nothing")
    koblitz = ec.generate_private_key(ec.SECP256K1()).public_key()
    pem = koblitz.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    with pytest.raises(SignatureInvalid, match="P-256"):
        BundleVerifier(pem)
