"""An append on its way, and what runs the commits: the seam between the loop and the disk."""

from collections.abc import Callable, Sequence
from typing import Protocol

from serving.errors import ServingError
from serving.predictionlog.messages import State

Done = Callable[[ServingError | None], None]


class Waiter:
    """One append. `sequence`: the last one given when it was made."""

    __slots__ = ("done", "error", "records", "sequence", "since_ns", "size_bytes")

    def __init__(
        self, records: Sequence[bytes], *, sequence: int, size_bytes: int, since_ns: int
    ) -> None:
        self.records = records
        self.sequence = sequence
        self.size_bytes = size_bytes
        self.since_ns = since_ns
        self.done: Done | None = None
        self.error: ServingError | None = None


Settle = Callable[[Sequence[Waiter], ServingError | None], None]


class Commits(Protocol):
    """Where commits happen: `remote.RemoteCommits`, or `thread.CommitThread` in this process."""

    @property
    def state(self) -> State: ...
    @property
    def refusal(self) -> ServingError | None: ...
    def define(self, number: int, text: bytes) -> None: ...
    def put(self, waiter: Waiter) -> None: ...
    async def start(self, settle: Settle) -> int:
        """Returns the highest sequence in the directory. `settle` gets waiters in order of `put`."""

    async def stop(self) -> None: ...
