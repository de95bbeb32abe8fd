"""Legal holds: what must not be deleted or erased, why, and since when.

A hold is on a model or on a data subject. It beats retention and erasure until it is released, and
whoever is refused is told its reason. The list is one private file that is replaced whole.
"""

import secrets
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Final

import msgspec

from serving.errors import NotFound, NotReady, StartFailed
from serving.trust.privatefiles import held, read_private, replace_private

_NAME: Final = "holds.json"


class Hold(msgspec.Struct, frozen=True):
    """One hold, on `model` or on the subject with the tag `subject` (hexadecimal); the other is
    empty. placed_ns: wall clock."""

    id: str
    reason: str
    by: str
    placed_ns: int
    model: str = ""
    subject: str = ""

    @property
    def on(self) -> str:
        """For people; a subject is not named, its tag is."""
        return f"model {self.model}" if self.model else f"data subject {self.subject}"


Change = Callable[[tuple[Hold, ...]], tuple[Hold, ...]]


class Holds:
    """The holds of one data directory; any process may ask, and change them."""

    def __init__(self, folder: Path) -> None:
        """folder: `<data_dir>/subjects`."""
        self._path = folder / _NAME

    def listed(self) -> tuple[Hold, ...]:
        """Oldest first. Raises StartFailed when the list is damaged: nothing may be deleted then."""
        try:
            return msgspec.json.decode(read_private(self._path), type=tuple[Hold, ...])
        except FileNotFoundError:
            return ()
        except (OSError, msgspec.DecodeError) as error:
            raise StartFailed(f"{self._path} does not hold the legal holds: {error}") from error

    def of_model(self, model: str) -> Hold | None:
        return next((hold for hold in self.listed() if hold.model == model), None)

    def of_subject(self, tag: str) -> Hold | None:
        """tag: in hexadecimal."""
        return next((hold for hold in self.listed() if hold.subject and hold.subject == tag), None)

    def place(
        self, *, reason: str, by: str, now_ns: int, model: str = "", subject: str = ""
    ) -> Hold:
        """Returns when it is on disk. Raises NotReady, and then there is none."""
        hold = Hold(secrets.token_hex(4), reason, by, now_ns, model, subject)
        self._change(lambda holds: (*holds, hold))
        return hold

    def release(self, *, model: str = "", subject: str = "") -> list[Hold]:
        """Those on this model, or on this subject, that are gone. Raises NotFound, NotReady."""
        released = [
            hold for hold in self.listed() if (hold.model, hold.subject) == (model, subject)
        ]
        if not released:
            raise NotFound("there is no such hold")
        gone = {hold.id for hold in released}
        self._change(lambda holds: tuple(hold for hold in holds if hold.id not in gone))
        return released

    def _change(self, change: Change) -> None:
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with held(self._path.with_suffix(".lock")):
                replace_private(self._path, msgspec.json.encode(change(self.listed())))
        except OSError as error:
            raise NotReady("the hold cannot be kept on disk, so nothing was changed") from error


def blocking(
    holds: Collection[Hold], *, models: Collection[str], subjects: Collection[str] = ()
) -> Hold | None:
    """The first hold that keeps records of these models, or of these subjects (tags)."""
    return next(
        (
            hold
            for hold in holds
            if hold.model in models or (hold.subject and hold.subject in subjects)
        ),
        None,
    )
