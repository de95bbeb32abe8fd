"""The embedded Ray cluster: on loopback, behind a token, ending with the process that started it.

Apart from `serving.inference.cluster`, so that the head, which does nothing but hold the cluster,
loads neither Ray Serve nor ONNX Runtime.
"""

import logging
from pathlib import Path
from typing import Final

import ray
from ray.exceptions import RayError

from serving.engine_settings import RaySettings
from serving.errors import StartFailed

LOOPBACK: Final = "127.0.0.1"
ATTEMPTS: Final = 3
FAILURES: Final = (RayError, OSError, TimeoutError, RuntimeError, ValueError)


def start_embedded(settings: RaySettings, *, temporary: Path) -> str:
    """Starts the cluster and returns its address; call it in the main thread.

    temporary: a short, private, empty folder. The environment must be `ray_environment`'s. Tried
    again because Ray's node gives up when its agents start slowly. Raises StartFailed.
    """
    for attempt in range(1, ATTEMPTS + 1):
        try:
            ray.init(
                address="local",
                num_cpus=settings.num_cpus,
                include_dashboard=False,
                object_store_memory=settings.object_store_bytes,
                log_to_driver=False,
                logging_level=logging.WARNING,
                _node_ip_address=LOOPBACK,
                _temp_dir=str(temporary),
            )
        except FAILURES as error:
            ray.shutdown()
            if attempt == ATTEMPTS:
                raise StartFailed(f"the embedded Ray cluster does not start: {error}") from error
        else:
            return str(ray.get_runtime_context().gcs_address)
    raise StartFailed("the embedded Ray cluster was never tried. This is a bug")


def stop_embedded() -> None:
    ray.shutdown()
