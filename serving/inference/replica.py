"""The Ray Serve deployment of one model version. Ray places it, checks it, restarts it, scales it.

Serve carries no request: rows come as frames through the listener's own socket. That is also why the
class has no `__call__` and why Serve's own drain sees nothing to wait for: `__del__`, which Serve
calls when it stops a replica, gives the lease back and lets the listener answer what came in.
"""

import gc
from pathlib import Path

import ray
from ray import serve

from serving.core.clock import SystemClock
from serving.inference.hosting import HostedReplica
from serving.inference.plans import ReplicaOrder
from serving.inference.scaling import scaling_figures
from serving.inference.session import OnnxSession
from serving.inference.unstable import keep_replica_server_on_loopback
from serving.telemetry import logs
from serving.trust.coredumps import no_core_dumps

DRAIN_S = 20.0


class Replica:
    """Constructed by Serve inside the replica's process; `order` is a `ReplicaOrder` as JSON."""

    def __init__(self, order: str) -> None:
        keep_replica_server_on_loopback()
        no_core_dumps()
        decoded = ReplicaOrder.decode(order)
        level = decoded.effective_settings().telemetry.log_level
        name = serve.get_replica_context().replica_id.unique_id
        # Ray's own files are gone with the cluster; this one stays beside those of other processes.
        file = Path(decoded.logs) / f"replica-{decoded.version.key}.log"
        self._log = file.open("ab", buffering=0)
        logs.configure(process=f"replica-{name}", level=level, output=self._log)
        self._hosted = HostedReplica(
            decoded,
            replica=name,
            load=OnnxSession.load,
            clock=SystemClock(),
            host=ray.util.get_node_ip_address(),  # type: ignore[no-untyped-call]  # Ray's
        )
        # Serve does the same once it has this object, 0.15 s with the interpreter held for all that was
        # imported; by then gateways are connected and would notice.
        gc.collect()
        gc.freeze()
        self._hosted.start()

    def check_health(self) -> None:
        """Serve replaces the replica when this raises."""
        self._hosted.check()

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Read by `scaling.replicas_wanted` in Serve's controller."""
        return scaling_figures(self._hosted.statistics())

    def __del__(self) -> None:
        hosted = getattr(self, "_hosted", None)
        if hosted is not None:
            hosted.stop(drain_s=DRAIN_S)
