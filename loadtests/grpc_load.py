"""Closed-loop load over gRPC: N callers on a few connections, each with one call under way.

    python -m loadtests.grpc_load < ORDER     one run, for `run`

The generator is h2load where it is installed (`loadtests.h2load`), else `grpc.aio` in a process of its
own. The latter costs several times the CPU per call of the server that it loads: its rates are to be
compared with those of the floor under the same generator, not with HTTP. A call that fails counts as
broken or refused, and its caller goes on.
"""

import asyncio
import subprocess
import sys
from typing import Any, Final

import grpc  # type: ignore[import-untyped]  # it ships no types
import msgspec
import numpy as np
import uvloop
from numpy.typing import NDArray

from loadtests import h2load, wrk
from serving.core.clock import SystemClock
from serving.edge.grpc import inference_pb2

METHOD: Final = "/inference.GRPCInferenceService/ModelInfer"
CONNECTIONS: Final = 4
QUANTILES: Final = (50, 90, 99, 99.9, 100)
TIMEOUT_S: Final = 10.0

_clock: Final = SystemClock()


class GrpcLoad(msgspec.Struct, frozen=True):
    """One message, sent over and over. metadata: of every call."""

    address: str
    metadata: tuple[tuple[str, str], ...]
    message: bytes
    callers: int
    seconds: float


def message(model: str, row: NDArray[np.float32]) -> bytes:
    """A request of one row with raw contents."""
    request = inference_pb2.ModelInferRequest(model_name=model)
    request.inputs.add(name="input", datatype="FP32", shape=[1, len(row)])
    request.raw_input_contents.append(row.astype("<f4").tobytes())
    encoded: bytes = request.SerializeToString()
    return encoded


def ask(load: GrpcLoad) -> NDArray[np.float32]:
    """The elements of the only output. Raises grpc.RpcError, and ValueError for another answer."""
    (raw,) = inference_pb2.ModelInferResponse.FromString(_answer(load)).raw_output_contents
    return np.frombuffer(raw, dtype="<f4")


def run(load: GrpcLoad) -> wrk.Outcome:
    """Loads for that long, in a process of its own. Raises WrkFailed."""
    generator = h2load.find()
    return _run_here(load) if generator is None else _run_h2load(generator, load)


def _answer(load: GrpcLoad) -> bytes:
    with grpc.insecure_channel(load.address) as channel:
        call = channel.unary_unary(METHOD)
        answer: bytes = call(load.message, metadata=load.metadata, timeout=TIMEOUT_S)
    return answer


def _run_h2load(generator: str, load: GrpcLoad) -> wrk.Outcome:
    connections = min(CONNECTIONS, load.callers)
    metadata = (("content-type", "application/grpc"), ("te", "trailers"), *load.metadata)
    command = [
        generator,
        f"--clients={connections}",
        f"--max-concurrent-streams={load.callers // connections}",
        *[f"--header={name}: {value}" for name, value in metadata],
        f"http://{load.address}{METHOD}",
    ]
    try:
        answer_bytes = len(_answer(load))
    except grpc.RpcError:
        answer_bytes = 0
    return h2load.run(
        command,
        message=load.message,
        answer_bytes=answer_bytes,
        seconds=load.seconds,
        grace_s=wrk.GRACE_S,
    )


def _run_here(load: GrpcLoad) -> wrk.Outcome:
    try:
        done = subprocess.run(
            [sys.executable, "-m", "loadtests.grpc_load"],
            input=msgspec.json.encode(load),
            capture_output=True,
            timeout=load.seconds + wrk.GRACE_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise wrk.WrkFailed(f"the gRPC load did not end: {load.address}") from error
    if done.returncode:
        raise wrk.WrkFailed(f"the gRPC load ended with {done.returncode}: {done.stderr[-500:]!r}")
    return wrk.parse(done.stdout.decode())


class _Run:
    """One run on a loop of its own."""

    def __init__(self, load: GrpcLoad) -> None:
        self._load = load
        self._waits_ms: list[float] = []
        self._broken = 0

    async def outcome(self) -> wrk.Outcome:
        load = self._load
        # Without a pool of their own all channels of a process share one connection.
        options = [("grpc.use_local_subchannel_pool", 1)]
        channels = [grpc.aio.insecure_channel(load.address, options) for _ in range(CONNECTIONS)]
        calls = [channel.unary_unary(METHOD) for channel in channels]
        cpu_ns, began_ns = _clock.thread_ns(), _clock.monotonic_ns()
        end_ns = began_ns + round(load.seconds * 1e9)
        callers = [self._caller(calls[n % CONNECTIONS], end_ns) for n in range(load.callers)]
        await asyncio.gather(*callers)
        seconds = (_clock.monotonic_ns() - began_ns) / 1e9
        cpu_s = (_clock.thread_ns() - cpu_ns) / 1e9
        for channel in channels:
            await channel.close()
        quantiles_ms = np.percentile(self._waits_ms or [0.0], QUANTILES)
        p50_ms, p90_ms, p99_ms, p999_ms, max_ms = (float(value) for value in quantiles_ms)
        return wrk.Outcome(
            requests=len(self._waits_ms),
            seconds=seconds,
            refused=0,
            broken=self._broken,
            timeouts=0,
            p50_ms=p50_ms,
            p90_ms=p90_ms,
            p99_ms=p99_ms,
            p999_ms=p999_ms,
            max_ms=max_ms,
            cpu_s=cpu_s,
        )

    async def _caller(self, call: Any, end_ns: int) -> None:
        load = self._load
        while (sent_ns := _clock.monotonic_ns()) < end_ns:
            try:
                await call(load.message, metadata=load.metadata, timeout=TIMEOUT_S)
            except grpc.aio.AioRpcError:
                self._broken += 1
            else:
                self._waits_ms.append((_clock.monotonic_ns() - sent_ns) / 1e6)


def main() -> None:
    load = msgspec.json.decode(sys.stdin.buffer.read(), type=GrpcLoad)
    outcome = uvloop.run(_Run(load).outcome())
    sys.stdout.write(f"{wrk.MARKER}{msgspec.json.encode(outcome).decode()}\n")


if __name__ == "__main__":
    main()
