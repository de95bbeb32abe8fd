"""What every child process does first and last.

It reads the effective settings, writes logs as JSON lines, and turns a refusal into exit status 2
with one JSON object in `run/<process>.error`, where the supervisor finds the reason. SIGTERM asks it
to stop; SIGINT is the supervisor's alone, because Ctrl-C in a terminal reaches every process.
"""

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from serving.app.directory import DataDirectory
from serving.errors import OperatorError
from serving.settings import Settings
from serving.telemetry import logs
from serving.trust.coredumps import no_core_dumps

REFUSED: Final = 2
"""Exit status of a child that would be refused again: nobody respawns it."""


class Refusal(msgspec.Struct, frozen=True):
    """Why a child gave up."""

    code: str
    message: str


def run_child(process: str, main: Callable[[Settings, int], None]) -> None:
    """Runs `main(settings, index)` as the named process and exits. `{index}` may stand in the name."""
    parser = argparse.ArgumentParser(description="A child of `serving up`; not for people.")
    parser.add_argument("--settings", type=Path, required=True)
    parser.add_argument("--index", type=int, default=0)
    arguments = parser.parse_args()
    os.umask(0o077)
    no_core_dumps()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    name = process.format(index=arguments.index)
    settings = Settings.model_validate_json(arguments.settings.read_bytes())
    logs.configure(process=name, level=settings.telemetry.log_level)
    try:
        main(settings, arguments.index)
    except OperatorError as error:
        refusal = msgspec.json.encode(Refusal(error.code, error.message))
        DataDirectory.at(settings.data_dir).error_file(name).write_bytes(refusal)
        sys.exit(REFUSED)


def stop_event() -> asyncio.Event:
    """An event that SIGTERM sets. Call it on the running loop."""
    asked = asyncio.Event()
    set_on_termination(asked)
    return asked


def set_on_termination(asked: asyncio.Event) -> None:
    """Makes SIGTERM set `asked`; again after Ray has put a handler of its own in place."""
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, asked.set)
