"""Where the embedded Ray cluster is: written by the head, read by control and the supervisor."""

from pathlib import Path
from typing import Final

import msgspec

TEMPORARY_PREFIX: Final = "serving-ray-"


class RayLocation(msgspec.Struct, frozen=True):
    """address: of the cluster, empty until it answers. temporary: its sockets and logs."""

    address: str
    temporary: str


def write_location(path: Path, location: RayLocation) -> None:
    """Readers see the old one or the new one, never a part."""
    temporary = path.with_suffix(".new")
    temporary.write_bytes(msgspec.json.encode(location))
    temporary.replace(path)


def read_location(path: Path) -> RayLocation | None:
    """None while no head has begun."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=RayLocation)
    except (FileNotFoundError, msgspec.DecodeError):
        return None
