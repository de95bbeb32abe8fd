"""The access state on disk: one JSON file, private, versioned, replaced whole.

A change is written to a new file, synced and renamed over the old one before anybody is told of it,
so a crash leaves the state before or after and never a part. A file that cannot be read stops the
start: an empty state in its place would let in everybody who was ever revoked.

What has to be told of a change (its audit event) is in the same file, so that there is neither
without the other; it stays there until whoever keeps the trail has it.
"""

from pathlib import Path

import msgspec

from serving.access.state import FORMAT, AccessState
from serving.errors import NotReady, StartFailed
from serving.trust.privatefiles import replace_private


class _File(AccessState, frozen=True, kw_only=True):
    """The state with the notices of changes that were not handed on yet, as JSON."""

    notices: tuple[msgspec.Raw, ...] = ()


class AccessStore:
    """The state of one data directory, and beside it when its keys were last used."""

    def __init__(self, path: Path) -> None:
        """path: of the state; made by the first `save`."""
        self._path = path
        self._kept = _File()
        self._uses_path = path.with_name(f"{path.stem}-uses.json")

    def load(self) -> AccessState:
        """What was saved last, else an empty state. Raises StartFailed."""
        try:
            kept = msgspec.json.decode(self._path.read_bytes(), type=_File)
        except FileNotFoundError:
            return AccessState()
        except (OSError, msgspec.DecodeError) as error:
            raise StartFailed(
                f"{self._path} does not hold the access state: {error}; restore it from a backup"
            ) from error
        if kept.format != FORMAT:
            raise StartFailed(
                f"{self._path} has format {kept.format}, this version reads {FORMAT}; restore the "
                "file of this version, or run the version that wrote it"
            )
        self._kept = kept
        return _state_of(kept)

    def save(self, state: AccessState, *, notice: bytes | None = None) -> None:
        """Returns when both are on disk. notice: JSON that somebody has to be told.

        Raises NotReady, and then nothing has changed.
        """
        notices = self._kept.notices
        if notice is not None:
            notices = (*notices, msgspec.Raw(notice))
        self._write(_File(**msgspec.structs.asdict(state), notices=notices))

    def notices(self) -> tuple[bytes, ...]:
        """What has to be told, oldest first."""
        return tuple(bytes(each) for each in self._kept.notices)

    def forget(self, count: int) -> None:
        """The first `count` notices were told. Raises NotReady; then they are told again."""
        self._write(msgspec.structs.replace(self._kept, notices=self._kept.notices[count:]))

    def load_uses(self) -> dict[str, int]:
        """Key to the wall time in seconds of its last use; what cannot be read is forgotten."""
        try:
            return msgspec.json.decode(self._uses_path.read_bytes(), type=dict[str, int])
        except (OSError, msgspec.DecodeError):
            return {}

    def save_uses(self, uses: dict[str, int]) -> None:
        """Raises OSError."""
        replace_private(self._uses_path, msgspec.json.encode(uses))

    def _write(self, kept: _File) -> None:
        try:
            replace_private(self._path, msgspec.json.encode(kept))
        except OSError as error:
            raise NotReady("the change cannot be kept on disk, so it was not made") from error
        self._kept = kept


def _state_of(kept: _File) -> AccessState:
    fields = {name: getattr(kept, name) for name in AccessState.__struct_fields__}
    return AccessState(**fields)
