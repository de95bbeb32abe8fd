"""The servers of a run: each started when a case first needs it, ended when one does not."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from loadtests.cases import Case, ServerName, Side
from loadtests.ceilings import RawModel
from loadtests.children import ChildFailed
from loadtests.product import product
from loadtests.report import tell
from loadtests.servers import Server, floor, plain_ray
from loadtests.subjects import GrpcSubject, HttpSubject, RawSubject
from loadtests.windows import Subject

OPENERS: Final[Mapping[ServerName, Callable[[Path], AbstractContextManager[Server]]]] = {
    "product": partial(product, "fsync"),
    "log-process": partial(product, "process"),
    "log-off": partial(product, "off"),
    "plain-ray": plain_ray,
    "edge": partial(floor, "edge"),
    "bare": partial(floor, "bare"),
    "grpc": partial(floor, "grpc"),
}


class Lab:
    """Use it as a context manager. `faults` tells which servers did not end as they should."""

    def __init__(
        self, folder: Path, *, models: Mapping[str, RawModel], batch_rows: Mapping[str, int]
    ) -> None:
        """models: by M1, M2. batch_rows: the best batch size of each. folder: private, on a disk."""
        self.faults: list[str] = []
        self._folder = folder
        self._models = models
        self._raw = RawSubject(models, batch_rows=batch_rows)
        self._open: dict[ServerName, tuple[Server, ExitStack]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end(list(self._open))

    def subjects(self, case: Case) -> list[Subject]:
        """One for each side of the case; what it does not need is ended first.

        Raises ChildFailed when a server does not start.
        """
        self._end([name for name in self._open if name not in case.servers])
        return [self._subject(side) for side in case.sides]

    def _end(self, names: Sequence[ServerName]) -> None:
        with ExitStack() as others:  # They end too when one of them raises, or Ctrl-C comes.
            for name in names:
                others.callback(self._end_one, name)

    def _end_one(self, name: ServerName) -> None:
        tell(f"ending {name}")
        _, stack = self._open.pop(name)
        try:
            stack.close()
        except ChildFailed as error:
            self.faults.append(str(error))

    def _subject(self, side: Side) -> Subject:
        name = side.server
        if name == "raw":
            return self._raw
        if name not in self._open:
            tell(f"starting {name}")
            with ExitStack() as stack:
                server = stack.enter_context(OPENERS[name](self._folder))
                self._open[name] = (server, stack.pop_all())
        server, _ = self._open[name]
        if side.payload == "grpc":
            return GrpcSubject(server, oracles=self._models)
        return HttpSubject(server, oracles=self._models, folder=self._folder)
