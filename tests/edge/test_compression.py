import gzip
import random
import tracemalloc
import zlib
from collections.abc import Callable
from contextlib import suppress

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from serving.edge.compression import (
    ENCODINGS,
    FREE_BYTES,
    MAX_PACKED_BYTES,
    MIN_PACKED_BYTES,
    accepted,
    is_worth_packing,
    pack,
    unpack,
)
from serving.errors import BodyTooLarge, EncodingInvalid, EncodingUnsupported
from serving.port_settings import HttpSettings

MIB = 1 << 20
LIMITS = HttpSettings(max_unpacked_bytes=4 * MIB, max_unpack_ratio=100)
TEXT = b'{"inputs":[]}' * 100


def zstd_unsized(content: bytes) -> bytes:
    """A zstd frame as a streaming writer makes it, which does not say how much it holds."""
    writer = zstandard.ZstdCompressor().compressobj()
    return writer.compress(content) + writer.flush()


def hardly_packed(size: int) -> bytes:
    """Content that packs about sixteenfold: its ratio is no reason to refuse it."""
    noise = random.Random(7).randbytes(size // 16)  # noqa: S311 - no secret
    return noise + bytes(size - len(noise))


Pack = Callable[[bytes], bytes]
FORMS: dict[str, tuple[str, Pack]] = {
    "gzip": ("gzip", gzip.compress),
    "deflate": ("deflate", zlib.compress),
    "zstd": ("zstd", zstandard.compress),
    "zstd-unsized": ("zstd", zstd_unsized),
}
each_form = pytest.mark.parametrize(("encoding", "made"), FORMS.values(), ids=FORMS)


@pytest.mark.parametrize("encoding", ENCODINGS)
@given(content=st.binary(min_size=1, max_size=5000))
def test_packed_content_comes_back(encoding: str, content: bytes) -> None:
    """Whatever is packed here is unpacked here to the same bytes."""
    assert content == bytes(unpack(pack(content, encoding), encoding, LIMITS))


@each_form
def test_content_of_other_makers_is_read(encoding: str, made: Pack) -> None:
    """What the usual libraries write is understood, also from a view and larger than one step."""
    content = hardly_packed(3 * MIB)

    assert content == bytes(unpack(memoryview(made(content)), encoding, LIMITS))


@each_form
def test_size_is_allowed_up_to_the_limit(encoding: str, made: Pack) -> None:
    """The largest body is read; one byte more, or ten times as much, is not."""
    most = LIMITS.max_unpacked_bytes

    assert len(unpack(made(hardly_packed(most)), encoding, LIMITS)) == most
    for size in (most + 1, 10 * most):
        with pytest.raises(BodyTooLarge, match=str(most)):
            unpack(made(hardly_packed(size)), encoding, LIMITS)


@each_form
def test_ratio_is_judged_above_what_is_free(encoding: str, made: Pack) -> None:
    """A small body may be packed as tightly as it likes; a larger one is refused as a bomb."""
    assert len(unpack(made(bytes(FREE_BYTES)), encoding, LIMITS)) == FREE_BYTES
    with pytest.raises(BodyTooLarge):
        unpack(made(bytes(FREE_BYTES + 1)), encoding, LIMITS)


@each_form
def test_bomb_takes_no_more_memory_than_the_limit(encoding: str, made: Pack) -> None:
    """A body that would unpack to 64 MiB is refused with little more in memory than is allowed."""
    bomb = made(bytes(64 * MIB))
    limits = HttpSettings(max_unpacked_bytes=4 * MIB, max_unpack_ratio=100_000)

    tracemalloc.start()
    try:
        with pytest.raises(BodyTooLarge):
            unpack(bomb, encoding, limits)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 4 * MIB + 4 * MIB


@each_form
def test_cut_body_is_damaged(encoding: str, made: Pack) -> None:
    """A body without its last byte, or with nothing but its first ones, is not taken for whole."""
    body = made(TEXT)

    for length in (1, 2, 3, 5, len(body) // 2, len(body) - 1):
        with pytest.raises(EncodingInvalid):
            unpack(body[:length], encoding, LIMITS)


@each_form
def test_bytes_behind_the_body_are_refused(encoding: str, made: Pack) -> None:
    """A body is one stream and nothing else: no rest, no second stream."""
    body = made(TEXT)

    for behind in (b"x", body, bytes(100_000)):
        with pytest.raises(EncodingInvalid):
            unpack(body + behind, encoding, LIMITS)


@each_form
def test_nothing_is_no_body(encoding: str, made: Pack) -> None:
    """An empty body, and one that unpacks to nothing, are refused."""
    for body in (b"", made(b"")):
        with pytest.raises(EncodingInvalid):
            unpack(body, encoding, LIMITS)


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_checksum_is_checked(encoding: str) -> None:
    """A body whose checksum is of another content is damaged."""
    body = bytearray(pack(TEXT, encoding))
    body[-5] ^= 1

    with pytest.raises(EncodingInvalid):
        unpack(body, encoding, LIMITS)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_body_in_another_coding_than_it_says_is_unsupported(encoding: str) -> None:
    """Plain JSON, or a body in another coding, is told from a damaged one by its first bytes."""
    others = [pack(TEXT, other) for other in ENCODINGS if other != encoding]

    for body in (TEXT, *others):
        with pytest.raises(EncodingUnsupported):
            unpack(body, encoding, LIMITS)


@pytest.mark.parametrize("size", [2 << 30, 1 << 62])
def test_zstd_frame_that_says_it_is_large_is_refused_before_it_is_unpacked(size: int) -> None:
    """Neither the content nor the window that a frame announces is believed beyond the limit."""
    content = b"\x28\xb5\x2f\xfd\xe0" + size.to_bytes(8, "little") + b"\x01\x00\x00"
    window = b"\x28\xb5\x2f\xfd\x00" + bytes([(31 - 10) << 3]) + b"\x01\x00\x00"

    for body in (content, window):
        with pytest.raises(BodyTooLarge):
            unpack(body, "zstd", LIMITS)


def test_zstd_frame_that_lies_about_its_size_is_damaged() -> None:
    """A frame that announces ten bytes and holds a million is not unpacked beyond the ten."""
    body = bytearray(zstandard.compress(bytes(200)))
    assert body[5] == 200
    body[5] = 10

    with pytest.raises(EncodingInvalid):
        unpack(body, "zstd", LIMITS)


@given(body=st.binary(max_size=300), encoding=st.sampled_from(ENCODINGS), flip=st.integers(0, 99))
def test_no_bytes_surprise(body: bytes, encoding: str, flip: int) -> None:
    """Any bytes, and any one damage to a good body, are content or one of the named refusals."""
    damaged = bytearray(pack(TEXT, encoding))
    damaged[flip % len(damaged)] ^= 1 + flip

    for each in (body, bytes(damaged)):
        with suppress(BodyTooLarge, EncodingInvalid, EncodingUnsupported):
            assert unpack(each, encoding, LIMITS)


@given(wish=st.binary(max_size=60))
def test_any_wish_is_understood_or_ignored(wish: bytes) -> None:
    """What an `Accept-Encoding` says is never an error."""
    assert accepted(wish) in (None, *ENCODINGS)


def test_answers_of_a_middle_size_are_packed() -> None:
    """Small ones gain nothing, very large ones would hold up everybody else."""
    assert [
        is_worth_packing(size)
        for size in (MIN_PACKED_BYTES - 1, MIN_PACKED_BYTES, MAX_PACKED_BYTES, MAX_PACKED_BYTES + 1)
    ] == [False, True, True, False]
