"""One byte string per JSON value: RFC 8785, so that a hash of it means the value.

Members are sorted by UTF-16 code units, numbers are in the shortest form, strings as they are: two
strings that differ only in Unicode form are different values. Integers beyond 2^53 - 1 have no
canonical form (other readers would round them): write nanoseconds as a string.
"""

from typing import TypeAlias

import rfc8785

Json: TypeAlias = (
    "bool | int | float | str | list[Json] | tuple[Json, ...] | dict[str, Json] | None"
)


def canonical(value: Json) -> bytes:
    """The canonical form of `value`, UTF-8. Raises ValueError when it has none."""
    return rfc8785.dumps(value)
