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

from serving.artifact_settings import ArtifactSettings
from serving.audit_settings import AuditSettings
from serving.comparison_settings import ComparisonSettings
from serving.engine_settings import (
    InferenceSettings,
    RaySettings,
    TelemetrySettings,
)
from serving.errors import SettingInvalid
from serving.gateway_settings import (
    AdmissionSettings,
    ChannelSettings,
    QuotaRule,
    QuotaSharingSettings,
    ShadowSettings,
)
from serving.governance_settings import GovernanceSettings, WebhookSettings
from serving.issuer_settings import IssuerSettings
from serving.ledger_settings import LedgerSettings
from serving.port_settings import (
    ControlSettings,
    GrpcSettings,
    HttpSettings,
    MetricsSettings,
)
from serving.privacy_settings import PrivacySettings
from serving.rollout_settings import RolloutSettings
from serving.setting_types import Bytes, Count, Group, Seconds
from serving.storage_settings import BlobSettings, RegistrySettings
from serving.tls_settings import CertificateRule
from serving.traffic_settings import CanaryShare, ShadowShare

PREFIX = "SERVING_"
CLIENT_VARIABLES = frozenset({"SERVING_TOKEN"})
"""Set in a shell for clients such as the load scenarios; no setting, and no mistake either."""


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
    max_payload_bytes: Bytes = 64 * 1024 * 1024
    """Tensors of a request and its answer that are larger together are recorded as their SHA-256."""
    compress_bytes: Annotated[int, Field(ge=64 * 1024)] | None = None
    """Payloads of at least so many bytes are compressed (zstd) in the event loop; None: none is."""
    spill_dir: Path | None = None
    """Where records of models with policy `at_least_once` go while the log refuses; best on another
    disk. None: there is no such place, and the policy is that of `fail_closed`."""
    spill_bytes: Bytes = 1024 * 1024 * 1024
    """The most that is held there for each worker; above it requests are refused."""


class Deployment(Group):
    """One model to serve: the version that answers, its candidates, and how many replicas."""

    model: str
    """Folder name in `models_dir`."""
    stable: str
    """The version that answers."""
    shadows: tuple[ShadowShare, ...] = ()
    """Candidate versions that get copies of answered requests: a name for a copy of each, or
    `version`, `share`, `budget` and `segments`."""
    canaries: tuple[CanaryShare, ...] = ()
    """Versions that answer a share of the requests: `version` and `weight`."""
    sticky: Literal["request", "principal", "subject", "header"] = "request"
    """What keeps a caller on one side of the weights."""
    testers: tuple[str, ...] = ()
    """Subjects that may choose a version with the header `Serving-Version`, like operators."""
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
        if self.stable in {each.version for each in self.shadows}:
            raise ValueError("shadows must not name the stable version")
        if self.stable in {each.version for each in self.canaries}:
            raise ValueError("canaries must not name the stable version")
        if sum(each.weight for each in self.canaries) > 1 + 1e-9:
            raise ValueError("the weights of canaries come to more than 1")
        return self

    @property
    def versions(self) -> tuple[str, ...]:
        """Everything named, each once: the stable version first, then canaries, then shadows."""
        named = [self.stable, *(each.version for each in self.canaries)]
        return tuple(dict.fromkeys([*named, *(each.version for each in self.shadows)]))


DEMO = (
    Deployment(model="census-employment", stable="1", shadows=(ShadowShare(version="2"),)),
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
    quota_sharing: QuotaSharingSettings = QuotaSharingSettings()
    channel: ChannelSettings = ChannelSettings()
    log: LogSettings = LogSettings()
    ledger: LedgerSettings = LedgerSettings()
    comparison: ComparisonSettings = ComparisonSettings()
    shadow: ShadowSettings = ShadowSettings()
    privacy: PrivacySettings = PrivacySettings()
    inference: InferenceSettings = InferenceSettings()
    ray: RaySettings = RaySettings()
    telemetry: TelemetrySettings = TelemetrySettings()
    artifacts: ArtifactSettings = ArtifactSettings()
    registry: RegistrySettings = RegistrySettings()
    audit: AuditSettings = AuditSettings()
    governance: GovernanceSettings = GovernanceSettings()
    webhooks: WebhookSettings = WebhookSettings()
    rollouts: RolloutSettings = RolloutSettings()
    blobs: BlobSettings = BlobSettings()
    deployments: tuple[Deployment, ...] = DEMO
    """What is served."""

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
    groups = [each for each in Settings.model_fields if rest.startswith(f"{each}_")]
    group = max(groups, key=len, default="")
    field = rest.removeprefix(f"{group}_")
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
