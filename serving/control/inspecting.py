"""Has an artifact tried out in a process that is thrown away afterwards, whatever becomes of it.

The process works on a private copy in the open, which is gone when it is; it has an empty environment,
a session of its own that is killed as a whole, and the limits that it puts on itself
(`inference.inspection`). Nothing that it does is believed but its bounded report, and its death, or its
silence beyond the time limit, is a report as well.
"""

import contextlib
import math
import os
import secrets
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from serving.artifact_settings import ArtifactSettings
from serving.core.models import ModelVersion
from serving.inference.reports import (
    MAX_REPORT_BYTES,
    Code,
    GoldenVector,
    InspectionOrder,
    InspectionReport,
)

MODULE: Final = "serving.inference.inspection"
PACKAGES: Final = Path(__file__).resolve().parents[2]
EXTRA_MEMORY_BYTES: Final = 1024**3
_TAIL_BYTES: Final = 4096

Contents = Mapping[str, Callable[[], Iterable[bytes]]]
"""What gives the bytes of each file, by its path."""


@dataclass(frozen=True, slots=True)
class Specimen:
    """What is to be inspected. files: SHA-256 by path. parity: answers of the source model, by the
    end of their file's name; golden: answers of an earlier inspection."""

    model: str
    version: str
    files: Mapping[str, str]
    contents: Contents
    definition: ModelVersion | None = None
    parity: tuple[str, Callable[[], Iterable[bytes]]] | None = None
    golden: tuple[GoldenVector, ...] = ()


class InspectionStopped(Exception):
    """The product stops: there is no report."""


class Inspector:
    """One inspection at a time, from one thread; `stop` comes from any other."""

    def __init__(self, folder: Path, settings: ArtifactSettings) -> None:
        """folder: where private copies lie while they are looked at."""
        self._folder = folder
        self._settings = settings
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped = False

    def inspect(self, specimen: Specimen) -> InspectionReport:
        """Raises InspectionStopped, OSError, and what the contents raise."""
        work = self._folder / secrets.token_hex(8)
        work.mkdir(mode=0o700, parents=True)
        try:
            self._lay_out(work, specimen)
            return self._watch(work, specimen)
        finally:
            shutil.rmtree(work, ignore_errors=True)

    def clean(self) -> None:
        """Removes what an inspection left whose process was killed."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def stop(self) -> None:
        """Ends the inspection in progress and lets none begin."""
        with self._lock:
            self._stopped = True
            if self._process is not None:
                _kill(self._process)

    # -- inside ----------------------------------------------------------------------------------

    def _lay_out(self, work: Path, specimen: Specimen) -> None:
        size = 0
        for path, content in specimen.contents.items():
            size += _write(work / "files" / path, content())
        parity = ""
        if specimen.parity is not None:
            parity = "parity.npz" if specimen.parity[0].endswith(".npz") else "parity.json"
            _write(work / parity, specimen.parity[1]())
        order = InspectionOrder(
            folder=str(work / "files"),
            files=dict(specimen.files),
            model=specimen.model,
            version=specimen.version,
            definition=specimen.definition,
            domains=self._settings.operator_domains,
            parity=parity,
            golden=specimen.golden,
            memory_bytes=2 * size + EXTRA_MEMORY_BYTES,
            cpu_s=math.ceil(self._settings.inspection_s) + 1,
        )
        _write(work / "order.json", (msgspec.json.encode(order),))

    def _watch(self, work: Path, specimen: Specimen) -> InspectionReport:
        process = self._begin(work)
        try:
            process.wait(self._settings.inspection_s)
            in_time = True
        except subprocess.TimeoutExpired:
            in_time = False
        finally:
            _kill(process)
            process.wait()
        with self._lock:
            self._process = None
            if self._stopped:
                raise InspectionStopped
        if in_time and process.returncode == 0:
            report = _read(work / "report.json")
            if report is not None:
                return report
        code, reason = self._verdict(work, process.returncode, in_time=in_time)
        return InspectionReport(
            code=code, reason=reason, stage=_stage(work), files=dict(specimen.files)
        )

    def _begin(self, work: Path) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._stopped:
                raise InspectionStopped
            with (work / "stderr").open("wb") as complaints:
                self._process = subprocess.Popen(  # noqa: S603 - our own module, no shell
                    [sys.executable, "-P", "-s", "-m", MODULE, str(work)],
                    cwd=work,
                    env=_environment(work),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=complaints,
                    start_new_session=True,
                )
            return self._process

    def _verdict(self, work: Path, status: int, *, in_time: bool) -> tuple[Code, str]:
        """What it means that there is no report."""
        where = f"while {_stage(work) or 'starting'}"
        if not in_time or status == -signal.SIGXCPU:
            return (
                "out_of_time",
                f"it was not done after {self._settings.inspection_s:g} s, {where}",
            )
        if status == -signal.SIGKILL:
            return "out_of_memory", f"it was killed by the system {where}, or took too long"
        said = _tail(work / "stderr")
        if "bad_alloc" in said or "MemoryError" in said:
            return "out_of_memory", f"it takes more memory than permitted, {where}"
        how = f"signal {-status}" if status < 0 else f"exit status {status}"
        return "crashed", f"the inspection crashed ({how}) {where}"


def _environment(work: Path) -> dict[str, str]:
    """Nothing of ours but where the product's code lies."""
    single = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    return {
        "PATH": os.defpath,
        "LANG": "C.UTF-8",
        "HOME": str(work),
        "PYTHONPATH": str(PACKAGES),
        "PYTHONDONTWRITEBYTECODE": "1",
        **single,
    }


def _write(path: Path, pieces: Iterable[bytes]) -> int:
    """A private file; how large it is."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    size = 0
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        for piece in pieces:
            size += file.write(piece)
    return size


def _kill(process: subprocess.Popen[bytes]) -> None:
    """The whole group: also what it may have started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _read(path: Path) -> InspectionReport | None:
    """The report, as far as it is one."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        with os.fdopen(descriptor, "rb") as file:
            content = file.read(MAX_REPORT_BYTES + 1)
        if len(content) > MAX_REPORT_BYTES:
            return None
        return msgspec.json.decode(content, type=InspectionReport)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _stage(work: Path) -> str:
    return _tail(work / "stage")[:80]


def _tail(path: Path) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
            return file.read(_TAIL_BYTES).decode(errors="replace")
    except OSError:
        return ""
