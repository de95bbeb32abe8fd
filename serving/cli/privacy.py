"""`serving privacy`: erasure, access and legal holds of the people that predictions are about."""

import getpass
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, TypeVar

import msgspec
import typer

from serving.app.directory import DataDirectory
from serving.audit.spool import Spool
from serving.cli.groups import AtControl, grouped
from serving.cli.options import Config, DataDir
from serving.cli.output import say_json, table
from serving.control.privacy import Erasure, SubjectProtection
from serving.core.actors import Actor
from serving.core.clock import SystemClock
from serving.core.outcomes import Outcome
from serving.core.predictions import PredictionRecord
from serving.errors import NotFound, NotReady
from serving.ledger.places import cold_place
from serving.ledger.subjectaccess import recorded_of
from serving.predictionlog.privacy.holds import Hold
from serving.predictionlog.privacy.subjects import PayloadKeys
from serving.predictionlog.reading.rendering import record_json, time_text

app = typer.Typer(
    help="Erase, export, and hold what was recorded of data subjects.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Answer = TypeVar("Answer")
Subject = Annotated[
    str, typer.Option(help="As requests name it: header Serving-Subject, or parameter subject.")
]
Model = Annotated[str, typer.Option(help="A model's name.")]
Reason = Annotated[str, typer.Option(help="Why; it goes into the audit trail.")]


@app.command("erase")
@grouped
def erase(
    *,
    subject: Subject,
    reason: Reason = "",
    at: AtControl,
) -> None:
    """Make everything recorded of a data subject unreadable, for good and everywhere.

    Destroys the subject's keys: in the log, in tables, in copies and backups of either its payloads
    are bytes from then on. Records, their times, sizes and fates stay, and so does every signature. A
    legal hold refuses this and says why. Works while the product runs, and without it.

    \b
    Examples:
      serving privacy erase --subject customer-4711 --reason "request of 2026-03-01"
    """
    done = _Desk(at).erase(subject, reason)
    kept = [
        f"kept for now: records of {hold.on}, on hold because: {hold.reason}"
        for hold in done.spared
    ]
    text = f"{done.keys} keys of subject {done.subject} destroyed"
    at.tell(done, lambda: "\n".join([text, *kept]))


@app.command("reapply")
@grouped
def reapply(*, at: AtControl) -> None:
    """Erase again whom the erase list names, after a backup was put back by hand.

    Gateway workers do this for their own keys whenever they start.
    """
    done = _Desk(at).local().reapply(actor=_actor())
    facts = {"keys": done.keys, "spared": done.spared}
    at.tell(facts, lambda: f"{done.keys} keys destroyed")


@app.command("export")
def export(
    *,
    subject: Subject,
    config: Config = None,
    data_dir: DataDir = None,
) -> None:
    """Print all that was recorded of a data subject, one JSON object on each line, tensors whole.

    Predictions from the log and from the tables, then the outcomes that were reported for them. Asking
    is itself an event of the audit trail.

    \b
    Examples:
      serving privacy export --subject customer-4711 > customer-4711.jsonl
    """
    desk = _Desk(AtControl(config=config, data_dir=data_dir))
    tag = desk.local().note_export(subject, actor=_actor())
    for found in desk.recorded_of(tag):
        if isinstance(found, PredictionRecord):
            say_json({"prediction": record_json(found, full=True)})
        else:
            say_json({"outcome": msgspec.to_builtins(found)})


@app.command("hold")
@grouped
def hold(
    *,
    reason: Reason,
    model: Model = "",
    subject: Annotated[str, typer.Option(help="A data subject, instead of a model.")] = "",
    at: AtControl,
) -> None:
    """Keep all records of a model, or of a data subject: no retention and no erasure until released.

    \b
    Examples:
      serving privacy hold --model credit-risk --reason "case 17/26"
    """
    placed = _Desk(at).place_hold(model=model, subject=subject, reason=reason)
    at.tell(placed, lambda: f"hold {placed.id} on {placed.on}")


@app.command("release")
@grouped
def release(
    *,
    model: Model = "",
    subject: Annotated[str, typer.Option(help="A data subject, instead of a model.")] = "",
    reason: Reason = "",
    at: AtControl,
) -> None:
    """End the holds on a model or data subject; erasures that waited for it are done at once."""
    released = _Desk(at).release(model=model, subject=subject, reason=reason)
    at.tell({"released": released}, lambda: f"{len(released)} holds released")


@app.command("holds")
@grouped
def holds(*, at: AtControl) -> None:
    """List the legal holds."""
    listed = _Desk(at).local().holds()
    rows = [(each.id, each.on, time_text(each.placed_ns), each.by, each.reason) for each in listed]
    at.tell({"holds": listed}, lambda: table(("HOLD", "ON", "SINCE", "BY", "REASON"), rows))


class _Desk:
    """Asks the control port where something runs, and does it on the files where nothing does."""

    def __init__(self, at: AtControl) -> None:
        self._settings = at.settings()
        self._directory = DataDirectory.at(self._settings.data_dir)
        if not self._directory.root.is_dir():
            raise NotFound(f"{self._directory.root} does not exist; has the product run there?")
        runs = self._directory.settings_file.exists()
        self._control = at.client() if runs else None

    def local(self) -> SubjectProtection:
        return SubjectProtection(
            self._directory.root,
            spool=Spool(self._directory.audit),
            copies=self._settings.privacy.erase_list_copies,
            clock=SystemClock(),
        )

    def recorded_of(self, tag: str) -> Iterator[PredictionRecord | Outcome]:
        root = self._directory.root
        if not (root / "log").is_dir():
            return iter(())
        place = cold_place(self._settings.blobs, root)
        return recorded_of(tag, log=root / "log", place=place, keys=PayloadKeys.at(root))

    def erase(self, subject: str, reason: str) -> Erasure:
        return self._ask(
            "erasures",
            {"subject": subject, "reason": reason},
            Erasure,
            otherwise=lambda: self.local().erase(subject, reason=reason, actor=_actor()),
        )

    def place_hold(self, *, model: str, subject: str, reason: str) -> Hold:
        return self._ask(
            "holds",
            {"model": model, "subject": subject, "reason": reason},
            Hold,
            otherwise=lambda: self.local().place_hold(
                model=model, subject=subject, reason=reason, actor=_actor()
            ),
        )

    def release(self, *, model: str, subject: str, reason: str) -> Sequence[Hold]:
        answer = self._ask(
            "holds/release",
            {"model": model, "subject": subject, "reason": reason},
            dict[str, tuple[Hold, ...]],
            otherwise=lambda: {
                "released": tuple(
                    self.local().release(
                        model=model, subject=subject, reason=reason, actor=_actor()
                    )
                )
            },
        )
        return answer["released"]

    def _ask(
        self, path: str, order: object, kind: type[Answer], *, otherwise: Callable[[], Answer]
    ) -> Answer:
        """The control port's answer; where there is none, the files are as good."""
        if self._control is None:
            return otherwise()
        try:
            return self._control.post(f"/v1/privacy/{path}", order, kind)
        except NotReady:
            return otherwise()


def _actor() -> Actor:
    return Actor(subject=getpass.getuser(), source="cli")
