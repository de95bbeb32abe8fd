"""What verbs that read the ledger can be asked for, and where an instance keeps what they read."""

import getpass
from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import Annotated, Final

import typer

from serving.app.directory import DataDirectory
from serving.audit.events import Event, EventName
from serving.audit.spool import Spool
from serving.cli.groups import AtDirectory
from serving.cli.output import complain
from serving.core.clock import SystemClock
from serving.core.predictions import Fate
from serving.errors import NotFound, ParameterInvalid
from serving.ledger.places import Place, cold_place
from serving.predictionlog.privacy.subjects import PayloadKeys
from serving.predictionlog.reading.query import Query, instant_ns
from serving.settings import Settings

Since = Annotated[
    str | None, typer.Option(help="Only what arrived since: 15m, 2h, 1d ago, or an ISO time.")
]
Until = Annotated[str | None, typer.Option(help="Only what arrived before; as --since.")]
Model = Annotated[str, typer.Option(help="Only this model.")]
Version = Annotated[str, typer.Option(help="Only this version.")]
Principal = Annotated[str, typer.Option(help="Only this caller.")]
OfFate = Annotated[
    str | None, typer.Option(help=f"One of {', '.join(f.name.lower() for f in Fate)}.")
]
OfPrediction = Annotated[str, typer.Option("--id", help="Only this prediction.")]
OfRequest = Annotated[str, typer.Option("--request-id", help="Only with this request id.")]
WithoutSubject = Annotated[
    bool, typer.Option("--without-subject", help="Only what names no data subject.")
]
Limit = Annotated[int | None, typer.Option(min=1, help="Only the newest so many.")]


DAMAGED: Final = 1


@dataclass(frozen=True, slots=True)
class Conditions:
    """Options as they were written."""

    since: Since = None
    until: Until = None
    model: Model = ""
    version: Version = ""
    principal: Principal = ""
    fate: OfFate = None
    prediction_id: OfPrediction = ""
    request_id: OfRequest = ""
    without_subject: WithoutSubject = False

    def query(
        self, *, limit: int | None = None, newest_first: bool = False, salvage: bool = False
    ) -> Query:
        """Raises ParameterInvalid."""
        now_ns = SystemClock().wall_ns()
        return Query(
            since_ns=None if self.since is None else instant_ns(self.since, now_ns=now_ns),
            until_ns=None if self.until is None else instant_ns(self.until, now_ns=now_ns),
            model=self.model,
            version=self.version,
            principal=self.principal,
            fate=None if self.fate is None else _fate(self.fate),
            prediction_id=self.prediction_id,
            request_id=self.request_id,
            without_subject=self.without_subject,
            limit=limit,
            newest_first=newest_first,
            salvage=salvage,
        )


def _fate(text: str) -> Fate:
    try:
        return Fate[text.upper()]
    except KeyError as error:
        names = ", ".join(fate.name.lower() for fate in Fate)
        raise ParameterInvalid(f"--fate {text[:64]!r} is none of {names}") from error


@dataclass(frozen=True, slots=True)
class AtLedger(AtDirectory):
    """The ledger of the instance on a data directory; it need not run."""

    def files(self) -> "LedgerFiles":
        """Raises NotFound, SettingInvalid."""
        return LedgerFiles(self.settings())


class LedgerFiles:
    """Where the ledger of an instance lies."""

    def __init__(self, settings: Settings) -> None:
        """Raises NotFound."""
        self.settings = settings
        self.directory = DataDirectory.at(settings.data_dir)
        self.log = self.directory.log
        if not self.log.is_dir():
            raise NotFound(
                f"{self.log} does not exist; has the product run with this data directory?"
            )
        self.place: Place = cold_place(self.settings.blobs, self.directory.root)
        self.keys = PayloadKeys.at(self.directory.root)

    def testify(self, name: EventName, what: Conditions, *, reason: str = "") -> None:
        """An event of the audit trail about who takes payloads. Raises NotReady: then do not."""
        actor = f"os:{getpass.getuser()}"
        facts = {key: value for key, value in asdict(what).items() if value}
        event = Event(name, actor, "log:payloads", after=facts, reason=reason, source="cli")
        Spool(self.directory.audit).add(event, at_ns=SystemClock().wall_ns())


def complain_of(damaged: Collection[str], missing: Collection[str] = ()) -> None:
    """Names what was not read, and ends the command with exit status 1 if there is any.

    damaged: segments that do not hold. missing: what retention deleted meanwhile."""
    for what, names in (
        ("damaged, run `serving log verify`", damaged),
        ("deleted before it was read", missing),
    ):
        if names:
            complain(f"serving: {what}: {', '.join(sorted(names))}")
    if damaged or missing:
        raise typer.Exit(DAMAGED)
