"""The control process with its models on Ray: the only driver of the cluster."""

from serving.app.child import run_child
from serving.app.directory import DataDirectory
from serving.app.location import read_location
from serving.app.plane import run_control
from serving.core.clock import SystemClock
from serving.errors import StartFailed
from serving.inference.cluster import RayEngine
from serving.settings import Settings

POLL_S = 0.05


def main(settings: Settings, _index: int) -> None:
    run_control(settings, RayEngine(settings.ray, locate=lambda: locate(settings)))


def locate(settings: Settings) -> str:
    """The cluster's address; waits for the embedded one. Raises StartFailed."""
    if settings.ray.address is not None:
        return settings.ray.address
    directory, clock = DataDirectory.at(settings.data_dir), SystemClock()
    end_ns = clock.monotonic_ns() + round(settings.ray.start_timeout_s * 1e9)
    while clock.monotonic_ns() < end_ns and not directory.final_stop:
        location = read_location(directory.ray_file)
        if location is not None and location.address:
            return location.address
        clock.sleep(POLL_S)
    raise StartFailed(
        f"the embedded Ray cluster did not start within ray.start_timeout_s = "
        f"{settings.ray.start_timeout_s:g}; see the head's log"
    )


if __name__ == "__main__":
    run_child("control", main)
