"""HT-22 to HT-25: compressed bodies that are bombs, damaged, or not what they say."""

import gzip
import random
import time
import zlib
from collections.abc import Callable
from functools import partial
from typing import Final

import orjson
import pytest
import zstandard

from tests.edge.wire import Answer, assert_problem, request
from tests.hostile.cases import Case
from tests.hostile.product import INFER
from tests.places import a_row

MIB: Final = 1 << 20
MOST: Final = 64 * MIB
QUICK_S: Final = 1.0
ROW: Final = orjson.dumps(a_row(1.0))
HEADS: Final = {"gzip": b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03", "deflate": b"\x78\xda"}
WINDOW_2_GIB: Final = b"\x28\xb5\x2f\xfd\x00\xa8\x01\x00\x00"
CONTENT_2_GIB: Final = b"\x28\xb5\x2f\xfd\xa0\x00\x00\x00\x80\x01\x00\x00"

QUICKLY: Final[dict[str, Callable[[bytes], bytes]]] = {
    "gzip": partial(gzip.compress, compresslevel=1, mtime=0),
    "zstd": zstandard.compress,
}


def bomb(encoding: str, unpacked_bytes: int) -> bytes:
    """So many zeros, a thousand in each byte; made of one block over and over."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    block = packer.compress(bytes(MIB)) + packer.flush(zlib.Z_FULL_FLUSH)
    return HEADS[encoding] + block * (unpacked_bytes // MIB)


def spacious(size: int) -> bytes:
    """A request in so many bytes, white space in its data for the most part, packed sixtyfold."""
    noise = random.Random(7).randbytes(size // 32).hex().encode()  # noqa: S311 - no secret
    space = noise.translate(bytes.maketrans(b"0123456789abcdef", b" \n\t\r" * 4))
    start, data, end = ROW.partition(b'"data":[')
    return start + data + space + b" " * (size - len(ROW) - len(space)) + end


def ask(case: Case, encoding: str, body: bytes) -> Answer:
    kind = "Content-Type: application/json"
    raw = request(
        "POST", INFER, case.product.authorization, kind, f"Content-Encoding: {encoding}", body=body
    )
    return case.ask_one(raw)


@pytest.mark.parametrize("unpacked_bytes", [2 * MIB, MOST, 15 << 30], ids=["2M", "64M", "15G"])
@pytest.mark.parametrize("encoding", HEADS)
def test_ht_22_bomb_is_refused_before_it_is_unpacked(
    case: Case, encoding: str, unpacked_bytes: int
) -> None:
    """What unpacks a thousandfold is refused within a second and little memory, however large."""
    body = bomb(encoding, unpacked_bytes)
    started = time.monotonic()

    answer = ask(case, encoding, body)

    assert_problem(answer, 413, "body_too_large")
    assert time.monotonic() - started < QUICK_S


@pytest.mark.parametrize("encoding", QUICKLY)
@pytest.mark.parametrize(
    ("size", "status"),
    [(MOST, 200), (MOST + 1, 413), (2 * MOST, 413)],
    ids=["at", "over", "double"],
)
def test_ht_22_size_is_allowed_up_to_the_limit(
    case: Case, encoding: str, size: int, status: int
) -> None:
    """A body that unpacks to 64 MiB is served; one byte more is refused."""
    answer = ask(case, encoding, QUICKLY[encoding](spacious(size)))

    assert answer.status == status


@pytest.mark.parametrize("encoding", ["br", "compress", "x-unknown", "gzip, gzip", "gzip;q=1"])
def test_ht_23_unknown_encoding_is_unsupported(case: Case, encoding: str) -> None:
    """415 says which encodings are understood."""
    answer = ask(case, encoding, gzip.compress(ROW, mtime=0))

    assert_problem(answer, 415, "unsupported_encoding")
    assert answer.headers["accept-encoding"] == "gzip, deflate, zstd"


@pytest.mark.parametrize("made", [ROW, gzip.compress(ROW, mtime=0), zstandard.compress(ROW)])
@pytest.mark.parametrize("encoding", ["gzip", "deflate", "zstd"])
def test_ht_23_wrongly_declared_encoding_is_unsupported(
    case: Case, encoding: str, made: bytes
) -> None:
    """A body in another encoding than its head says, or in none, is not guessed at."""
    answer = ask(case, encoding, made)

    if (encoding, made[:2]) in (("gzip", b"\x1f\x8b"), ("zstd", b"\x28\xb5")):
        assert answer.status == 200
    else:
        assert_problem(answer, 415, "unsupported_encoding")
        assert "accept-encoding" in answer.headers


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", gzip.compress(ROW, mtime=0)[:-1]),
        ("gzip", gzip.compress(ROW, mtime=0)[:12]),
        ("gzip", gzip.compress(ROW, mtime=0)[:-8] + b"\0" * 4 + gzip.compress(ROW, mtime=0)[-4:]),
        ("gzip", gzip.compress(ROW, mtime=0) + b"x"),
        ("gzip", gzip.compress(ROW, mtime=0) * 2),
        ("gzip", gzip.compress(b"", mtime=0)),
        ("gzip", gzip.compress(b"", mtime=0) * 500_000),
        ("gzip", b""),
        ("deflate", zlib.compress(ROW)[:-4] + b"\0" * 4),
        ("zstd", zstandard.compress(ROW)[:-1]),
        ("zstd", zstandard.compress(ROW) + b"x"),
        ("zstd", b""),
    ],
    ids=[
        *("cut", "cut-head", "bad-crc", "rest", "second-member", "of-nothing", "many-of-nothing"),
        *("empty", "deflate-bad-sum", "zstd-cut", "zstd-rest", "zstd-empty"),
    ],
)
def test_ht_24_damaged_body_is_refused(case: Case, encoding: str, body: bytes) -> None:
    """What is not exactly one whole stream is `bad_encoding`, at once."""
    started = time.monotonic()

    answer = ask(case, encoding, body)

    assert_problem(answer, 400, "bad_encoding")
    assert time.monotonic() - started < QUICK_S


@pytest.mark.parametrize("body", [WINDOW_2_GIB, CONTENT_2_GIB], ids=["window", "content"])
def test_ht_25_zstd_frame_that_says_2_gib_is_refused(case: Case, body: bytes) -> None:
    """What a frame announces is judged before memory is taken for it."""
    assert_problem(ask(case, "zstd", body), 413, "body_too_large")
