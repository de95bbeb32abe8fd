"""Where models run, the cluster below them, and what is told about it."""

from typing import Annotated, Literal

from pydantic import Field

from serving.setting_types import Count, Group, Seconds


class InferenceSettings(Group):
    """Where models run, and on what."""

    engine: Literal["ray", "local"] = "ray"
    """ray: replicas are Ray Serve deployments. local: threads of the control process, no Ray."""
    device: Literal["cpu", "prefer_gpu", "require_gpu"] = "prefer_gpu"
    """require_gpu refuses to start on CPU; prefer_gpu warns once and uses the CPU."""
    tensorrt: bool = False
    """Ask for TensorRT before CUDA."""
    threads: Annotated[int, Field(ge=1, le=256)] = 1
    """Intra-op threads of one session; they do not spin."""
    run_timeout_s: Seconds = 30.0
    """A run longer than this is terminated and its rows fail."""


class RaySettings(Group):
    """The Ray cluster. With no `address` an embedded one is started on loopback."""

    address: str | None = None
    """GCS address of a running cluster; none starts an embedded one."""
    num_cpus: Count = 2
    """Logical CPUs of the embedded cluster."""
    replica_cpus: Annotated[float, Field(ge=0)] = 0.1
    """Logical CPUs that one replica reserves."""
    object_store_bytes: Annotated[int, Field(ge=78_643_200)] = 78_643_200
    """Of the embedded cluster; the smallest Ray accepts, since rows never go through it."""
    start_timeout_s: Seconds = 90.0
    """For the embedded cluster to answer."""


class TelemetrySettings(Group):
    """Traces and logs. Metrics have a port of their own."""

    otlp_endpoint: str | None = None
    """Base URL of an OTLP/HTTP collector, such as http://127.0.0.1:4318; None exports nothing."""
    sampling_ratio: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Share of requests traced when the caller's context does not decide. Errors always are."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Of the structured logs below `data_dir`."""
