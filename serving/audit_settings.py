"""Settings of the audit trail."""

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

from serving.setting_types import Group, Seconds

File = Annotated[Path, AfterValidator(Path.absolute)]


class AuditSettings(Group):
    """How often the trail is signed, and where the signatures go."""

    anchor: File | None = None
    """File that signed checkpoints are appended to; put it out of reach of whoever can write the
    database. None: `audit/anchor.txt` in the data directory."""
    checkpoint_s: Seconds = 1.0
    """Between two checkpoints while events come: what could be changed unseen is at most that old."""
