"""`serving experiment history`: what a challenger that stands as a shadow came to, month by month."""

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Annotated
from urllib.parse import quote

import typer

from serving.cli.conditions import LedgerFiles, Since, Until
from serving.cli.experiment import Model, app
from serving.cli.groups import AtControl, grouped
from serving.cli.joining import ledger_join
from serving.cli.orders import ControlClient
from serving.cli.output import table
from serving.cli.readout import (
    METRICS,
    NOTHING,
    Measure,
    Yardstick,
    interval,
    milliseconds,
    number,
)
from serving.core.clock import SystemClock
from serving.core.principals import Role
from serving.errors import ParameterInvalid
from serving.ledger.answers import outcome_of, score_of
from serving.ledger.joining import LAST_NS, Join
from serving.ledger.standing import Standing, standing_rows
from serving.monitoring.challenge import Challenge
from serving.monitoring.challenge import Standing as PeriodStanding
from serving.predictionlog.reading.query import instant_ns
from serving.registry.entities import Traffic


class Period(StrEnum):
    """What is summed up together."""

    DAY = "day"
    WEEK = "week"
    MONTH = "month"


@dataclass(frozen=True, slots=True)
class Loss(Yardstick):
    """The same, but for outcomes that are worth something themselves."""

    metric: Annotated[Measure, typer.Option(help="brier, squared or zero_one.")] = Measure.BRIER


@app.command("history")
@grouped
def history(
    model: Model,
    *,
    candidate: Annotated[str, typer.Option(help="The challenger: the version that is a shadow.")],
    primary: Annotated[
        str, typer.Option(help="The champion; default: the version that answers now.")
    ] = "",
    period: Annotated[
        Period, typer.Option(help="What is summed up together, in UTC.")
    ] = Period.MONTH,
    since: Since = None,
    until: Until = None,
    loss: Loss,
    at: AtControl,
) -> None:
    """Show what a challenger came to beside the champion, month by month, over all that is recorded.

    A shadow that stands for months is answered nobody, and asked what the champion is asked. For each
    period: how often both decide alike, and what their answers were worth once truths were known. The
    evidence is that of all periods up to there, and may be looked at as often as you like.

    \b
    Examples:
      serving experiment history census-employment --candidate 2
      serving experiment history census-employment --candidate 2 --primary 1 --period week --since 90d
    """
    if loss.metric is Measure.VALUE:
        raise ParameterInvalid("--metric is a loss here: brier, squared or zero_one")
    champion = primary or _stable_of(at.client(Role.OPERATOR), model)
    now_ns = SystemClock().wall_ns()
    challenge = Challenge(
        squared=METRICS[loss.metric] == "squared", threshold=loss.threshold, alpha=loss.alpha
    )
    since_ns = 0 if since is None else instant_ns(since, now_ns=now_ns)
    until_ns = LAST_NS if until is None else instant_ns(until, now_ns=now_ns)
    with ledger_join(LedgerFiles(at.settings()).settings) as join:
        standing = _standing(join, model, (champion, candidate), period=period, loss=loss)
        for rows in standing_rows(join, replace(standing, since_ns=since_ns, until_ns=until_ns)):
            challenge.add(rows)
    found = challenge.standings()
    facts = {"model": model, "champion": champion, "challenger": candidate, "periods": found}
    at.tell(facts, lambda: _text(found, champion, candidate))


def _standing(
    join: Join, model: str, versions: tuple[str, str], *, period: Period, loss: Loss
) -> Standing:
    """versions: champion and challenger."""
    is_known = bool(loss.outcome or join.names(model))
    known = outcome_of(join, model, loss.outcome) if is_known else ""
    return Standing(
        model=model,
        primary=versions[0],
        candidate=versions[1],
        outcome=known,
        score=score_of(join, model, known, loss.score),
        period=period.value,
    )


def _stable_of(client: ControlClient, model: str) -> str:
    return client.get(f"/v1/traffic/{quote(model, safe='')}", Traffic).stable


def _text(found: tuple[PeriodStanding, ...], champion: str, challenger: str) -> str:
    heads = (
        "SINCE", "ASKED", "PAIRED", "FAILED", "ALIKE", "OUTCOMES", f"LOSS {champion}",
        f"LOSS {challenger}", f"TIME {champion}", f"TIME {challenger}", "WON", "LOST",
        "DIFFERENCE", "INTERVAL", "E-VALUE",
    )  # fmt: skip
    lines = [
        f"champion {champion}, challenger {challenger}; the right half: all periods up to there",
        table(heads, [_row(each) for each in found]),
    ]
    if found:
        leads = found[-1].total.leads
        lines.append(
            f"the {leads} decides rightly more often" if leads else "no difference is shown"
        )
    return "\n".join(lines)


def _row(each: PeriodStanding) -> tuple[str, ...]:
    alike = NOTHING if each.agreement is None else f"{each.agreement:.1%}"
    return (
        each.period,
        str(each.asked),
        str(each.paired),
        str(each.failed),
        alike,
        str(each.outcomes),
        number(each.champion_loss),
        number(each.challenger_loss),
        milliseconds(each.champion_ms),
        milliseconds(each.challenger_ms),
        str(each.wins),
        str(each.losses),
        number(each.total.difference),
        interval(each.total.low, each.total.high),
        f"{each.total.e_value:.3g}",
    )
