"""What the environment must say before `ray` is imported: Ray reads most of it only once.

The supervisor gives these variables to the head and to control; the raylet hands them on to every
worker. Nothing here imports Ray.

- Loopback: without `RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0` Ray replaces 127.0.0.1 by the machine's
  address and opens its control ports, which run code for whoever reaches them, to the network.
- Token: every port of Ray asks for it; it is made for this data directory only.
- Workers are started ahead, as many as the cluster has CPUs, while Ray's agents start: they become
  Serve's controller and the first replicas, which saves a third of the time until ready. None is
  started for a driver on top of that; those would stay idle.
- No usage report, no memory monitor (its victims would be our replicas; the kernel decides instead),
  kernel-chosen ports for metrics that nobody scrapes: two clusters on one machine do not meet.
- Serve: a slower control loop and metrics interval, which only cost idle CPU here.
"""

from pathlib import Path
from typing import Final

_LOG_BYTES: Final = str(8 * 1024 * 1024)

_EMBEDDED: Final = {
    "AUTOSCALER_METRIC_PORT": "0",
    "DASHBOARD_METRIC_PORT": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_ROTATION_BACKUP_COUNT": "1",
    "RAY_ROTATION_MAX_BYTES": _LOG_BYTES,
    "RAY_enable_metrics_collection": "0",
    "RAY_enable_worker_prestart": "1",
    "RAY_memory_monitor_refresh_ms": "0",
    "RAY_prestart_worker_first_driver": "0",
}

_EVERYWHERE: Final = {
    "RAY_DEDUP_LOGS": "0",
    "RAY_SERVE_COMPACT_LONG_POLL_METRIC_TAGS": "1",
    "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.5",
    "RAY_SERVE_LOG_TO_STDERR": "0",
    "RAY_SERVE_METRICS_EXPORT_INTERVAL_MS": "2000",
    "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE": "1000",
    "RAY_USAGE_STATS_ENABLED": "0",
}


def ray_environment(*, token_file: Path | None) -> dict[str, str]:
    """Variables for the processes that import Ray.

    token_file: of the embedded cluster, or None for a cluster of the operator's, whose own
    variables (`RAY_AUTH_MODE`, its token, TLS) are left as they are.
    """
    if token_file is None:
        return dict(_EVERYWHERE)
    return {**_EVERYWHERE, **_EMBEDDED, "RAY_AUTH_TOKEN_PATH": str(token_file)}
