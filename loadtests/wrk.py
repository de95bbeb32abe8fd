"""Closed-loop load from wrk: one thread, N connections, the next request when the answer is there.

wrk costs about 5 us of CPU per request, less than anything else here. It counts from the send and
fills in what slow answers kept it from sending, so its percentiles are those of a closed loop: they
say nothing about latency at a given load. A script makes it print one line of JSON at the end,
which holds what its table rounds away. As wrk counts them, `refused` are answers of 400 and above;
nothing that is measured here redirects.
"""

import resource
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

MARKER: Final = "wrk-outcome "
GRACE_S: Final = 30.0
TIMEOUT_S: Final = 10

_DONE: Final = """
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    'wrk-outcome {"requests":%d,"seconds":%.6f,"refused":%d,"broken":%d,"timeouts":%d,' ..
    '"p50_ms":%.3f,"p90_ms":%.3f,"p99_ms":%.3f,"p999_ms":%.3f,"max_ms":%.3f}\\n',
    summary.requests, summary.duration / 1e6, e.status, e.connect + e.read + e.write, e.timeout,
    latency:percentile(50) / 1e3, latency:percentile(90) / 1e3, latency:percentile(99) / 1e3,
    latency:percentile(99.9) / 1e3, latency.max / 1e3))
end
"""


class WrkFailed(Exception):
    """wrk is missing, or did not say what it measured."""


@dataclass(frozen=True, slots=True)
class Load:
    """One request, sent over and over."""

    url: str
    headers: Mapping[str, str]
    body: bytes
    connections: int


class Outcome(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What wrk counted. refused: status 400 and above. broken: connect, read and write errors."""

    requests: int
    seconds: float
    refused: int
    broken: int
    timeouts: int
    p50_ms: float
    p90_ms: float
    p99_ms: float
    p999_ms: float
    max_ms: float
    cpu_s: float = 0.0
    """CPU time of wrk itself."""

    @property
    def errors(self) -> int:
        return self.refused + self.broken + self.timeouts


def find() -> str:
    """Where wrk is. Raises WrkFailed with the way to install it."""
    path = shutil.which("wrk")
    if path is None:
        raise WrkFailed("wrk is not installed; on Debian and Ubuntu: apt-get install wrk")
    return path


def run(load: Load, *, seconds: float, folder: Path) -> Outcome:
    """Loads for that long; whole seconds, because wrk knows no others. Raises WrkFailed.

    folder: for the script, which holds the token and is removed again.
    """
    path = folder / "load.lua"
    path.touch(mode=0o600)
    path.write_text(script(load))
    whole_s = max(1, round(seconds))
    command = [find(), "--threads=1", f"--connections={load.connections}", f"--duration={whole_s}s"]
    command += [f"--timeout={TIMEOUT_S}s", f"--script={path}", load.url]
    before_s = _children_s()
    try:
        done = subprocess.run(  # noqa: S603 - the command line is the benchmark's own
            command, capture_output=True, text=True, timeout=whole_s + GRACE_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise WrkFailed(f"wrk did not end: {load.url}") from error
    finally:
        path.unlink()
    if done.returncode:
        raise WrkFailed(f"wrk ended with {done.returncode}: {done.stderr or done.stdout}")
    return parse(done.stdout, cpu_s=_children_s() - before_s)


def parse(text: str, *, cpu_s: float = 0.0) -> Outcome:
    """What wrk printed. Raises WrkFailed when the line of the script is not there or not right."""
    lines = [line for line in text.splitlines() if line.startswith(MARKER)]
    if len(lines) != 1:
        raise WrkFailed(f"wrk printed no outcome: {text[-500:]}")
    try:
        outcome = msgspec.json.decode(lines[0].removeprefix(MARKER), type=Outcome)
    except msgspec.DecodeError as error:
        raise WrkFailed(f"wrk printed an outcome that cannot be read: {lines[0]}") from error
    return msgspec.structs.replace(outcome, cpu_s=cpu_s or outcome.cpu_s)


def script(load: Load) -> str:
    """The Lua script: the request as constants, so that wrk renders it once, and `done`."""
    headers = "".join(
        f"wrk.headers[{_lua(name.encode())}] = {_lua(value.encode())}\n"
        for name, value in load.headers.items()
    )
    return f'wrk.method = "POST"\nwrk.body = {_lua(load.body)}\n{headers}{_DONE}'


def _lua(content: bytes) -> str:
    """A string literal with every byte as a decimal escape: nothing to quote, nothing to break."""
    return '"' + "".join(f"\\{byte:03d}" for byte in content) + '"'


def _children_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
