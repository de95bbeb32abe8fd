"""Settings of what the control plane keeps: its database, and the store of large objects."""

from pathlib import Path
from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from serving.setting_types import Group, Seconds

File = Annotated[Path, AfterValidator(Path.absolute)]


class RegistrySettings(Group):
    """The database of the registry, of approvals and of the audit trail."""

    url: str = ""
    """`postgresql://USER@HOST:PORT/DATABASE`, without a password; empty: SQLite in the data
    directory."""
    password_file: File | None = None
    """File that holds the password of the database, and nothing else."""
    timeout_s: Seconds = 5.0
    """How long a connection, a lock, a statement and a free connection are waited for."""
    connections: Annotated[int, Field(ge=1, le=64)] = 4
    """The most connections held at once; SQLite is written through one."""

    @model_validator(mode="after")
    def _of_a_known_kind(self) -> Self:
        if not self.url:
            return self
        parts = urlsplit(self.url)
        if parts.scheme != "postgresql" or not parts.path.strip("/"):
            raise ValueError(
                "url must be postgresql://USER@HOST:PORT/DATABASE, or empty for SQLite"
            )
        if parts.password:
            raise ValueError("url must hold no password: put it into a file, see password_file")
        return self


class BlobSettings(Group):
    """Where large objects lie: artifacts, shipped segments. Empty: in the data directory."""

    url: str = ""
    """`s3://BUCKET/PREFIX`; empty: folders of the data directory."""
    endpoint: str = ""
    """URL of an S3-compatible service; empty: that of the region."""
    region: str = "us-east-1"
    """Region of the bucket."""
    access_key_file: File | None = None
    """File that holds the access key's identifier; None: as the machine's environment says."""
    secret_key_file: File | None = None
    """File that holds the secret access key."""
    plain_text: bool = False
    """Speak HTTP with an endpoint that is no loopback address."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.url and (urlsplit(self.url).scheme != "s3" or not urlsplit(self.url).netloc):
            raise ValueError("url must be s3://BUCKET/PREFIX, or empty for folders")
        if (self.access_key_file is None) != (self.secret_key_file is None):
            raise ValueError("access_key_file and secret_key_file go together")
        return self
