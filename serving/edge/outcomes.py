"""`POST /v2/models/{model}/outcomes`: what turned out to be true of rows that were predicted.

The body is one report or a list of them, all taken or none:

    {"prediction_id": "0123456789abcdef-1f", "row": 0, "name": "employed", "value": 1,
     "observed_at": "2026-01-31T12:00:00Z", "revision": 1}

`values` may stand for `name` and `value`, with several truths of one row. `row` is 0 and `revision` 0
where they are left out, `observed_at` is now. The same report may be sent any number of times; of
several about one (prediction, row, name) the highest revision counts, and of equals the first. A
`value` of null takes back what was said.
"""

import contextlib
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated, Final

import msgspec
import orjson

from serving.core.outcomes import Outcome, OutcomeValue
from serving.edge.plans import check_media, encoding_of
from serving.edge.routes import Reply, Request, Route
from serving.errors import (
    EncodingUnsupported,
    JsonInvalid,
    ModelRetired,
    NoReplica,
    OutcomeInvalid,
    ParameterInvalid,
)
from serving.gateway.pipeline import Pipeline
from serving.predictionlog.outcomes import prediction_key

MOST_OUTCOMES: Final = 1_000
"""Of one request: a few milliseconds of the loop that also answers predictions."""
MOST_NAME_CHARACTERS: Final = 128
MOST_VALUE_CHARACTERS: Final = 1_024
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_YEARS: Final = range(1970, 2262)
"""What fits 64 bits of nanoseconds."""

_Uint32 = Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)]
_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=MOST_NAME_CHARACTERS)]
_Text = Annotated[str, msgspec.Meta(max_length=MOST_VALUE_CHARACTERS)]
_Value = _Text | int | float | bool | None


class Report(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One member of the body."""

    prediction_id: str
    name: _Name | msgspec.UnsetType = msgspec.UNSET
    value: _Value | msgspec.UnsetType = msgspec.UNSET
    values: dict[_Name, _Value] | msgspec.UnsetType = msgspec.UNSET
    row: _Uint32 = 0
    revision: _Uint32 = 0
    observed_at: datetime | msgspec.UnsetType = msgspec.UNSET


_decode = msgspec.json.Decoder(list[Report] | Report).decode


class OutcomeRoutes:
    """The one route; `pipeline` says which models there are and takes the outcomes in."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline

    def routes(self) -> list[Route]:
        return [Route("POST", "/v2/models/{model}/outcomes", self._report)]

    async def _report(self, request: Request) -> Reply:
        intake, model = self._pipeline.outcomes, request.arguments["model"]
        # The truth about a model's predictions may come when it answers no longer.
        with contextlib.suppress(ModelRetired, NoReplica):
            self._pipeline.table.choose(model)
        check_media(request.headers)
        if encoding_of(request.headers) is not None:
            raise EncodingUnsupported("only the body of an inference may be compressed")
        outcomes = read_outcomes(
            request.body,
            model=model,
            principal=request.principal.subject,
            now_ns=intake.now_ns(),
        )
        recorded = await intake.record(outcomes, model=model)
        return Reply(200, orjson.dumps({"recorded": recorded}))


def read_outcomes(body: bytes, *, model: str, principal: str, now_ns: int) -> list[Outcome]:
    """Everything that the body reports. Raises JsonInvalid, OutcomeInvalid."""
    try:
        found = _decode(body)
    except msgspec.ValidationError as error:
        raise OutcomeInvalid(f"not an outcome: {error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise JsonInvalid("the body is not JSON") from error
    reports = found if isinstance(found, list) else [found]
    outcomes = []
    for index, report in enumerate(reports):
        try:
            prediction_key(report.prediction_id)
            observed_ns = _observed_ns(report, now_ns)
            truths = list(_truths(report))
        except (ParameterInvalid, ValueError) as error:
            raise OutcomeInvalid(f"outcome {index}: {error}") from error
        outcomes += [
            Outcome(
                report.prediction_id, report.row, name, value, observed_ns, report.revision, model,
                principal, now_ns,
            )
            for name, value in truths
        ]  # fmt: skip
    if not 1 <= len(outcomes) <= MOST_OUTCOMES:
        raise OutcomeInvalid(f"{len(outcomes)} outcomes; send 1 to {MOST_OUTCOMES} at once")
    return outcomes


def _truths(report: Report) -> Iterator[tuple[str, OutcomeValue]]:
    """Raises ValueError unless there is a name with a value, or values by name."""
    if (report.name is msgspec.UNSET) != (report.value is msgspec.UNSET):
        raise ValueError("give name and value together")
    if (report.name is msgspec.UNSET) == (report.values is msgspec.UNSET):
        raise ValueError("give name and value, or values by name")
    if not isinstance(report.name, msgspec.UnsetType) and not isinstance(
        report.value, msgspec.UnsetType
    ):
        yield report.name, report.value
    if not isinstance(report.values, msgspec.UnsetType):
        yield from report.values.items()


def _observed_ns(report: Report, now_ns: int) -> int:
    """Raises ValueError for a time without a zone or outside what can be recorded."""
    moment = report.observed_at
    if isinstance(moment, msgspec.UnsetType):
        return now_ns
    if moment.tzinfo is None:
        raise ValueError("observed_at needs a zone, such as Z")
    if moment.year not in _YEARS:
        raise ValueError("observed_at must be a time from 1970 to 2261")
    elapsed = moment - _EPOCH
    seconds = elapsed.days * 86_400 + elapsed.seconds
    return seconds * 1_000_000_000 + elapsed.microseconds * 1000
