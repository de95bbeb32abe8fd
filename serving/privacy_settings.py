"""Settings of what protects the people that predictions are about."""

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from serving.setting_types import Count, Group, Seconds

Folder = Annotated[Path, AfterValidator(Path.absolute)]


class PrivacySettings(Group):
    """Data subjects: keys, erasure, and how long records are kept at least."""

    max_cached_subjects: Count = 65_536
    """Data subjects, each with a model, whose key a gateway worker remembers; one more makes it
    forget all of them, and make new keys: more keys to look after, nothing else."""
    erase_list_copies: tuple[Folder, ...] = ()
    """Folders, best on other disks, that get a copy of the erase list: a data directory that is
    restored from a backup erases again what they name. In a file only."""
    min_retention_days: Annotated[float, Field(ge=0, le=36_500)] = 0.0
    """No record is deleted before this, whatever a model or `ledger.keep_days` says."""
    follow_s: Seconds = 0.5
    """How often a gateway worker without requests looks for erasures; before it uses a subject's
    key it always does."""
