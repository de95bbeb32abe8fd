"""Checkpoints: what the trail was at some moment, in a few lines that anybody can keep and check.

A checkpoint is a C2SP signed note (tlog-checkpoint): origin with the log's id, number of events, root
of their RFC 9162 tree in base64, our own line with the time, an empty line, one signature line for
each key.

    serving.audit/5f1c0a77d2e94b31
    1204
    1ZSkcSYZ4h8bGPx7m5LAt3dC2B8sO3tb0FRmGmbQkOA=
    time 1700000000000000000

    — serving/0a1b2c3d4e5f6071 base64(first 4 bytes of the key's hash, then the Ed25519 signature)

The name of a key holds its id in the file of trusted keys, which says whether it counts for role
`audit` at the time that the checkpoint gives.
"""

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from serving.errors import SignatureInvalid
from serving.trust.signatures import PublicKey, SigningKey, TrustedKeys

ORIGIN: Final = "serving.audit/"
KEY_NAME: Final = "serving/"
MOST_SIGNATURES: Final = 16

_ED25519: Final = b"\x01"
_HASH_BYTES: Final = 4
_NOTE: Final = re.compile(
    r"^(serving\.audit/([0-9a-f]{1,64})\n(0|[1-9][0-9]{0,17})\n([A-Za-z0-9+/=]{44})\n"
    r"time ([1-9][0-9]{0,18})\n)\n((?:\u2014 [^\n]+\n)+)",
    re.MULTILINE,
)
_SIGNATURE: Final = re.compile(r"\u2014 serving/([0-9a-f]{16}) ([A-Za-z0-9+/=]{16,128})")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The first `size` events of a log had this root. at_ns: when it was written, wall time."""

    log_id: str
    size: int
    root: bytes
    at_ns: int


@dataclass(frozen=True, slots=True)
class Note:
    """A checkpoint as it was found: nothing of it is believed before `verified`."""

    claimed: Checkpoint
    text: str
    signatures: tuple[str, ...]

    def verified(self, trusted: TrustedKeys) -> Checkpoint:
        """The checkpoint, once a key that counts has signed it. Raises SignatureInvalid."""
        reasons = []
        for line in self.signatures[:MOST_SIGNATURES]:
            try:
                _verify(line, self.text, trusted, at_ns=self.claimed.at_ns)
            except SignatureInvalid as error:
                reasons.append(error.message)
            else:
                return self.claimed
        raise SignatureInvalid("; ".join(reasons))


def signed_note(checkpoint: Checkpoint, key: SigningKey) -> str:
    root = base64.b64encode(checkpoint.root).decode()
    text = f"{ORIGIN}{checkpoint.log_id}\n{checkpoint.size}\n{root}\ntime {checkpoint.at_ns}\n"
    signature = _key_hash(key.public) + key.sign_bytes(text.encode())
    encoded = base64.b64encode(signature).decode()
    return f"{text}\n\u2014 {KEY_NAME}{key.key_id} {encoded}\n"


def read_notes(text: str) -> Iterable[Note]:
    """Every whole note in `text`, in its order; what is between them is passed over."""
    for found in _NOTE.finditer(text):
        signed, log_id, size, root, at_ns, signatures = found.groups()
        try:
            digest = base64.b64decode(root, validate=True)
        except binascii.Error:
            continue
        claimed = Checkpoint(log_id, int(size), digest, int(at_ns))
        yield Note(claimed, signed, tuple(signatures.splitlines()))


def count_origins(text: str) -> int:
    """How many notes began in `text`, whole or not."""
    return sum(line.startswith(ORIGIN) for line in text.splitlines())


def _verify(line: str, text: str, trusted: TrustedKeys, *, at_ns: int) -> None:
    found = _SIGNATURE.fullmatch(line)
    if found is None:
        raise SignatureInvalid("a signature line that is none of ours")
    key_id, encoded = found.groups()
    try:
        signature = base64.b64decode(encoded, validate=True)
    except binascii.Error as error:
        raise SignatureInvalid("a signature that is not base64") from error
    for each in trusted.keys:
        public = PublicKey.from_text(each.public_key)
        if each.key_id == key_id and signature[:_HASH_BYTES] != _key_hash(public):
            raise SignatureInvalid(f"the signature names another key than {key_id}")
    trusted.verify_bytes(
        text.encode(), signature[_HASH_BYTES:], key_id=key_id, role="audit", at_ns=at_ns
    )


def _key_hash(key: PublicKey) -> bytes:
    named = f"{KEY_NAME}{key.key_id}\n".encode()
    return hashlib.sha256(named + _ED25519 + key.raw).digest()[:_HASH_BYTES]
