"""Content codings of bodies: gzip, deflate (which is zlib's form) and zstd, both ways.

Unpacking takes memory as bytes come and never more than the limits allow: a body is refused as soon
as it is seen to unpack to more, and a zstd frame that says so itself before anything is unpacked. A
body is one stream, complete and with nothing behind it; a further gzip member is refused, as many
small ones are a way to spend our time. Nothing unpacked is always refused: an empty body needs no
coding.

It happens on the event loop: unpacking 64 MiB takes up to a quarter of a second of it, packing a MiB
10 to 20 ms. So only an admitted caller's body is unpacked, and answers above `MAX_PACKED_BYTES` leave
as they are.
"""

import re
import zlib
from collections.abc import Callable
from typing import Final

import zstandard

from serving.core.batches import Buffer
from serving.errors import BodyTooLarge, EncodingInvalid, EncodingUnsupported
from serving.port_settings import HttpSettings

ENCODINGS: Final = ("gzip", "deflate", "zstd")
"""What a body may come in."""

MIN_PACKED_BYTES: Final = 1024
MAX_PACKED_BYTES: Final = 1024 * 1024
"""Answers are packed between these two: below it does not pay, above it holds up everybody else."""

FREE_BYTES: Final = 1024 * 1024
"""A body that unpacks to no more than this may be packed as tightly as it likes."""

_PREFERENCE: Final = (b"zstd", b"gzip", b"deflate")
"""Of codings that a client likes equally: the cheaper one for us."""

_WEIGHT: Final = re.compile(rb"q=(?:0(?:\.\d{0,3})?|1(?:\.0{0,3})?)")
_STEP_BYTES: Final = 64 * 1024
_OUTPUT_STEP_BYTES: Final = 1024 * 1024
_GZIP_FORM: Final = zlib.MAX_WBITS | 16
_ZLIB_FORM: Final = zlib.MAX_WBITS
_GZIP_MAGIC: Final = b"\x1f\x8b"
_ZSTD_MAGIC: Final = b"\x28\xb5\x2f\xfd"
_ZLIB_HEADER_BYTES: Final = 2
_FASTEST: Final = 1


def unpack(body: Buffer, encoding: str, limits: HttpSettings) -> Buffer:
    """What a packed body holds. encoding: one of `ENCODINGS`.

    Raises EncodingUnsupported where the body is plainly in another coding than it says,
    EncodingInvalid where it is damaged, BodyTooLarge.
    """
    most = min(limits.max_unpacked_bytes, max(FREE_BYTES, limits.max_unpack_ratio * len(body)))
    start = bytes(body[:4])
    if not start:
        raise EncodingInvalid("a body in a content encoding must not be empty")
    if not _LOOKS_LIKE[encoding](start):
        raise EncodingUnsupported(f"the body is not in the encoding {encoding} that it names")
    if encoding == "zstd":
        content: Buffer = _unpack_zstd(body, most, limits.max_unpacked_bytes)
    else:
        form = _GZIP_FORM if encoding == "gzip" else _ZLIB_FORM
        content = _unpack_zlib(memoryview(body), form, most)
    if not content:
        raise EncodingInvalid("the body is empty once it is unpacked")
    return content


def accepted(accept_encoding: bytes) -> str | None:
    """The coding that an answer should be packed in, by the request's `Accept-Encoding`.

    The one with the highest weight, ours to choose among equals; None where `identity` is liked
    better or nothing that we can do is asked for. An asterisk asks for nothing in particular.
    """
    weights = dict(_weighted(part) for part in accept_encoding.lower().split(b","))
    best = max(_PREFERENCE, key=lambda name: weights.get(name, 0.0))
    weight = weights.get(best, 0.0)
    return best.decode() if weight > 0 and weight >= weights.get(b"identity", 0.0) else None


def pack(content: Buffer, encoding: str) -> bytes:
    """`content` in that coding, quickly rather than tightly."""
    return _PACKERS[encoding](content)


def is_worth_packing(content_bytes: int) -> bool:
    return MIN_PACKED_BYTES <= content_bytes <= MAX_PACKED_BYTES


# -- unpacking -------------------------------------------------------------------------------------


def _unpack_zlib(body: memoryview, form: int, most: int) -> bytearray:
    unpacker = zlib.decompressobj(form)
    content = bytearray()
    step: Buffer = b""
    taken = 0
    is_full = False
    while not unpacker.eof:
        if not step and not is_full:
            step = body[taken : taken + _STEP_BYTES]
            taken += len(step)
            if not step:
                raise EncodingInvalid("the compressed body ends too early")
        try:
            piece = unpacker.decompress(step, _OUTPUT_STEP_BYTES)
        except zlib.error as error:
            raise EncodingInvalid("the compressed body is damaged") from error
        content += piece
        if len(content) > most:
            raise _too_large(most)
        step = unpacker.unconsumed_tail
        is_full = len(piece) == _OUTPUT_STEP_BYTES
    if unpacker.unused_data or taken < len(body):
        raise EncodingInvalid("bytes are left over behind the compressed body")
    return content


def _unpack_zstd(body: Buffer, most: int, max_window_bytes: int) -> bytes:
    try:
        frame = zstandard.get_frame_parameters(body)
        if frame.window_size > max_window_bytes:
            raise _too_large(max_window_bytes)
        if frame.content_size == zstandard.CONTENTSIZE_UNKNOWN:
            return _unpack_unsized(body, most)
        if frame.content_size > most:
            raise _too_large(most)
        return zstandard.ZstdDecompressor().decompress(body, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise EncodingInvalid("the compressed body is damaged") from error


def _unpack_unsized(body: Buffer, most: int) -> bytes:
    """A frame that does not say how much it holds: first it is seen how much, within bounds.

    The library's reader stops where it is told to, but takes the end of a cut frame for the end;
    its other form knows the difference and knows no bound.
    """
    with zstandard.ZstdDecompressor().stream_reader(body) as reader:
        held = 0
        while piece := reader.read(_OUTPUT_STEP_BYTES):
            held += len(piece)
            if held > most:
                raise _too_large(most)
            if len(piece) < _OUTPUT_STEP_BYTES:
                break  # The end of the frame; another read would go on behind it.
    unpacker = zstandard.ZstdDecompressor().decompressobj()
    content = unpacker.decompress(body)
    if not unpacker.eof:
        raise EncodingInvalid("the compressed body ends too early")
    if unpacker.unused_data:
        raise EncodingInvalid("bytes are left over behind the compressed body")
    return content


def _too_large(most: int) -> BodyTooLarge:
    return BodyTooLarge(f"this body may unpack to at most {most} bytes")


def _looks_like_zlib(start: bytes) -> bool:
    """RFC 1950 2.2: the method is deflate, and the first two bytes are a multiple of 31."""
    return len(start) < _ZLIB_HEADER_BYTES or (
        start[0] & 15 == zlib.DEFLATED and int.from_bytes(start[:_ZLIB_HEADER_BYTES]) % 31 == 0
    )


_LOOKS_LIKE: Final[dict[str, Callable[[bytes], bool]]] = {
    # What is cut inside its first bytes may be in the encoding: then it is damaged.
    "gzip": lambda start: start[:2] == _GZIP_MAGIC[: len(start)],
    "deflate": _looks_like_zlib,
    "zstd": lambda start: start == _ZSTD_MAGIC[: len(start)],
}


# -- packing ---------------------------------------------------------------------------------------

_PACKERS: Final[dict[str, Callable[[Buffer], bytes]]] = {
    "gzip": lambda content: zlib.compress(content, _FASTEST, wbits=_GZIP_FORM),
    "deflate": lambda content: zlib.compress(content, _FASTEST, wbits=_ZLIB_FORM),
    "zstd": zstandard.ZstdCompressor(level=_FASTEST).compress,
}


def _weighted(part: bytes) -> tuple[bytes, float]:
    """One member of `Accept-Encoding` and its weight (RFC 9110 12.4.2); a bad weight is none."""
    name, _, options = part.partition(b";")
    weight = options.strip()
    if not weight:
        return name.strip(), 1.0
    return name.strip(), float(weight[2:]) if _WEIGHT.fullmatch(weight) else 0.0
