"""Sealed objects: AES-256-GCM in framed chunks, streamed both ways, of any length.

    magic       8     b"SRVSEAL1"
    chunk       u32   plaintext bytes of every chunk but the last, big-endian
    salt        32    random
    commitment  32    of the key: derived beside the encryption key
    length      u16   of the object's name
    name        ...   UTF-8
    chunks            ciphertext and its tag of 16 bytes; the last one holds 0 to `chunk` bytes and
                      is empty only where the whole object is

HKDF-SHA256 makes the encryption key and the commitment from the data key, the salt and the name, so
every sealing has a key of its own and a nonce may count: nonce = 7 zero bytes, u32 number of the
chunk, u8 that is 1 on the last (STREAM: Hoang, Reyhanitabar, Rogaway and Vizár, 2015). The hash of the
header is authenticated with every chunk. Therefore a chunk that was changed, swapped, repeated, left
out or taken from another object does not open, nor does an edited header or a cut tail; and one
ciphertext never opens under two keys, which GCM alone would permit.

`open_stream` hands on no byte before its chunk is authenticated. Whoever uses what it gave before
it ended uses an object that may be cut: use it at the end, or call `unseal`.
"""

import hashlib
import hmac
import io
import secrets
import struct
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from serving.errors import CiphertextInvalid

KEY_BYTES: Final = 32
CHUNK_BYTES: Final = 1024 * 1024
TAG_BYTES: Final = 16
MAX_CHUNK_BYTES: Final = 64 * 1024 * 1024
MAX_NAME_BYTES: Final = 1024

_MAGIC: Final = b"SRVSEAL1"
_HEAD: Final = struct.Struct(">8sI32s32sH")
_NONCE: Final = struct.Struct(">7xIB")
_INFO: Final = b"serving sealed object 1\0"
_MAX_CHUNKS: Final = 2**32


class Header(NamedTuple):
    """What stands in front of the chunks. name: which object it is, as its opener must know."""

    chunk_bytes: int
    salt: bytes
    commitment: bytes
    name: str

    def encode(self) -> bytes:
        name = self.name.encode()
        head = _HEAD.pack(_MAGIC, self.chunk_bytes, self.salt, self.commitment, len(name))
        return head + name


def new_key() -> bytes:
    """A data key."""
    return secrets.token_bytes(KEY_BYTES)


def seal_stream(
    pieces: Iterable[bytes], *, key: bytes, name: str, chunk_bytes: int = CHUNK_BYTES
) -> Iterator[bytes]:
    """The sealed object, piece by piece; memory holds about two chunks of it."""
    if not 0 < chunk_bytes <= MAX_CHUNK_BYTES or len(name.encode()) > MAX_NAME_BYTES:
        raise ValueError(f"chunks of {chunk_bytes} bytes, or too long a name")
    salt = secrets.token_bytes(32)
    encryption_key, commitment = _derive(key, salt, name)
    header = Header(chunk_bytes, salt, commitment, name).encode()
    yield header
    cipher, bound = AESGCM(encryption_key), hashlib.sha256(header).digest()
    for number, chunk, last in _chunks(pieces, chunk_bytes):
        yield cipher.encrypt(_NONCE.pack(number, last), chunk, bound)


def open_stream(pieces: Iterable[bytes], *, key: bytes, name: str) -> Iterator[bytes]:
    """The plaintext, piece by piece. Raises CiphertextInvalid, also at the end of a cut object."""
    rest = iter(pieces)
    header, begun = read_header(rest)
    if header.name != name:
        raise CiphertextInvalid(f"it is sealed as {header.name!r}, not as {name!r}")
    encryption_key, commitment = _derive(key, header.salt, name)
    if not hmac.compare_digest(commitment, header.commitment):
        raise CiphertextInvalid(f"{name} was not sealed with this key")
    cipher, bound = AESGCM(encryption_key), hashlib.sha256(header.encode()).digest()
    for number, chunk, last in _chunks(_after(begun, rest), header.chunk_bytes + TAG_BYTES):
        try:
            yield cipher.decrypt(_NONCE.pack(number, last), chunk, bound)
        except InvalidTag as error:
            raise CiphertextInvalid(f"{name} is damaged at chunk {number}, or cut there") from error


def seal(plaintext: bytes, *, key: bytes, name: str) -> bytes:
    """A small object, sealed whole."""
    return b"".join(seal_stream((plaintext,), key=key, name=name))


def unseal(sealed: Iterable[bytes] | bytes, *, key: bytes, name: str) -> bytes:
    """The whole plaintext, or CiphertextInvalid and none of it."""
    pieces = (sealed,) if isinstance(sealed, bytes) else sealed
    plaintext = io.BytesIO()  # whose `getvalue` does not copy
    for piece in open_stream(pieces, key=key, name=name):
        plaintext.write(piece)
    return plaintext.getvalue()


def read_header(pieces: Iterator[bytes]) -> tuple[Header, bytes]:
    """The header, and what came after it in the pieces that were read. Raises CiphertextInvalid."""
    begun = _at_least(b"", pieces, _HEAD.size)
    magic, chunk_bytes, salt, commitment, length = _HEAD.unpack_from(begun)
    if magic != _MAGIC or not 0 < chunk_bytes <= MAX_CHUNK_BYTES or length > MAX_NAME_BYTES:
        raise CiphertextInvalid("no sealed object")
    begun = _at_least(begun, pieces, _HEAD.size + length)
    name = begun[_HEAD.size : _HEAD.size + length]
    try:
        header = Header(chunk_bytes, salt, commitment, name.decode())
    except UnicodeDecodeError as error:
        raise CiphertextInvalid("no sealed object") from error
    return header, begun[_HEAD.size + length :]


def _at_least(begun: bytes, pieces: Iterator[bytes], wanted_bytes: int) -> bytes:
    while len(begun) < wanted_bytes:
        piece = next(pieces, None)
        if piece is None:
            raise CiphertextInvalid("no sealed object: it ends in its header")
        begun += piece
    return begun


def _after(begun: bytes, pieces: Iterable[bytes]) -> Iterator[bytes]:
    yield begun
    yield from pieces


def _chunks(pieces: Iterable[bytes], size_bytes: int) -> Iterator[tuple[int, bytes, bool]]:
    """Number, chunk, whether it is the last: all of `size_bytes` but the last, which may be empty.

    A full chunk is held back until more comes, because the last one is marked as such.
    """
    number, held = 0, bytearray()
    for piece in pieces:
        held += piece
        while len(held) > size_bytes:
            yield number, bytes(held[:size_bytes]), False
            del held[:size_bytes]
            number += 1
            if number == _MAX_CHUNKS:
                raise CiphertextInvalid(f"more than {_MAX_CHUNKS} chunks")
    yield number, bytes(held), True


def _derive(key: bytes, salt: bytes, name: str) -> tuple[bytes, bytes]:
    if len(key) != KEY_BYTES:
        raise ValueError(f"a key has {KEY_BYTES} bytes")
    made = HKDF(hashes.SHA256(), 2 * KEY_BYTES, salt, _INFO + name.encode()).derive(key)
    return made[:KEY_BYTES], made[KEY_BYTES:]
