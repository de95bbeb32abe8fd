"""Sealed objects: whole, in order, under one key and one name, or not at all."""

import itertools
import os
import struct
import subprocess
import sys
from collections.abc import Iterable, Iterator

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from serving.errors import CiphertextInvalid
from serving.trust.envelopes import (
    CHUNK_BYTES,
    TAG_BYTES,
    new_key,
    open_stream,
    read_header,
    seal,
    seal_stream,
    unseal,
)

KEY = new_key()
CHUNK = 64
HEADER_BYTES = 78 + len("object")


def sealed(plaintext: bytes, *, name: str = "object") -> list[bytes]:
    """Header and chunks of 64 bytes."""
    return list(seal_stream((plaintext,), key=KEY, name=name, chunk_bytes=CHUNK))


@pytest.mark.parametrize("length", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK, 1000])
@pytest.mark.parametrize("piece_bytes", [1, 7, CHUNK, 10_000])
def test_cr_02_any_length_comes_back(length: int, piece_bytes: int) -> None:
    """Nothing, one byte, a chunk, one more; in whatever pieces it is read and written."""
    plaintext = bytes(range(256)) * 4
    plaintext = plaintext[:length]
    pieces = [plaintext[at : at + piece_bytes] for at in range(0, length, piece_bytes)]
    whole = b"".join(seal_stream(pieces, key=KEY, name="object", chunk_bytes=CHUNK))
    again = [whole[at : at + piece_bytes] for at in range(0, len(whole), piece_bytes)]

    assert unseal(again, key=KEY, name="object") == plaintext
    assert len(whole) == HEADER_BYTES + length + TAG_BYTES * max(1, -(-length // CHUNK))


@pytest.mark.faults
def test_cr_02_more_than_two_gib_comes_back() -> None:
    """One AES-GCM call is limited to 2^31 - 1 bytes, an object is not; memory holds some chunks."""
    piece = bytes(CHUNK_BYTES)
    pieces = itertools.repeat(piece, 2049)

    opened = open_stream(seal_stream(pieces, key=KEY, name="large"), key=KEY, name="large")
    assert sum(map(len, opened)) == 2049 * CHUNK_BYTES > 2**31


def tampered() -> dict[str, list[bytes]]:
    """Ways to damage an object of a header and four chunks."""
    header, first, second, third, last = sealed(b"secret" * 40)
    other = sealed(b"others" * 40)
    return {
        "swapped chunks": [header, second, first, third, last],
        "dropped last chunk": [header, first, second, third],
        "dropped middle chunk": [header, first, third, last],
        "dropped first chunk": [header, second, third, last],
        "repeated chunk": [header, first, first, second, third, last],
        "repeated last chunk": [header, first, second, third, last, last],
        "chunk of another object": [header, other[1], second, third, last],
        "chunks of another object": [header, *other[1:]],
        "header of another object": [other[0], first, second, third, last],
        "cut in a chunk": [header, first, second[:-1]],
        "cut in the tag": [header, first, second, third, last[:-1]],
        "cut in the header": [header[:-1]],
        "header only": [header],
        "nothing": [],
        "more behind": [header, first, second, third, last, b"\0"],
    }


@pytest.mark.parametrize("pieces", tampered().values(), ids=list(tampered()))
def test_cr_01_damage_is_refused(pieces: list[bytes]) -> None:
    """Whatever is swapped, dropped, repeated or taken from elsewhere, no plaintext comes out."""
    with pytest.raises(CiphertextInvalid):
        unseal(pieces, key=KEY, name="object")


def test_cr_01_every_flipped_bit_is_refused() -> None:
    """In header, ciphertext and tags."""
    whole = bytearray(b"".join(sealed(b"secret" * 20)))
    for at in range(len(whole)):
        for bit in range(8):
            whole[at] ^= 1 << bit
            with pytest.raises(CiphertextInvalid):
                unseal(bytes(whole), key=KEY, name="object")
            whole[at] ^= 1 << bit


def test_cr_01_wrong_key_and_wrong_name_are_refused() -> None:
    """Before any chunk is looked at."""
    whole = b"".join(sealed(b"secret"))

    with pytest.raises(CiphertextInvalid, match="this key"):
        unseal(whole, key=new_key(), name="object")
    with pytest.raises(CiphertextInvalid, match="not as 'another'"):
        unseal(whole, key=KEY, name="another")


def test_cr_01_nothing_is_handed_on_before_its_chunk_is_authenticated() -> None:
    """A damaged chunk ends the stream; what came before it was whole, and the end never comes."""
    header, first, second, *rest = sealed(b"x" * CHUNK * 4)
    damaged = bytes([second[0] ^ 1]) + second[1:]
    stream = open_stream([header, first, damaged, *rest], key=KEY, name="object")

    assert next(stream) == b"x" * CHUNK
    with pytest.raises(CiphertextInvalid, match="chunk 1"):
        next(stream)


def test_cr_01_input_is_read_no_further_than_needed() -> None:
    """A stream opens while it arrives: one chunk is held back, no more."""
    read: list[int] = []

    def arriving(pieces: Iterable[bytes]) -> Iterator[bytes]:
        for piece in pieces:
            read.append(len(piece))
            yield piece

    stream = open_stream(arriving(sealed(b"x" * CHUNK * 9)), key=KEY, name="object")
    next(stream)

    assert len(read) == 3


def _ghash_collision() -> tuple[bytes, bytes, bytes, bytes]:
    """A ciphertext and nonce that open, in plain AES-GCM, under two keys (Dodis et al. 2018).

    One block of ciphertext: tag = GHASH(H, C || lengths) ^ E(J0). Two keys give two equations in the
    block and the tag; solving for the block needs one division in GF(2^128).
    """
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes  # noqa: PLC0415

    def block(key: bytes, text: bytes) -> int:
        encryptor = Cipher(algorithms.AES(key), modes.ECB()).encryptor()  # noqa: S305 - GCM's own block
        return int.from_bytes(encryptor.update(text), "big")

    one, two, nonce = new_key(), new_key(), bytes(12)
    lengths = int.from_bytes(struct.pack(">QQ", 0, 128), "big")
    h1, h2 = block(one, bytes(16)), block(two, bytes(16))
    s1 = block(one, nonce + b"\0\0\0\1") ^ _times(lengths, h1)
    s2 = block(two, nonce + b"\0\0\0\1") ^ _times(lengths, h2)
    square = _times(h1, h1) ^ _times(h2, h2)
    chosen = _times(s1 ^ s2, _inverse(square))
    tag = _times(_times(h1, h1), chosen) ^ s1
    return one, two, nonce, chosen.to_bytes(16, "big") + tag.to_bytes(16, "big")


def _times(x: int, y: int) -> int:
    """The product in GCM's field, its bits in GCM's order (SP 800-38D, 6.3)."""
    product = 0
    for bit in range(127, -1, -1):
        if (x >> bit) & 1:
            product ^= y
        y = (y >> 1) ^ (0xE1 << 120) if y & 1 else y >> 1
    return product


def _inverse(x: int) -> int:
    result, power = 1 << 127, x
    for _ in range(127):
        power = _times(power, power)
        result = _times(result, power)
    return result


def test_cr_06_ciphertext_that_two_keys_open_is_refused() -> None:
    """GCM alone opens it under both; the commitment in the header fits one key at most."""
    one, two, nonce, crafted = _ghash_collision()
    assert AESGCM(one).decrypt(nonce, crafted, None) != AESGCM(two).decrypt(nonce, crafted, None)

    whole = seal(b"x" * 16, key=one, name="object")
    header, _ = read_header(iter((whole,)))
    for key in (one, two):
        with pytest.raises(CiphertextInvalid):
            unseal(header.encode() + crafted, key=key, name="object")


SEALINGS = 25_000 if os.environ.get("SERVING_TEST_EXHAUSTIVE") else 2_500
"""Of each process; a million in all where everything is asked for."""
SEALING = """
import sys
from serving.trust.envelopes import seal_stream
for _ in range(int(sys.argv[1])):
    sys.stdout.buffer.write(next(seal_stream((), key=bytes(32), name="object"))[12:44])
"""


@pytest.mark.faults
def test_cr_03_no_two_sealings_share_an_encryption_key() -> None:
    """Sealings under one data key, by four processes that are started ten times: the salt,
    so the encryption key, is new each time. Within a sealing the nonce is the number of its chunk.
    """
    salts: set[bytes] = set()
    for _ in range(10):
        command = [sys.executable, "-c", SEALING, str(SEALINGS)]
        processes = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(4)]  # noqa: S603 - our own
        for process in processes:
            made, _ = process.communicate()
            salts.update(made[at : at + 32] for at in range(0, len(made), 32))

    assert len(salts) == 10 * 4 * SEALINGS


def test_limits_are_refused_before_sealing() -> None:
    """A chunk of no bytes, a name that does not fit, a key of another length."""
    for options in (
        {"chunk_bytes": 0},
        {"chunk_bytes": 2**31},
        {"name": "x" * 1025},
        {"key": b"short"},
    ):
        with pytest.raises(ValueError, match=r"bytes"):
            list(seal_stream((), **{"key": KEY, "name": "object", **options}))  # type: ignore[arg-type]  # by name
