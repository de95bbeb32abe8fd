"""What is to run: one application per model version, and the order each of its replicas gets.

An order is JSON, so that nothing but text travels through Ray. An application's name ends in a
fingerprint of everything that its replicas depend on. Whoever compares names alone therefore knows
whether what runs is what is wanted, and a change is always a new application beside the old one,
never a redeployment.
"""

import hashlib
from pathlib import Path
from typing import Final, Literal

import msgspec

from serving.core.models import ModelVersion
from serving.settings import Settings

PREFIX: Final = "m:"
"""Applications named so belong to us; others on the same cluster are left alone."""

_FINGERPRINT_DIGITS: Final = 8


class ReplicaOrder(msgspec.Struct, frozen=True):
    """Everything a replica needs. Paths are absolute.

    release: the file that says why the version may run (`artifacts.release`). artifacts: the folder of
    the sealed artifacts. keys: the folder of the keys that open and verify both. instance: the run
    of the product that it belongs to. settings: effective, as JSON.
    """

    version: ModelVersion
    release: str
    artifacts: str
    sockets: str
    keys: str
    logs: str
    instance: str
    settings: str

    def effective_settings(self) -> Settings:
        return Settings.model_validate_json(self.settings)

    def encode(self) -> str:
        return msgspec.json.encode(self).decode()

    @classmethod
    def decode(cls, text: str) -> "ReplicaOrder":
        return msgspec.json.decode(text, type=cls)


class ApplicationPlan(msgspec.Struct, frozen=True):
    """One model version to run, and how often. node: the address of the node it is tied to."""

    order: ReplicaOrder
    min_replicas: int = 1
    max_replicas: int = 1
    num_gpus: float = 0.0

    @property
    def key(self) -> str:
        return self.order.version.key

    @property
    def name(self) -> str:
        """`m:model@version~fingerprint`; equal for equal plans, also in another process."""
        digest = hashlib.sha256(msgspec.json.encode(self)).hexdigest()
        return f"{PREFIX}{self.key}~{digest[:_FINGERPRINT_DIGITS]}"


State = Literal["starting", "running", "failed", "deleting"]


class ApplicationReport(msgspec.Struct, frozen=True):
    """What an engine knows about one application. replicas: those that run; message: of a failure."""

    state: State
    replicas: int = 0
    message: str = ""


def key_of(application: str) -> str:
    """The `model@version` of an application's name."""
    return application.removeprefix(PREFIX).rpartition("~")[0]


def socket_path(order: ReplicaOrder, replica: str) -> Path:
    return Path(order.sockets) / f"{replica}.sock"
