"""Closed-loop load over gRPC from h2load (Debian: nghttp2-client), for `grpc_load` where it is there.

A C program that costs some microseconds per call, so that the server is what is measured. It knows no
gRPC: an answer counts by the bytes of its message, so a call that was refused, whose status is in its
trailers, is missing from them. Times come from its log of requests. The metadata are arguments of its
command line: the token of a benchmark's own instance.
"""

import re
import resource
import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import numpy as np
from numpy.typing import NDArray

from loadtests import wrk

PREFIX_BYTES: Final = 5
"""In front of every message."""

QUANTILES: Final = (50, 90, 99, 99.9, 100)
_TIME: Final = 2
"""The column of the log with microseconds."""

_COUNTS: Final = re.compile(r"requests: .* (\d+) done, (\d+) succeeded, (\d+) failed")
_CONTENT: Final = re.compile(r"headers \([^)]*\), \S+ \((\d+)\) data")


def find() -> str | None:
    return shutil.which("h2load")


def run(
    command: list[str], *, message: bytes, answer_bytes: int, seconds: float, grace_s: float
) -> wrk.Outcome:
    """Sends `message` for so long, whole seconds. command: all but what is sent and for how long.
    answer_bytes: of the message of every good answer; 0 when the question before this run had none,
    which counts as broken. Raises WrkFailed."""
    whole_s = max(1, round(seconds))
    with TemporaryDirectory() as name:
        body, log = Path(name, "body"), Path(name, "log")
        body.write_bytes(b"\0" + len(message).to_bytes(4) + message)
        more = [f"--duration={whole_s}", f"--data={body}", f"--log-file={log}"]
        before_s = _children_s()
        try:
            done = subprocess.run(  # noqa: S603 - the command line is the benchmark's own
                [command[0], *more, *command[1:]],
                capture_output=True,
                text=True,
                timeout=whole_s + grace_s,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise wrk.WrkFailed("h2load did not end") from error
        cpu_s = _children_s() - before_s
        return parse(
            done.stdout,
            times_us=times_of(log.read_text()),
            answer_bytes=answer_bytes,
            seconds=whole_s,
            cpu_s=cpu_s,
        )


def parse(
    text: str, *, times_us: NDArray[np.float64], answer_bytes: int, seconds: float, cpu_s: float
) -> wrk.Outcome:
    """What h2load printed. Raises WrkFailed when the counts are not there."""
    counts, content = _COUNTS.search(text), _CONTENT.search(text)
    if counts is None or content is None:
        raise wrk.WrkFailed(f"h2load printed no counts: {text[-500:]}")
    answered = min(int(counts[2]), int(content[1]) // (PREFIX_BYTES + answer_bytes))
    quantiles = np.percentile(times_us if len(times_us) else [0.0], QUANTILES) / 1e3
    p50_ms, p90_ms, p99_ms, p999_ms, max_ms = (float(value) for value in quantiles)
    return wrk.Outcome(
        requests=answered,
        seconds=seconds,
        refused=int(counts[2]) - answered,
        broken=int(counts[3]) + (not answer_bytes),
        timeouts=0,
        p50_ms=p50_ms,
        p90_ms=p90_ms,
        p99_ms=p99_ms,
        p999_ms=p999_ms,
        max_ms=max_ms,
        cpu_s=cpu_s,
    )


def times_of(log: str) -> NDArray[np.float64]:
    """Microseconds of each request that was answered."""
    rows = [line.split("\t") for line in log.splitlines()]
    return np.array([float(row[_TIME]) for row in rows if row[1] != "-1"])


def _children_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
