"""How often primaries disagree with themselves, as measured, kept beside the monitor's state.

One file, by the digest of the primary, and there by `output.comparator`: disagreements and records.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from serving.errors import ParameterInvalid
from serving.trust.privatefiles import held, replace_private

FILE_NAME: Final = "noise-floors.json"

Counts = dict[str, tuple[int, int]]
Floors = Mapping[str, Counts]


def read_floors(folder: Path) -> Floors:
    """Empty where nothing was measured. Raises ParameterInvalid for a file that cannot be read."""
    path = folder / FILE_NAME
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Counts])
    except FileNotFoundError:
        return {}
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ParameterInvalid(f"{path} holds no noise floors: {error}; remove it") from error


def write_floor(folder: Path, digest: str, counts: Counts) -> None:
    """Replaces what was measured of this primary. Raises OSError, ParameterInvalid."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with held(folder / f"{FILE_NAME}.lock"):
        known = {**read_floors(folder), digest: counts}
        replace_private(folder / FILE_NAME, msgspec.json.encode(known))
