import asyncio
import contextlib
from pathlib import Path
from typing import Any, Final

import grpc  # type: ignore[import-untyped]  # it ships no types
import pytest
from grpc_health.v1.health_pb2 import (  # type: ignore[import-untyped]
    HealthCheckRequest,
    HealthCheckResponse,
)

from serving.core.traffic import Snapshot
from serving.edge.grpc.server import SERVICES
from tests.edge.grpc.wire import Caller, caller, encoded, rest_of, started
from tests.places import InProcess, eventually_async

CHECK: Final = "/grpc.health.v1.Health/Check"
WATCH: Final = "/grpc.health.v1.Health/Watch"


async def status(of: Caller, service: str) -> str:
    """What a probe without a token is told."""
    answer = await of.call(CHECK, encoded(HealthCheckRequest(service=service)), metadata=())
    return name_of(answer)


def name_of(answer: bytes) -> str:
    name: str = HealthCheckResponse.ServingStatus.Name(
        HealthCheckResponse.FromString(answer).status
    )
    return name


def watch(of: Caller, service: str = "") -> Any:
    """An open stream of states, without a token."""
    return of.channel.unary_stream(WATCH)(encoded(HealthCheckRequest(service=service)))


def forget(place: InProcess) -> None:
    """Takes every replica away, as when the last ones died."""
    gone = Snapshot(2, place.snapshot.versions, place.snapshot.policies)
    place.worker.apply(gone)


async def test_health_is_that_of_the_models(in_process: InProcess) -> None:
    """The server and its services serve while every model can answer, and not without replicas."""
    names = ("", *SERVICES)
    async with caller(in_process) as probe:
        before = [await status(probe, name) for name in names]
        forget(in_process)
        after = [await status(probe, name) for name in names]

    assert (before, after) == (["SERVING"] * len(names), ["NOT_SERVING"] * len(names))


async def test_an_unknown_service_is_not_found(in_process: InProcess) -> None:
    """A probe with a wrong name must not be told that it is well; a watcher may wait for it."""
    async with caller(in_process) as probe:
        refused = await probe.refused(HealthCheckRequest(service="other"), CHECK, metadata=())
        garbled = await probe.refused(b"\xff", CHECK, metadata=())
        watching = watch(probe, "other")
        told = name_of(await watching.read())
        watching.cancel()

    assert (refused.status, refused.code) == ("NOT_FOUND", "not_found")
    assert (garbled.code, told) == ("invalid_message", "SERVICE_UNKNOWN")


async def test_a_watcher_is_told_of_a_change_and_let_go_at_the_end(in_process: InProcess) -> None:
    """Serving, not serving when the replicas have gone, and the end of the stream when draining."""
    async with caller(in_process) as probe:
        watching = watch(probe)
        told = [name_of(await watching.read())]
        forget(in_process)
        told.append(name_of(await watching.read()))
        await in_process.worker.grpc.aclose(drain_s=10)
        rest = await rest_of(watching)

    assert (told, rest) == (["SERVING", "NOT_SERVING"], [])


async def test_draining_is_told_before_the_end(in_process: InProcess) -> None:
    """Balancers that watch take the server out while it still answers what runs."""
    async with caller(in_process) as probe:
        watching = watch(probe)
        told = [name_of(await watching.read())]
        ending = asyncio.create_task(in_process.worker.grpc.aclose(drain_s=10))
        told += [name_of(answer) for answer in await rest_of(watching)]
        await ending

    assert told == ["SERVING", "NOT_SERVING"]


async def test_watchers_are_bounded(tmp_path: Path) -> None:
    """Nobody needs a token for watching, so there are only so many; places become free again."""
    async with started(tmp_path, grpc={"max_health_watches": 1}) as place, caller(place) as probe:
        first = watch(probe)
        told = [name_of(await first.read())]
        refused = await probe.refused(b"", WATCH, metadata=())
        first.cancel()
        answer = await watch_when_free(probe)

    assert (refused.status, refused.code) == ("UNAVAILABLE", "too_many_connections")
    assert [*told, answer] == ["SERVING", "SERVING"]


@pytest.mark.parametrize("message", [b"\xff", None], ids=["garbage", "nothing"])
async def test_a_watch_without_a_question_is_refused(
    in_process: InProcess, message: bytes | None
) -> None:
    """A message that is none, and a stream that ends before its message."""
    async with caller(in_process) as probe:
        stream = probe.channel.stream_stream(WATCH)(iter([] if message is None else [message]))
        code = await stream.code()

    assert code.name == "INVALID_ARGUMENT"


async def watch_when_free(probe: Caller) -> str:
    """The first state that a new watcher is told, once there is a place for it."""
    told = ""

    async def watched() -> str:
        nonlocal told
        watching = watch(probe)
        with contextlib.suppress(grpc.aio.AioRpcError):
            told = name_of(await watching.read())
        watching.cancel()
        return told

    await eventually_async(watched)
    return told
