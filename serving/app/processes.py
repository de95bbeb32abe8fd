"""Which processes make up an instance, and what each is started with."""

import secrets
from typing import Final

from serving.app.children import ChildPlan
from serving.app.directory import DataDirectory
from serving.inference.environment import ray_environment
from serving.settings import Settings
from serving.trust.privatefiles import read_or_create

HEAD: Final = "head"
CONTROL: Final = "control"
LEDGER: Final = "ledger"
MONITOR: Final = "monitor"
IDLE: Final = (LEDGER, MONITOR)
"""They get the time that nobody else wants."""
TOKEN_BYTES: Final = 32
GATEWAY_MEMORY: Final = {"MALLOC_MMAP_THRESHOLD_": str(4 * 1024 * 1024)}
"""By itself glibc keeps blocks of up to 32 MiB for later once it has freed one: after a few large bodies
a worker holds hundreds of MiB that nobody uses. With a threshold that stays, they go back at once."""


def gateway_names(settings: Settings) -> list[str]:
    return [f"gateway-{index}" for index in range(settings.http.workers)]


def plan_children(settings: Settings, directory: DataDirectory) -> list[ChildPlan]:
    """In the order of a start: the head where there is one, control, the gateway workers, the
    ledger, the monitor."""
    embedded = settings.inference.engine == "ray" and settings.ray.address is None
    local = settings.inference.engine == "local"
    ray = {} if local else _ray_environment(directory, embedded=embedded)
    environments = {"worker": GATEWAY_MEMORY, LEDGER: {}, MONITOR: {}}

    def plan(name: str, module: str, index: int = 0) -> ChildPlan:
        return ChildPlan(
            name=name,
            module=f"serving.app.{module}",
            arguments=("--settings", str(directory.settings_file), "--index", str(index)),
            log=directory.process_log(name),
            environment=environments.get(module, ray),
            idle=module in IDLE,
        )

    heads = [plan(HEAD, "head")] if embedded else []
    control = plan(CONTROL, "local_control" if local else "control")
    gateways = [plan(name, "worker", index) for index, name in enumerate(gateway_names(settings))]
    return [*heads, control, *gateways, *(plan(name, name) for name in IDLE)]


def _ray_environment(directory: DataDirectory, *, embedded: bool) -> dict[str, str]:
    if not embedded:
        return ray_environment(token_file=None)
    file = directory.ray_token_file
    read_or_create(file, lambda: secrets.token_hex(TOKEN_BYTES).encode())
    return ray_environment(token_file=file)
