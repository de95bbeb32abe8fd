"""DSSE envelopes and whose signatures count."""

import base64
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from serving.errors import SignatureInvalid, StartFailed
from serving.trust.signatures import (
    ROLES,
    Envelope,
    PublicKey,
    Signature,
    SigningKey,
    TrustedKey,
    TrustedKeys,
    pre_authentication,
)

TYPE = "application/vnd.serving.test+json"
NOW_NS = 1_700_000_000_000_000_000
KEY = SigningKey.create()
OTHER = SigningKey.create()


def trusted(key: SigningKey = KEY, **fields: Any) -> TrustedKey:
    return TrustedKey(key.key_id, key.public.text, "ours", **{"roles": ROLES, **fields})


def verify(envelope: Envelope, *keys: TrustedKey, payload_type: str = TYPE) -> bytes:
    found = TrustedKeys(keys or (trusted(),)).verify(
        envelope, payload_type=payload_type, role="artifact", at_ns=NOW_NS
    )
    return found.payload


def test_what_was_signed_comes_back() -> None:
    """Through the JSON form, as a value that names the key."""
    envelope = Envelope.decode(KEY.sign(TYPE, b"payload").encode())
    found = TrustedKeys([trusted()]).verify(
        envelope, payload_type=TYPE, role="artifact", at_ns=NOW_NS
    )

    assert (found.payload, found.payload_type, found.key_ids) == (b"payload", TYPE, (KEY.key_id,))


def test_encoding_is_that_of_dsse() -> None:
    """The protocol's own example, and Ed25519 over it."""
    encoded = pre_authentication("http://example.com/HelloWorld", b"hello world")
    envelope = KEY.sign(TYPE, b"x")

    assert encoded == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    assert KEY.public.signed(pre_authentication(TYPE, b"x"), envelope.signatures[0].sig)
    assert {"payload", "payloadType", "signatures"} == set(msgspec.json.decode(envelope.encode()))


def damaged(envelope: Envelope) -> list[Envelope]:
    """Each bit of payload and signature flipped, one at a time."""
    found = []
    for at in range(len(envelope.payload)):
        payload = bytearray(envelope.payload)
        payload[at] ^= 1
        found.append(msgspec.structs.replace(envelope, payload=bytes(payload)))
    (only,) = envelope.signatures
    for at in range(len(only.sig)):
        signature = bytearray(only.sig)
        signature[at] ^= 1
        changed = Signature(only.keyid, bytes(signature))
        found.append(msgspec.structs.replace(envelope, signatures=(changed,)))
    return found


def test_ar_17_one_changed_byte_is_refused() -> None:
    """In what was signed and in the signature."""
    for envelope in damaged(KEY.sign(TYPE, b"payload")):
        with pytest.raises(SignatureInvalid, match="does not fit"):
            verify(envelope)


REFUSED = {
    "unknown": ((trusted(OTHER),), "unknown"),
    "revoked": ((trusted(revoked_at_ns=NOW_NS + 1),), "revoked"),
    "expired": ((trusted(not_after_ns=NOW_NS),), "expired"),
    "not yet valid": ((trusted(not_before_ns=NOW_NS + 1),), "not yet valid"),
    "wrong role": ((trusted(roles=("log", "audit")),), "may not sign for artifact"),
}


@pytest.mark.parametrize(("keys", "reason"), REFUSED.values(), ids=list(REFUSED))
def test_ar_21_signer_that_does_not_count_is_refused(
    keys: tuple[TrustedKey, ...], reason: str
) -> None:
    """Revoked, expired, unknown, in a wrong role: each with its reason."""
    with pytest.raises(SignatureInvalid, match=reason):
        verify(KEY.sign(TYPE, b"x"), *keys)


def test_ar_21_stripped_signature_is_refused() -> None:
    """No signature is no signature, however trusted the keys."""
    with pytest.raises(SignatureInvalid, match="not signed"):
        verify(Envelope(b"x", TYPE, ()))


def test_signature_of_another_kind_is_refused() -> None:
    """An approval does not pass for a manifest, nor does a key's name make it its own."""
    with pytest.raises(SignatureInvalid, match="signed as"):
        verify(KEY.sign("application/other", b"x"))
    forged = OTHER.sign(TYPE, b"x").signatures[0]
    with pytest.raises(SignatureInvalid, match="does not fit"):
        verify(Envelope(b"x", TYPE, (Signature(KEY.key_id, forged.sig),)))


def test_one_trusted_signature_among_others_is_enough() -> None:
    """Others are passed over, and only those that hold are named."""
    mine, theirs = KEY.sign(TYPE, b"x"), OTHER.sign(TYPE, b"x")
    both = Envelope(b"x", TYPE, (*theirs.signatures, *mine.signatures))

    assert verify(both) == b"x"
    with pytest.raises(SignatureInvalid, match="more than"):
        verify(Envelope(b"x", TYPE, both.signatures * 9))


def test_bare_signatures_are_no_envelopes() -> None:
    """A seal or a note is checked like an envelope, and never signs what an envelope signs."""
    keys = TrustedKeys([trusted()])
    signature = KEY.sign_bytes(b"seal 1")

    found = keys.verify_bytes(b"seal 1", signature, key_id=KEY.key_id, role="log", at_ns=NOW_NS)
    assert found.payload == b"seal 1"
    with pytest.raises(SignatureInvalid):
        keys.verify_bytes(b"seal 2", signature, key_id=KEY.key_id, role="log", at_ns=NOW_NS)
    with pytest.raises(ValueError, match="bug"):
        KEY.sign_bytes(pre_authentication(TYPE, b"x"))


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[]", b'{"payload":"?","payloadType":"x","signatures":[]}', b"\xff"]
)
def test_what_is_no_envelope_is_refused(content: bytes) -> None:
    """With one kind of error, whatever it is."""
    with pytest.raises(SignatureInvalid):
        Envelope.decode(content)


def test_keys_are_listed_under_their_own_id_once() -> None:
    """A list that says otherwise is refused as a whole."""
    for keys in ([trusted(), trusted()], [msgspec.structs.replace(trusted(), key_id="0" * 16)]):
        with pytest.raises(SignatureInvalid, match="listed wrongly"):
            TrustedKeys(keys)


def test_public_keys_are_read_from_base64_and_pem(tmp_path: Path) -> None:
    """What `serving trust list` shows, and what other tools make."""
    assert PublicKey.from_text(KEY.public.text).key_id == KEY.key_id
    for text in ("", "AAAA", "-----BEGIN nothing", base64.b64encode(b"x" * 31).decode()):
        with pytest.raises(SignatureInvalid):
            PublicKey.from_text(text)


def test_private_key_is_read_from_a_private_file_only(tmp_path: Path) -> None:
    """Its own file, mode 0600; the same key comes back, and its text is not in its `repr`."""
    path = tmp_path / "key"
    path.write_bytes(KEY.pem())
    path.chmod(0o600)

    assert SigningKey.load(path).key_id == KEY.key_id
    assert KEY.pem().splitlines()[1].decode() not in repr(vars(KEY))
    path.chmod(0o644)
    with pytest.raises(StartFailed, match="mode 0644"):
        SigningKey.load(path)
    with pytest.raises(StartFailed, match="cannot read"):
        SigningKey.load(tmp_path / "absent")


def test_key_id_is_the_hash_of_the_public_key() -> None:
    """So nobody chooses it."""
    raw = Ed25519PrivateKey.generate().public_key().public_bytes_raw()

    assert len(PublicKey(raw).key_id) == 16
    assert PublicKey(raw).key_id != KEY.key_id
