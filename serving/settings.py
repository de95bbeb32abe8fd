"""Every bound, address and choice of the product, in frozen groups.

Order of precedence, lowest first: default, file (`--config`), environment, flag. The environment
name of a field is `SERVING_`, the group, the field, in capitals: `log.durability` is
`SERVING_LOG_DURABILITY`; `data_dir` is `SERVING_DATA_DIR`. An unknown key, a wrong unit or an
impossible combination stops the start with the setting's name, its value and what is permitted.

Settings are read once, at start, and passed on by group to the object that needs them.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from serving.errors import SettingInvalid
from serving.issuer_settings import IssuerSettings
from serving.setting_types import Bytes, Count, Group, Port, Seconds
from serving.tls_settings import CertificateRule, PortSettings

PREFIX = "SERVING_"
CLIENT_VARIABLES = frozenset({"SERVING_TOKEN"})
"""Set in a shell for clients such as the load scenarios; no setting, and no mistake either."""


class HttpSettings(PortSettings):
    """The inference port and the limits of its protocol (RELIABILITY, default limits)."""

    port: Port = 8000
    """Inference over HTTP."""
    workers: Annotated[int, Field(ge=1, le=256)] = 1
    """Gateway worker processes; each has its own event loop, port share and log."""
    max_connections: Count = 10_000
    """Per worker; one more is refused with 503."""
    backlog: Count = 1024
    """Connections the kernel holds before they are accepted."""
    max_request_line_bytes: Bytes = 8 * 1024
    """A longer request line is answered 414."""
    max_head_bytes: Bytes = 32 * 1024
    """Request line and headers together; above it 431."""
    max_header_count: Count = 100
    """More headers are answered 431."""
    max_header_bytes: Bytes = 8 * 1024
    """One header, name and value; `Authorization` may use the whole head."""
    max_body_bytes: Bytes = 16 * 1024 * 1024
    """A larger body is answered 413, before it is read where it is announced."""
    max_unpacked_bytes: Bytes = 64 * 1024 * 1024
    """A compressed body that unpacks to more is answered 413."""
    max_unpack_ratio: Count = 100
    """A body that unpacks to more than a MiB and to this many times its size is answered 413."""
    max_buffered_bytes: Bytes = 256 * 1024 * 1024
    """Request bodies being received by all connections of a worker; one that would exceed it is
    refused with 503."""
    head_timeout_s: Seconds = 5.0
    """From the first byte of a request to the end of its head; then 408."""
    body_timeout_s: Seconds = 30.0
    """From the end of the head to the end of the body; then 408."""
    min_body_bytes_per_s: Count = 1024
    """A body slower than this over its whole time is given up with 408."""
    idle_timeout_s: Seconds = 60.0
    """A connection without a request is closed after this."""
    write_timeout_s: Seconds = 30.0
    """A client that does not take its answer is cut off after this."""
    head_cache_entries: Count = 4096
    """Distinct request heads whose parse is remembered per worker."""


class GrpcSettings(PortSettings):
    """The inference port over gRPC and the limits of its protocol. All limits are per worker."""

    port: Port = 8001
    """Inference over gRPC."""
    max_message_bytes: Bytes = 16 * 1024 * 1024
    """A larger message, compressed or not, is refused with RESOURCE_EXHAUSTED."""
    max_metadata_bytes: Bytes = 32 * 1024
    """All metadata of a call together; above it RESOURCE_EXHAUSTED."""
    max_calls: Count = 4096
    """Calls being received or answered; one more is refused with RESOURCE_EXHAUSTED."""
    max_streams_per_connection: Count = 1024
    """Calls in flight on one connection; the client waits with more."""
    max_health_watches: Count = 64
    """Open `Watch` calls of the health service, which need no token; one more is refused."""
    keepalive_s: Seconds = 60.0
    """A silent connection is asked for a sign of life after this."""
    keepalive_timeout_s: Seconds = 20.0
    """A connection that gives none for this long is closed."""
    min_ping_interval_s: Seconds = 10.0
    """A client that pings an idle connection more often is cut off."""
    idle_timeout_s: Seconds = 300.0
    """A connection without a call is closed after this."""

    @model_validator(mode="after")
    def _asks_for_certificates(self) -> "GrpcSettings":
        if self.client_ca is not None and not self.requires_clients:
            raise ValueError(
                "client_certificates cannot be optional here: the gRPC library asks all clients for "
                "one, or none"
            )
        return self


class MetricsSettings(PortSettings):
    """Prometheus metrics of every process, on one port."""

    port: Port = 8002
    """`GET /metrics` for Prometheus."""


class ControlSettings(PortSettings):
    """The control port and the leases of replicas."""

    port: Port = 8003
    """Status, snapshots and leases."""
    lease_s: Seconds = 10.0
    """A replica that has not renewed for this long is no longer published."""
    renew_s: Seconds = 2.0
    """How often a replica renews its lease; at most half of `lease_s`."""
    reconcile_s: Seconds = 1.0
    """How often the desired state is compared with what Ray Serve reports."""
    ready_timeout_s: Seconds = 180.0
    """`serving up` gives up when the models are not ready by then."""

    @model_validator(mode="after")
    def _renewed_in_time(self) -> "ControlSettings":
        if self.renew_s * 2 > self.lease_s:
            raise ValueError("control.renew_s must be at most half of control.lease_s")
        return self


class AccessSettings(Group):
    """Whose tokens are believed, and how long a verified one is remembered."""

    issuers: tuple[IssuerSettings, ...] = ()
    """The organisation's own issuers; a file only."""
    local_issuer: bool | None = None
    """Believe what `serving token` prints. None: only when there are no other issuers."""
    issuer: str = "serving-local"
    """The `iss` claim of the local issuer."""
    audience: str = "serving"
    """The `aud` claim of the local issuer."""
    leeway_s: Annotated[float, Field(ge=0, le=300)] = 60.0
    """Clock difference allowed for `iat`, `nbf` and `exp` of its tokens."""
    max_token_lifetime_s: Seconds = 86_400.0
    """A token of the local issuer valid for longer is refused, and not issued."""
    max_token_bytes: Bytes = 8 * 1024
    """A longer credential is refused before it is looked at."""
    token_cache_entries: Count = 10_000
    """Verified credentials remembered per worker."""
    certificates: tuple[CertificateRule, ...] = ()
    """Whom a client certificate names when it comes without a token or key; the first that fits."""
    certificate_binds_token: bool = False
    """Refuse a token or key whose subject is not the common name of the certificate beside it."""

    @property
    def has_local_issuer(self) -> bool:
        """Whether the local issuer is one of those that are believed."""
        return not self.issuers if self.local_issuer is None else self.local_issuer

    @model_validator(mode="after")
    def _issuers_differ(self) -> "AccessSettings":
        names = [each.name for each in self.issuers] + [self.issuer] * self.has_local_issuer
        if len(set(names)) != len(names):
            raise ValueError("access.issuers and access.issuer must have different names")
        return self


class AdmissionSettings(Group):
    """How much work a gateway worker accepts before it refuses. All limits are per worker."""

    max_in_flight: Count = 2048
    """Admitted and unanswered, of everybody; one more is refused with 503."""
    max_in_flight_per_caller: Count = 64
    """Of one subject; one more is refused with 429."""
    max_in_flight_per_model: Count = 512
    """Of one model; one more is refused with 503."""
    max_queued_rows: Count = 4096
    """Per model version, waiting for a frame; one more request is refused with 503."""
    max_queued_bytes: Bytes = 256 * 1024 * 1024
    """Of all admitted inputs together; bounds memory whatever the row size."""
    max_memory_share: Annotated[float, Field(gt=0.1, le=2)] = 0.95
    """Of the container's limit or the machine's memory, by everybody: above it requests are refused
    with 503, and 0.05 below it those larger than 64 KiB; 2 switches this off."""
    max_queue_wait_s: Seconds = 0.1
    """For a frame, while a replica is up. A request that would wait for half of it is refused with
    503, as is one that did for all of it; two runs of the model are always permitted."""
    weights: dict[str, Annotated[float, Field(gt=0, le=1000)]] = Field(default_factory=dict)
    """Subjects whose share of a busy model is not 1: with 3, three times as many rows."""
    default_deadline_s: Seconds = 1.0
    """When the caller names none."""
    max_deadline_s: Seconds = 60.0
    """A longer one asked for by the caller is shortened to this."""


class QuotaRule(Group):
    """What the callers that fit may use. None: no limit of that kind."""

    subject: str = "*"
    """Pattern with `*` and `?` for the credential's subject."""
    tenant: str = "*"
    """The same for its tenant; a rule binds who fits both."""
    shared: bool = False
    """One allowance for all that fit together, instead of one for each."""
    requests_per_s: Annotated[float, Field(gt=0)] | None = None
    """Admitted ones."""
    rows_per_s: Annotated[float, Field(gt=0)] | None = None
    """Answered ones; a caller in debt waits until it has run out."""
    compute_ms_per_s: Annotated[float, Field(gt=0)] | None = None
    """Milliseconds of model time, a caller's share by rows of the batches it was in."""
    burst_s: Seconds = 1.0
    """How many seconds' worth of the limits above may be used at once."""
    requests_per_day: Annotated[float, Field(gt=0)] | None = None
    """Of any day: what was used comes back evenly over 24 hours."""
    rows_per_day: Annotated[float, Field(gt=0)] | None = None
    """The same for rows."""
    compute_ms_per_day: Annotated[float, Field(gt=0)] | None = None
    """The same for model time."""


class ChannelSettings(Group):
    """Frames between a gateway worker and a replica."""

    credits: Annotated[int, Field(ge=1, le=64)] = 2
    """Frames in flight per worker and replica. One fills while one runs."""
    max_frame_rows: Count = 64
    """A frame closes at this many rows."""
    max_frame_bytes: Bytes = 256 * 1024
    """A frame closes at this size; one larger request still travels alone."""
    max_message_bytes: Bytes = 128 * 1024 * 1024
    """A longer frame or answer closes the connection it came on."""
    connect_timeout_s: Seconds = 2.0
    """For opening the connection to a replica."""
    stall_timeout_s: Seconds = 10.0
    """A replica that answers no frame for this long is dropped and its rows go elsewhere."""


class LogSettings(Group):
    """The prediction log. `durability` says what an answer waits for."""

    durability: Literal["fsync", "process", "async", "off"] = "fsync"
    """fsync: on disk (power loss). process: handed to the kernel (process death). async: nothing.
    off exists to measure the price of the log; the product then records nothing and says so."""
    segment_bytes: Annotated[int, Field(ge=64 * 1024)] = 256 * 1024 * 1024
    """A segment is sealed at this size and the next one begins."""
    max_record_bytes: Bytes = 160 * 1024 * 1024
    """A larger record is refused with 503."""
    max_pending_bytes: Bytes = 256 * 1024 * 1024
    """Records waiting for the disk; above it the gateway stops admitting."""
    commit_timeout_s: Seconds = 5.0
    """A commit slower than this fails its requests with 503 `log_unavailable`."""
    min_free_bytes: Annotated[int, Field(ge=0)] = 64 * 1024 * 1024
    """Below this much free space no prediction is admitted."""


class ShadowSettings(Group):
    """Copies for candidates: bounded, dropped first."""

    max_queued_rows: Count = 256
    """Per candidate version and worker; above it a copy is dropped and counted."""
    max_bytes: Bytes = 64 * 1024 * 1024
    """Inputs held by all copies for a candidate, waiting or running; above it they are dropped."""
    deadline_s: Seconds = 5.0
    """A copy that waited longer is recorded as `timeout`."""


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


class Deployment(Group):
    """One model to serve: the version that answers, its candidates, and how many replicas."""

    model: str
    """Folder name in `models_dir`."""
    stable: str
    """The version that answers."""
    shadows: tuple[str, ...] = ()
    """Candidate versions that get a copy of every answered request."""
    min_replicas: Annotated[int, Field(ge=1, le=256)] = 1
    """Replicas of each version, always."""
    max_replicas: Annotated[int, Field(ge=1, le=256)] = 1
    """More than `min_replicas` lets the replicas' own load decide between the two."""
    num_gpus: Annotated[float, Field(ge=0)] = 0.0
    """GPUs that Ray reserves for one replica; fractions share a device."""
    tenant: str = ""
    """Who owns the model. Only the tenant's own principals, and those granted more, can see that
    there is one; empty shares it with everybody."""
    optional: bool = False
    """Leave the model out, with a word, when its artifact is not on this machine."""

    @model_validator(mode="after")
    def _consistent(self) -> "Deployment":
        if self.max_replicas < self.min_replicas:
            raise ValueError("max_replicas must be at least min_replicas")
        if self.stable in self.shadows:
            raise ValueError("shadows must not name the stable version")
        return self


DEMO = (
    Deployment(model="census-employment", stable="1", shadows=("2",)),
    Deployment(model="image-orientation", stable="1"),
    Deployment(model="file-type", stable="1"),
    Deployment(model="sentence-embedding", stable="1", optional=True),
)


class Settings(Group):
    """The whole tree. `data_dir` holds everything the product writes, mode 0700."""

    data_dir: Path = Path(".serving")
    """Everything the product writes: keys, prediction log, logs, sockets."""
    models_dir: Path | None = None
    """Folder of model folders; None means `models/` beside the package."""
    http: HttpSettings = HttpSettings()
    grpc: GrpcSettings = GrpcSettings()
    metrics: MetricsSettings = MetricsSettings()
    control: ControlSettings = ControlSettings()
    access: AccessSettings = AccessSettings()
    admission: AdmissionSettings = AdmissionSettings()
    quotas: tuple[QuotaRule, ...] = ()
    """How much callers may use; every rule that fits a caller binds it. In a file only."""
    channel: ChannelSettings = ChannelSettings()
    log: LogSettings = LogSettings()
    shadow: ShadowSettings = ShadowSettings()
    inference: InferenceSettings = InferenceSettings()
    ray: RaySettings = RaySettings()
    telemetry: TelemetrySettings = TelemetrySettings()
    deployments: tuple[Deployment, ...] = DEMO

    @property
    def tenants(self) -> dict[str, str]:
        """Models that belong to a tenant, and to which."""
        return {each.model: each.tenant for each in self.deployments if each.tenant}

    @model_validator(mode="after")
    def _distinct(self) -> "Settings":
        ports = [self.http.port, self.grpc.port, self.metrics.port, self.control.port]
        if len(set(ports)) != len(ports):
            raise ValueError("http.port, grpc.port, metrics.port and control.port must differ")
        names = [deployment.model for deployment in self.deployments]
        if len(set(names)) != len(names):
            raise ValueError("deployments must name each model once")
        return self


def load(
    *,
    config: Path | None = None,
    environment: Mapping[str, str] | None = None,
    flags: Mapping[str, Any] | None = None,
) -> Settings:
    """The effective settings.

    config: a YAML file shaped like the groups. environment: `os.environ` when None. flags: dotted
    names (`http.port`) to values; None values are ignored. Raises SettingInvalid.
    """
    values = _from_file(config) if config is not None else {}
    environment = os.environ if environment is None else environment
    for name, value in environment.items():
        if name.startswith(PREFIX) and name not in CLIENT_VARIABLES:
            _assign(values, _path_of(name, value), value)
    for dotted, value in (flags or {}).items():
        if value is not None:
            _assign(values, dotted.split("."), value)
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        raise SettingInvalid(_explain(error)) from error


def _from_file(config: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(config.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SettingInvalid(f"cannot read the configuration {config}: {error}") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise SettingInvalid(f"{config} must hold groups of settings, not {type(values).__name__}")
    return values


def _path_of(name: str, value: str) -> list[str]:
    """The dotted path of an environment name. Raises SettingInvalid when there is no such one."""
    rest = name.removeprefix(PREFIX).lower()
    if rest in Settings.model_fields:
        return [rest]
    group, _, field = rest.partition("_")
    annotation = Settings.model_fields[group].annotation if group in Settings.model_fields else None
    if isinstance(annotation, type) and issubclass(annotation, Group):
        if field in annotation.model_fields:
            return [group, field]
        known = ", ".join(f"{PREFIX}{group.upper()}_{f.upper()}" for f in annotation.model_fields)
    else:
        known = ", ".join(f"{PREFIX}{g.upper()}_…" for g in Settings.model_fields)
    raise SettingInvalid(f"{name}={value!r} is not a setting; known here: {known}")


def _assign(values: dict[str, Any], path: list[str], value: object) -> None:
    for key in path[:-1]:
        group = values.setdefault(key, {})
        if not isinstance(group, dict):
            raise SettingInvalid(f"{key} must be a group of settings, not {group!r}")
        values = group
    values[path[-1]] = value


def _explain(error: ValidationError) -> str:
    lines = []
    for detail in error.errors(include_url=False):
        name = ".".join(str(part) for part in detail["loc"]) or "settings"
        value = "" if isinstance(detail["input"], dict) else f" = {str(detail['input'])[:80]!r}"
        lines.append(f"{name}{value}: {detail['msg']}")
    return "; ".join(lines)
