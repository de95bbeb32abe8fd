"""Symbols of Ray that it does not promise to keep, all in one place, with a test of their presence.

`missing_symbols` runs at every start: a Ray that moved one of them is refused with its name, instead
of failing in the middle of a deployment or, worse, opening a port to the network.
"""

import inspect
from typing import Any, Final

from ray import serve
from ray.serve import config
from ray.serve._private import replica as serve_replica

LOOPBACK: Final = "127.0.0.1:0"
_BIND: Final = "add_port_to_grpc_server"
_OPTIONS: Final = ("max_surge_percent", "autoscaling_config", "max_constructor_retry_count")


def missing_symbols() -> list[str]:
    """Names that this Ray lacks; empty when everything is there."""
    present = {
        f"ray.serve._private.replica.{_BIND}": hasattr(serve_replica, _BIND),
        "ray.serve.run_many": hasattr(serve, "run_many"),
        "ray.serve.RunTarget": hasattr(serve, "RunTarget"),
        "ray.serve.config.AutoscalingPolicy": hasattr(config, "AutoscalingPolicy"),
    }
    parameters = inspect.signature(serve.deployment).parameters
    present |= {f"ray.serve.deployment({name}=)": name in parameters for name in _OPTIONS}
    return [name for name, there in present.items() if not there]


def keep_replica_server_on_loopback() -> None:
    """Binds the gRPC server that Serve opens in every replica to loopback.

    It would listen on all interfaces and unpickle what it receives. Nobody uses it: frames have
    their own socket, and Serve's controller talks through Ray's actor calls. Call it inside the
    replica's process before its constructor returns; Serve opens the server after that.
    """
    original = getattr(serve_replica, _BIND)

    def bind(server: Any, _address: str) -> Any:
        return original(server, LOOPBACK)

    setattr(serve_replica, _BIND, bind)
