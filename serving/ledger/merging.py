"""Many streams of records as one, in the order of arrival, each opened only when its turn comes."""

import heapq
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar


class Timed(Protocol):
    """Something that arrived."""

    @property
    def time_ns(self) -> int: ...


Each = TypeVar("Each", bound=Timed)


@dataclass(frozen=True, slots=True)
class Late(Generic[Each]):
    """A stream that is not open yet. bound_ns: nothing in it comes before, in the asked order."""

    bound_ns: int
    open: Callable[[], Iterator[Each]]


def merged(streams: Iterable[Late[Each]], *, newest_first: bool) -> Iterator[Each]:
    """All records. A stream whose records are not quite in order keeps its own.

    Those that arrived together come in the order of the streams.
    """
    sign = -1 if newest_first else 1
    waiting: list[tuple[int, int, Each | None, Late[Each] | Iterator[Each]]] = [
        (sign * stream.bound_ns, place, None, stream) for place, stream in enumerate(streams)
    ]
    heapq.heapify(waiting)
    while waiting:
        _, place, record, source = waiting[0]
        if record is not None:
            yield record
        records = source.open() if isinstance(source, Late) else source
        following = next(records, None)
        if following is None:
            heapq.heappop(waiting)
        else:
            heapq.heapreplace(waiting, (sign * following.time_ns, place, following, records))
