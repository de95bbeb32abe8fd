"""What a gateway worker accepts, sends on and copies. All limits are per worker."""

from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from serving.setting_types import Bytes, Count, Group, Seconds
from serving.tls_settings import TlsFiles


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
    concurrent: Count | None = None
    """Admitted and unanswered, whichever worker has them; on one node, or all that share."""
    requests_per_day: Annotated[float, Field(gt=0)] | None = None
    """Of any day: what was used comes back evenly over 24 hours."""
    rows_per_day: Annotated[float, Field(gt=0)] | None = None
    """The same for rows."""
    compute_ms_per_day: Annotated[float, Field(gt=0)] | None = None
    """The same for model time."""


class QuotaSharingSettings(Group):
    """Quotas that hold over all nodes together, through Redis."""

    redis_url: str | None = None
    """Such as redis://10.0.0.5:6379/0, or rediss:// with TLS; None: every node for itself."""
    password_file: Path | None = None
    """Holds the password of Redis, which does not belong into the address."""
    interval_s: Annotated[float, Field(ge=0.01, le=10)] = 0.1
    """From one turn to the next. What other nodes hand out in between is learned afterwards."""
    timeout_s: Seconds = 0.5
    """Redis counts as away when it has not answered by then."""
    when_down: Literal["share", "local", "refuse"] = "share"
    """While it is away each node gives out its part of every limit, all of it, or nothing."""
    nodes: Count = 1
    """At least so many nodes share while Redis is away, also before it was ever seen."""

    @model_validator(mode="after")
    def _without_password(self) -> "QuotaSharingSettings":
        if self.redis_url is not None and urlsplit(self.redis_url).password is not None:
            raise ValueError("quota_sharing.redis_url must not hold a password; use password_file")
        return self


class ChannelSettings(TlsFiles):
    """Frames between a gateway worker and a replica."""

    listen: Literal["unix", "tls"] = "unix"
    """unix: replicas run on the gateways' node. tls: on any node; each end shows `certificate` and
    believes what `client_ca` signed, an authority that signs for nothing else."""
    host: str | None = None
    """Address that replicas listen on with tls; None: that of their node."""
    credits: Annotated[int, Field(ge=1, le=64)] = 2
    """Frames in flight per worker and replica, and so many full ones in rows: of a slow model what is
    worth a frame leaves in smaller ones, too, and is there when a run ends."""
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

    @model_validator(mode="after")
    def _mutual(self) -> "ChannelSettings":
        if self.listen == "tls" and not self.requires_clients:
            raise ValueError("listen: tls needs certificate, key and client_ca, all required")
        return self


class ShadowSettings(Group):
    """Copies for candidates: bounded, dropped first."""

    max_queued_rows: Count = 256
    """Per candidate version and worker; above it a copy is dropped and counted."""
    max_bytes: Bytes = 64 * 1024 * 1024
    """Inputs held by all copies for a candidate, waiting or running; above it they are dropped."""
    deadline_s: Seconds = 5.0
    """A copy that waited longer is recorded as `timeout`."""
