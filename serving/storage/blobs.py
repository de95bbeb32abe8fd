"""Large objects in an S3-compatible service: the one place that knows how to reach it.

`ObjectBlobs` keeps the promises that artifacts rest on (`artifacts.store.Blobs`): an object appears
whole or not at all, and one that is there is not written over by whoever adds the same name later,
which the service itself decides (a conditional put). Whatever fails is an OSError.
"""

import contextlib
import os
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, NotFoundError, PreconditionError
from obstore.store import ObjectStore, S3Store

from serving.errors import ArtifactMissing, SettingInvalid
from serving.storage_settings import BlobSettings
from serving.tls_settings import is_loopback

if TYPE_CHECKING:  # known to type checkers only
    from obstore.store import ClientConfig, S3Config

READ_BYTES: Final = 1024 * 1024
TIMEOUT: Final = "60s"
CONNECT_TIMEOUT: Final = "5s"


def open_bucket(settings: BlobSettings, folder: str = "") -> ObjectStore:
    """The store at `blobs.url`, below `folder`; connects when first used. Raises SettingInvalid."""
    parts = urlsplit(settings.url)
    prefix = "/".join(each for each in (parts.path.strip("/"), folder.strip("/")) if each)
    if not parts.netloc:
        raise SettingInvalid("blobs.url names no bucket")
    options: ClientConfig = {
        "timeout": TIMEOUT,
        "connect_timeout": CONNECT_TIMEOUT,
        "allow_http": _plain_text(settings),
    }
    return S3Store(
        parts.netloc,
        prefix=prefix or None,
        config=_configuration(settings),
        client_options=options,
    )


class ObjectBlobs:
    """Fits `artifacts.store.Blobs`."""

    def __init__(self, store: ObjectStore, scratch: Path) -> None:
        """scratch: a private folder for what is being written."""
        self._store = store
        self._scratch = scratch

    @contextlib.contextmanager
    def written(self, pieces: Iterable[bytes]) -> Iterator[Path]:
        """A private file with `pieces` that is gone afterwards."""
        self._scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._scratch / f".{secrets.token_hex(8)}.new"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                for piece in pieces:
                    file.write(piece)
            yield path
        finally:
            path.unlink(missing_ok=True)

    def add(self, name: str, file: Path) -> bool:
        """False when the name is taken."""
        with _failing_as_files():
            try:
                obstore.put(self._store, name, file, mode="create")
            except (AlreadyExistsError, PreconditionError):
                return False
        return True

    def replace(self, name: str, content: bytes) -> None:
        with _failing_as_files():
            obstore.put(self._store, name, content)

    def read(self, name: str) -> Iterator[bytes]:
        """Raises ArtifactMissing."""
        with _failing_as_files(name):
            for piece in obstore.get(self._store, name).stream(READ_BYTES):
                yield bytes(piece)

    def stamp(self, name: str) -> str:
        """Changes when the content is written anew. Raises ArtifactMissing."""
        with _failing_as_files(name):
            found = obstore.head(self._store, name)
        return f"{found['e_tag']} {found['size']} {found['last_modified'].isoformat()}"

    def names(self) -> list[str]:
        """All there are, sorted."""
        with _failing_as_files():
            return sorted(each["path"] for page in obstore.list(self._store) for each in page)

    def remove(self, name: str) -> None:
        """Harmless when it is gone already."""
        with _failing_as_files(), contextlib.suppress(NotFoundError, FileNotFoundError):
            obstore.delete(self._store, name)


def _configuration(settings: BlobSettings) -> "S3Config":
    configuration: S3Config = {"region": settings.region}
    if settings.endpoint:
        configuration["endpoint"] = settings.endpoint
    if settings.access_key_file is not None and settings.secret_key_file is not None:
        configuration["access_key_id"] = settings.access_key_file.read_text().strip()
        configuration["secret_access_key"] = settings.secret_key_file.read_text().strip()
    return configuration


def _plain_text(settings: BlobSettings) -> bool:
    """Whether HTTP without TLS may be spoken. Raises SettingInvalid for an endpoint that needs it."""
    endpoint = urlsplit(settings.endpoint)
    if endpoint.scheme != "http":
        return False
    if not settings.plain_text and not is_loopback(endpoint.hostname or ""):
        raise SettingInvalid(
            f"blobs.endpoint {settings.endpoint} would be spoken to without encryption: give it "
            "https, or say blobs.plain_text: true if nobody else can listen"
        )
    return True


@contextlib.contextmanager
def _failing_as_files(name: str = "") -> Iterator[None]:
    try:
        yield
    except (NotFoundError, FileNotFoundError) as error:
        if not name:
            raise
        raise ArtifactMissing(f"{name} is not in the artifact store") from error
    except BaseError as error:
        raise OSError(f"the object store failed: {error}") from error
