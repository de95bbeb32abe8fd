"""Elements of BYTES tensors: each a 32-bit little-endian length and that many bytes, one after another.

This is the form of the protocol's binary extension, and the only form that such a tensor has between
the edge, a replica and the prediction log. Where an element ends is known only from all before it.
"""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from struct import Struct, error
from typing import Final

LENGTH: Final = Struct("<I")
LENGTH_BYTES: Final = LENGTH.size

Raw = bytes | bytearray | memoryview


class ElementsInvalid(ValueError):
    """The bytes are not the elements that they are said to be."""


def join_elements(values: Iterable[bytes]) -> bytes:
    """The raw form of `values`."""
    pack = LENGTH.pack
    return b"".join([part for value in values for part in (pack(len(value)), value)])


def element_ends(buffer: Raw, count: int, *, start: int = 0) -> list[int]:
    """Where each of `count` elements from `start` on ends. Raises ElementsInvalid past the end."""
    if count * LENGTH_BYTES > len(buffer) - start:
        raise ElementsInvalid("there are more elements than their bytes can hold")
    unpack = LENGTH.unpack_from
    ends = []
    end = start
    try:
        for _ in range(count):
            end += LENGTH_BYTES + unpack(buffer, end)[0]
            ends.append(end)
    except error as cause:
        raise ElementsInvalid("an element reaches beyond its tensor") from cause
    if end > len(buffer):
        raise ElementsInvalid("an element reaches beyond its tensor")
    return ends


def split_elements(buffer: Raw, count: int) -> list[bytes]:
    """The values of a whole buffer. Raises ElementsInvalid unless it holds `count`, and no more."""
    ends = [0, *whole_ends(buffer, count)]
    return [bytes(buffer[start + LENGTH_BYTES : end]) for start, end in pairwise(ends)]


def whole_ends(buffer: Raw, count: int) -> Sequence[int]:
    """`element_ends` of a buffer in which nothing is left over behind the last one."""
    ends = element_ends(buffer, count)
    if (ends[-1] if ends else 0) != len(buffer):
        raise ElementsInvalid("bytes are left over behind the last element")
    return ends


def row_ends(buffer: Raw, rows: int, row_elements: int) -> Sequence[int]:
    """Where each row of a whole buffer ends; rows of nothing end where they begin."""
    ends = whole_ends(buffer, rows * row_elements)
    return ends[row_elements - 1 :: row_elements] if row_elements else [0] * rows
