"""The access state on disk: one JSON file, private, versioned, replaced whole.

A change is written to a new file, synced and renamed over the old one before anybody is told of it,
so a crash leaves the state before or after and never a part. A file that cannot be read stops the
start: an empty state in its place would let in everybody who was ever revoked.
"""

from pathlib import Path

import msgspec

from serving.access.keys import replace_private
from serving.access.state import FORMAT, AccessState
from serving.errors import NotReady, StartFailed


class AccessStore:
    """The state of one data directory, and beside it when its keys were last used."""

    def __init__(self, path: Path) -> None:
        """path: of the state; made by the first `save`."""
        self._path = path
        self._uses_path = path.with_name(f"{path.stem}-uses.json")

    def load(self) -> AccessState:
        """What was saved last, else an empty state. Raises StartFailed."""
        try:
            state = msgspec.json.decode(self._path.read_bytes(), type=AccessState)
        except FileNotFoundError:
            return AccessState()
        except (OSError, msgspec.DecodeError) as error:
            raise StartFailed(
                f"{self._path} does not hold the access state: {error}; restore it from a backup"
            ) from error
        if state.format != FORMAT:
            raise StartFailed(
                f"{self._path} has format {state.format}, this version reads {FORMAT}; restore the "
                "file of this version, or run the version that wrote it"
            )
        return state

    def save(self, state: AccessState) -> None:
        """Returns when it is on disk. Raises NotReady, and then nothing has changed."""
        try:
            replace_private(self._path, msgspec.json.encode(state))
        except OSError as error:
            raise NotReady("the change cannot be kept on disk, so it was not made") from error

    def load_uses(self) -> dict[str, int]:
        """Key to the wall time in seconds of its last use; what cannot be read is forgotten."""
        try:
            return msgspec.json.decode(self._uses_path.read_bytes(), type=dict[str, int])
        except (OSError, msgspec.DecodeError):
            return {}

    def save_uses(self, uses: dict[str, int]) -> None:
        """Raises OSError."""
        replace_private(self._uses_path, msgspec.json.encode(uses))
