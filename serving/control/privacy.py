"""Erasure, access and legal holds of data subjects: each act on the files, each with its evidence.

The same object works in the control process and in a command on the machine when nothing runs: what it
changes are files that gateway workers follow. Before an act its event is on disk (`audit.spool`); an act
that then fails gets a second event that says so. No event names a subject: it holds its tag.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from serving.audit.events import Event, EventName
from serving.audit.spool import Spool
from serving.core.actors import Actor
from serving.core.clock import Clock
from serving.errors import LegalHold, ParameterInvalid, ServingError
from serving.predictionlog.privacy.erasures import Erased, Erasures
from serving.predictionlog.privacy.holds import Hold, Holds
from serving.predictionlog.privacy.subjects import MAX_SUBJECT_BYTES, SubjectSecrets

MAX_REASON_LENGTH: Final = 500


class Erasure(msgspec.Struct, frozen=True):
    """What an erasure did. subject: tag. keys: how many were destroyed. spared: what stays for now."""

    subject: str
    keys: int
    spared: tuple[Hold, ...]


class SubjectProtection:
    """The data subjects of one data directory. Every method blocks."""

    def __init__(
        self,
        data_dir: Path,
        *,
        spool: Spool,
        copies: Sequence[Path],
        clock: Clock,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        """copies: folders of copies of the erase list. changed: called after each act."""
        folder = data_dir / "subjects"
        self._keys_dir = data_dir / "keys"
        self._erasures = Erasures(folder, copies=copies)
        self._holds = Holds(folder)
        self._spool = spool
        self._clock = clock
        self._changed = changed

    def tag(self, subject: str) -> str:
        """What stands for a subject in records, holds and events. Raises ParameterInvalid."""
        if not 0 < len(subject.encode()) <= MAX_SUBJECT_BYTES:
            raise ParameterInvalid(f"a subject has 1 to {MAX_SUBJECT_BYTES} bytes")
        return SubjectSecrets.open(self._keys_dir).tag(subject.encode()).hex()

    def erase(self, subject: str, *, reason: str, actor: Actor) -> Erasure:
        """Makes everything recorded of the subject until now unreadable, for good.

        Raises LegalHold when the subject is on hold; models on hold are spared and named.
        """
        tag = self.tag(subject)
        hold = self._holds.of_subject(tag)
        if hold is not None:
            self._write(actor, EventName.SUBJECT_ERASURE_REFUSED, f"subject:{tag}", hold.reason)
            raise LegalHold(f"the data subject is on hold: {hold.reason} ({hold.by})")
        with self._evidenced(actor, EventName.SUBJECT_ERASURE_ORDERED, f"subject:{tag}", reason):
            erased = self._erasures.erase(tag, now_ns=self._clock.wall_ns())
        return self._ended(tag, erased, actor=actor, reason=reason)

    def reapply(self, *, actor: Actor) -> Erased:
        """Erases again whom the erase list names: after a backup was restored."""
        with self._evidenced(actor, EventName.ERASURES_REAPPLIED, "subjects", ""):
            return self._erasures.reapply()

    def place_hold(self, *, model: str, subject: str, reason: str, actor: Actor) -> Hold:
        """On a model or on a subject. Raises ParameterInvalid."""
        if bool(model) == bool(subject):
            raise ParameterInvalid("a hold is on a model or on a subject")
        if not 0 < len(reason.strip()) <= MAX_REASON_LENGTH:
            raise ParameterInvalid(f"a hold has a reason of up to {MAX_REASON_LENGTH} characters")
        tag = self.tag(subject) if subject else ""
        with self._evidenced(actor, EventName.HOLD_PLACED, _object(model, tag), reason):
            return self._holds.place(
                reason=reason,
                by=actor.subject,
                now_ns=self._clock.wall_ns(),
                model=model,
                subject=tag,
            )

    def release(self, *, model: str, subject: str, reason: str, actor: Actor) -> Sequence[Hold]:
        """Ends the holds on a model or subject; erasures that they kept back are done now.

        Each of them is an event of its own.
        """
        tag = self.tag(subject) if subject else ""
        with self._evidenced(actor, EventName.HOLD_RELEASED, _object(model, tag), reason):
            released = self._holds.release(model=model, subject=tag)
            erased = self._erasures.reapply()
            for each, done in erased.by_tag.items():
                self._note_erased(each, done, actor=actor, reason=f"hold released: {reason}")
        return released

    def holds(self) -> Sequence[Hold]:
        return self._holds.listed()

    def note_export(self, subject: str, *, actor: Actor) -> str:
        """Evidence that somebody is about to be shown what was recorded of the subject; its tag."""
        tag = self.tag(subject)
        self._write(actor, EventName.SUBJECT_EXPORTED, f"subject:{tag}", "")
        return tag

    # -- evidence --------------------------------------------------------------------------------

    def _ended(self, tag: str, erased: Erased, *, actor: Actor, reason: str) -> Erasure:
        self._note_erased(tag, erased, actor=actor, reason=reason)
        self._changed()
        return Erasure(tag, erased.keys, erased.spared)

    def _note_erased(self, tag: str, erased: Erased, *, actor: Actor, reason: str) -> None:
        event = Event.by(
            actor,
            EventName.SUBJECT_ERASED,
            f"subject:{tag}",
            after={"keys": erased.keys, "spared": [hold.on for hold in erased.spared]},
            reason=reason[:MAX_REASON_LENGTH],
        )
        self._spool.add(event, at_ns=self._clock.wall_ns())

    @contextmanager
    def _evidenced(self, actor: Actor, name: EventName, on: str, reason: str) -> Iterator[None]:
        self._write(actor, name, on, reason)
        try:
            yield
        except ServingError as error:
            self._write(actor, EventName.PRIVACY_ACT_FAILED, on, f"{name}: {error.message}")
            raise
        self._changed()

    def _write(self, actor: Actor, name: EventName, on: str, reason: str) -> None:
        event = Event.by(actor, name, on, reason=reason[:MAX_REASON_LENGTH])
        self._spool.add(event, at_ns=self._clock.wall_ns())


def _object(model: str, tag: str) -> str:
    return f"model:{model}" if model else f"subject:{tag}"
