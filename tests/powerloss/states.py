"""Every state that a power cut may leave of what a writer did, up to the bounds that P2 names.

After each operation: all subsets of the last eight operations that no sync has followed yet, names
in the directory included; and for each write among them that is torn, all subsets of its 512-byte
sectors up to eight of them, every cut and every hole at 512 B and at 4 KiB beyond, and its length
without its bytes.
"""

from collections.abc import Iterator, Sequence
from itertools import chain, combinations
from typing import Final

from tests.powerloss.disks import (
    Acknowledged,
    Failed,
    Link,
    Operation,
    Platter,
    Rename,
    Sync,
    SyncNames,
    Truncate,
    Unlink,
    Write,
)

MAX_UNSYNCED: Final = 8
SECTOR_BYTES: Final = 512
PAGE_BYTES: Final = 4096


def crash_states(journal: Sequence[Operation]) -> Iterator[tuple[Platter, frozenset[int]]]:
    """(what is left, what was acknowledged by then); many of them equal."""
    platter, unsynced = Platter(), list[Operation]()
    acknowledged: frozenset[int] = frozenset()
    yield platter.copy(), acknowledged
    for operation in journal:
        if isinstance(operation, Acknowledged):
            acknowledged |= set(operation.sequences)
            yield from ((state, acknowledged) for state in _states(platter, unsynced, torn=False))
            continue
        if isinstance(operation, Sync | SyncNames):
            unsynced = _settle(platter, unsynced, operation)
            continue
        if isinstance(operation, Failed):
            continue
        unsynced.append(operation)
        while len(unsynced) > MAX_UNSYNCED:  # the oldest is taken for written
            platter.apply(unsynced.pop(0))
        yield from ((state, acknowledged) for state in _states(platter, unsynced, torn=True))


def _settle(platter: Platter, unsynced: list[Operation], sync: Operation) -> list[Operation]:
    """Applies what the sync makes sure; the rest stays unsure."""
    left = []
    for operation in unsynced:
        if _is_settled(operation, sync):
            platter.apply(operation)
        else:
            left.append(operation)
    return left


def _is_settled(operation: Operation, sync: Operation) -> bool:
    if isinstance(operation, Write | Truncate):
        return isinstance(sync, Sync) and operation.file == sync.file
    return isinstance(sync, SyncNames) and isinstance(operation, Link | Rename | Unlink)


def _states(platter: Platter, unsynced: Sequence[Operation], *, torn: bool) -> Iterator[Platter]:
    for kept in _subsets(unsynced):
        yield _applied(platter, kept)
    if torn and unsynced and isinstance(unsynced[-1], Write):
        others, last = unsynced[:-1], unsynced[-1]
        base = _applied(platter, others)
        for parts in _tears(last):
            yield _applied(base, parts)


def _applied(platter: Platter, operations: Sequence[Operation]) -> Platter:
    state = platter.copy()
    for operation in operations:
        state.apply(operation)
    return state


def _subsets(items: Sequence[Operation]) -> Iterator[tuple[Operation, ...]]:
    sizes = range(len(items) + 1)
    return chain.from_iterable(combinations(items, size) for size in sizes)


def _tears(write: Write) -> Iterator[Sequence[Write]]:
    """Parts of the write that may have arrived without the others."""
    yield [Write(write.file, write.offset, b"", write.length)]
    sectors = _pieces(write, SECTOR_BYTES)
    if len(sectors) <= MAX_UNSYNCED:
        for size in range(len(sectors)):
            yield from combinations(sectors, size)
        return
    for pieces in (sectors, _pieces(write, PAGE_BYTES)):
        for index in range(len(pieces)):
            yield pieces[:index]
            yield pieces[index:]
            yield [*pieces[:index], *pieces[index + 1 :]]


def _pieces(write: Write, unit_bytes: int) -> list[Write]:
    """The write in parts that end where sectors of the disk end. Zeros at its end come last."""
    parts, start = [], write.offset
    end = write.offset + len(write.content)
    while start < end:
        stop = min(start + unit_bytes - start % unit_bytes, end)
        content = write.content[start - write.offset : stop - write.offset]
        parts.append(Write(write.file, start, content, len(content)))
        start = stop
    if write.length > len(write.content):
        parts.append(Write(write.file, end, b"", write.length - len(write.content)))
    return parts
