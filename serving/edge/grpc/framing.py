"""Messages in the bytes of a call: a flag and a length stand in front of each; some are compressed.

Bytes are taken as they come: a message may be cut anywhere, and many may come at once. One that says
that it is too large is refused before it is received, one that unpacks to too much before it is
unpacked to more. Answers are packed for who packs its messages and takes such answers, quickly and
between the bounds of the other wire (`serving.edge.compression`).
"""

import zlib
from collections.abc import Iterator
from typing import Final

from serving.core.batches import Buffer
from serving.edge.compression import is_worth_packing, pack
from serving.errors import BodyTooLarge, EncodingInvalid, MessageInvalid

PREFIX_BYTES: Final = 5
ENCODINGS: Final = ("gzip", "deflate")
"""What messages may be packed in beside `identity`; deflate is zlib's form."""

_PLAIN: Final = 0
_PACKED: Final = 1
_FORMS: Final = {"gzip": zlib.MAX_WBITS | 16, "deflate": zlib.MAX_WBITS}


def framed(message: bytes, encoding: str | None = None) -> bytes:
    """A message as it travels; packed where that pays and there is an encoding to do it in."""
    if encoding is not None and is_worth_packing(len(message)):
        message = pack(message, encoding)
        return b"\x01%b%b" % (len(message).to_bytes(4), message)
    return b"\x00%b%b" % (len(message).to_bytes(4), message)


def only_message(content: Buffer) -> Buffer | None:
    """The message that `content` is, if it is exactly one and not packed; looks at nothing else."""
    size = len(content) - PREFIX_BYTES
    if size < 0 or content[0] != _PLAIN or int.from_bytes(content[1:PREFIX_BYTES]) != size:
        return None
    return content[PREFIX_BYTES:]


class MessageReader:
    """Cuts the bytes of one call into messages."""

    def __init__(self, encoding: str | None, *, max_bytes: int) -> None:
        """encoding: what packed messages are packed in. max_bytes: of a message, packed or not."""
        self._encoding = encoding
        self._max_bytes = max_bytes
        self._came = bytearray()

    @property
    def held_bytes(self) -> int:
        """Of a message of which a part is here and the rest is not."""
        return len(self._came)

    def feed(self, content: Buffer) -> Iterator[Buffer]:
        """The messages that are complete now. Raises BodyTooLarge, EncodingInvalid,
        MessageInvalid; after that nothing more may be fed."""
        came = self._came
        came += content
        while len(came) >= PREFIX_BYTES:
            size = int.from_bytes(came[1:PREFIX_BYTES])
            check_size(size, self._max_bytes)
            end = PREFIX_BYTES + size
            if len(came) < end:
                return
            if len(came) == end:
                # Given away where it lies: the bytes of a message that came in pieces are copied once.
                self._came = bytearray()
                yield self._plain(came[0], memoryview(came)[PREFIX_BYTES:])
                return
            flag, message = came[0], bytes(memoryview(came)[PREFIX_BYTES:end])
            del came[:end]
            yield self._plain(flag, message)

    def _plain(self, flag: int, message: Buffer) -> Buffer:
        if flag == _PLAIN:
            return message
        if flag != _PACKED:
            raise MessageInvalid("the first byte of a message must be 0 or 1")
        if self._encoding is None:
            raise MessageInvalid(
                "a message says that it is packed, and grpc-encoding does not say how"
            )
        return unpacked(message, self._encoding, max_bytes=self._max_bytes)


def check_size(size: int, max_bytes: int) -> None:
    """Raises BodyTooLarge."""
    if size > max_bytes:
        raise BodyTooLarge(f"a message may have at most {max_bytes} bytes")


def unpacked(message: Buffer, encoding: str, *, max_bytes: int) -> bytes:
    """What a packed message holds. Raises EncodingInvalid, BodyTooLarge."""
    unpacker = zlib.decompressobj(_FORMS[encoding])
    try:
        content = unpacker.decompress(message, max_bytes + 1)
    except zlib.error as error:
        raise EncodingInvalid("the compressed message is damaged") from error
    check_size(len(content), max_bytes)
    if not unpacker.eof or unpacker.unused_data:
        raise EncodingInvalid("the compressed message ends too early, or something follows it")
    return content
