"""The head: owns the embedded Ray cluster, and does nothing else.

Ray's processes live and die with the process that started them. Were that control, its restart would
cost every replica; so a process that holds no other state holds the cluster. It writes the address to
`run/ray.json` and waits for SIGTERM.
"""

import signal
import tempfile
import threading
from pathlib import Path

import structlog

from serving.app.child import run_child
from serving.app.directory import DataDirectory
from serving.app.location import TEMPORARY_PREFIX, RayLocation, write_location
from serving.inference.embedded import start_embedded, stop_embedded
from serving.settings import Settings

logger = structlog.get_logger()


def main(settings: Settings, _index: int) -> None:
    directory = DataDirectory.at(settings.data_dir)
    stopping = threading.Event()
    # Short, because the sockets below it must fit into 107 bytes.
    temporary = tempfile.mkdtemp(prefix=TEMPORARY_PREFIX)
    write_location(directory.ray_file, RayLocation("", temporary))
    address = start_embedded(settings.ray, temporary=Path(temporary))
    # Ray puts a handler of its own in place, so ours comes after it.
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    write_location(directory.ray_file, RayLocation(address, temporary))
    logger.info("ray started", address=address)
    stopping.wait()
    stop_embedded()
    logger.info("ray stopped")


if __name__ == "__main__":
    run_child("head", main)
