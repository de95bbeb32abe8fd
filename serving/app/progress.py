"""What `serving up` tells while it runs: events, and two ways of writing them.

Each event is one value. `TextProgress` writes it for people, `JsonProgress` as one JSON object per
line with its kind in `event`.
"""

from collections.abc import Callable
from typing import Protocol, assert_never

import msgspec

Write = Callable[[str], None]


class Starting(msgspec.Struct, frozen=True, tag="starting", tag_field="event"):
    """The first line. processes: names of the children."""

    data_dir: str
    engine: str
    processes: tuple[str, ...]


class VersionChanged(msgspec.Struct, frozen=True, tag="version", tag_field="event"):
    """A model version has come further. seconds: since `serving up` began."""

    model: str
    version: str
    role: str
    state: str
    seconds: float
    message: str = ""


class ModelLeftOut(msgspec.Struct, frozen=True, tag="left_out", tag_field="event"):
    """An optional model does not run here."""

    model: str
    reason: str


class ChildDied(msgspec.Struct, frozen=True, tag="child_died", tag_field="event"):
    """A child ended without being asked; it is started again."""

    process: str
    status: int
    log: str


class Ready(msgspec.Struct, frozen=True, tag="ready", tag_field="event"):
    """Everything answers. try_command: a line to paste. notices: what an operator must know."""

    seconds: float
    versions: int
    replicas: int
    inference: str
    grpc: str
    metrics: str
    control: str
    data_dir: str
    token_command: str
    try_command: str
    notices: tuple[str, ...] = ()


class Stopping(msgspec.Struct, frozen=True, tag="stopping", tag_field="event"):
    """It was asked to stop, or the start has failed."""

    reason: str


class Stopped(msgspec.Struct, frozen=True, tag="stopped", tag_field="event"):
    """Nothing is left. killed: processes that had to be ended by force."""

    seconds: float
    killed: tuple[str, ...] = ()


Event = Starting | VersionChanged | ModelLeftOut | ChildDied | Ready | Stopping | Stopped


class Progress(Protocol):
    """Where events go."""

    def tell(self, event: Event) -> None: ...


class JsonProgress:
    """One JSON object per line."""

    def __init__(self, write: Write) -> None:
        self._write = write

    def tell(self, event: Event) -> None:
        self._write(msgspec.json.encode(event).decode())


class TextProgress:
    """Lines for people."""

    def __init__(self, write: Write) -> None:
        self._write = write

    def tell(self, event: Event) -> None:
        for line in _lines(event):
            self._write(line)


def _lines(event: Event) -> list[str]:
    match event:
        case Starting():
            processes = ", ".join(event.processes)
            lines = [f"starting {processes}; engine {event.engine}; data in {event.data_dir}"]
        case VersionChanged():
            lines = [_version_line(event)]
        case ModelLeftOut():
            lines = [f"left out  {event.model}: {event.reason}"]
        case ChildDied():
            how = f"signal {-event.status}" if event.status < 0 else f"status {event.status}"
            lines = [f"{event.process} ended with {how}; see {event.log}"]
        case Ready():
            lines = _ready_block(event)
        case Stopping():
            lines = [f"stopping: {event.reason}"]
        case Stopped():
            killed = f"; killed: {', '.join(event.killed)}" if event.killed else ""
            lines = [f"stopped in {event.seconds:.1f} s{killed}"]
        case unknown:
            assert_never(unknown)
    return lines


def _version_line(event: VersionChanged) -> str:
    role = "" if event.role == "stable" else f" ({event.role})"
    message = f": {event.message}" if event.message else ""
    return f"{event.seconds:6.1f} s  {event.state:<8}  {event.model}@{event.version}{role}{message}"


def _ready_block(ready: Ready) -> list[str]:
    return [
        "",
        f"ready in {ready.seconds:.1f} s: {ready.versions} model versions, "
        f"{ready.replicas} replicas",
        "",
        f"  inference  {ready.inference}",
        f"  grpc       {ready.grpc}",
        f"  metrics    {ready.metrics}",
        f"  control    {ready.control}",
        f"  data       {ready.data_dir}",
        "",
        f"  a token    {ready.token_command}",
        "  try it     " + ready.try_command,
        "  stop       Ctrl-C",
        *([""] if ready.notices else []),
        *[f"  note: {notice}" for notice in ready.notices],
        "",
    ]
