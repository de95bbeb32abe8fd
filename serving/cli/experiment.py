"""`serving experiment`: A/B tests started, stopped and read; and what a standing shadow came to."""

from typing import Annotated
from urllib.parse import quote

import msgspec
import typer

from serving.audit.chain import Entry
from serving.audit.events import EventName
from serving.cli.groups import AtControl, grouped
from serving.cli.orders import ControlClient
from serving.cli.output import instant, table
from serving.cli.shares import canaries_text, parse_canary, percent
from serving.cli.traffic import Side
from serving.core.principals import Role
from serving.errors import NotFound, ParameterInvalid
from serving.registry.entities import Traffic
from serving.registry.experiments import ExperimentRun, experiment_runs
from serving.registry.orders import TrafficOrder

PAGE = 1000
S_NS = 1_000_000_000

app = typer.Typer(
    help=(
        "A/B tests: two versions answer different callers, and outcomes say which is better.\n\n"
        "Of a shadow, which answers the same callers as the primary, see `history` and "
        "`serving compare`: pairs tell more than arms do."
    ),
    no_args_is_help=True,
    rich_markup_mode=None,
)

Model = Annotated[str, typer.Argument(help="The model's name.")]
Reason = Annotated[str, typer.Option(help="Why; kept in the audit trail.")]


class _Events(msgspec.Struct, frozen=True):
    events: tuple[Entry, ...]
    next: int


@app.command("start")
@grouped
def start(
    model: Model,
    *,
    name: Annotated[str, typer.Option(help="What the experiment is called, in every readout.")],
    arm: Annotated[
        list[str],
        typer.Option(help="VERSION=SHARE: who answers beside the stable version; may be repeated."),
    ],
    sticky: Annotated[
        Side, typer.Option(help="What keeps a caller in one arm; chance decides which.")
    ] = Side.PRINCIPAL,
    reason: Reason = "",
    at: AtControl,
) -> None:
    """Let other versions answer a share of the requests, by chance, until it is stopped.

    The stable version answers the rest; shadows go on. Who is put where depends on a hash of the name
    of the experiment and of the caller, so that two experiments do not put the same callers together.
    The arms take the approvals, and the verdict where the tier asks for one, that a canary takes.

    \b
    Examples:
      serving experiment start census-employment --name may-retrain --arm 2=50%
      serving experiment start fraud --name threshold --arm 4=20% --arm 5=20% --sticky request
    """
    if not name.strip() or not arm:
        raise ParameterInvalid("an experiment has a --name, and an --arm at least")
    client = at.client(Role.OPERATOR)
    before = client.get(_traffic(model), Traffic)
    if before.experiment or before.arms:
        running = before.experiment or f"arms {canaries_text(before)}"
        raise ParameterInvalid(f"{model} has {running} already: stop that first")
    order = _order(before, reason=reason or f"experiment {name}")
    order = msgspec.structs.replace(
        order,
        arms=tuple(parse_canary(each) for each in arm),
        sticky=sticky.value,
        salt=name,
        experiment=name,
    )
    now = client.put(_traffic(model), order, Traffic)
    at.tell(now, lambda: _text(now))


@app.command("stop")
@grouped
def stop(
    model: Model,
    *,
    reason: Reason = "",
    at: AtControl,
) -> None:
    """End the experiment: the stable version answers everything again. It can still be read.

    Promoting an arm is another step: see `serving rollout` and `serving traffic set`.

    \b
    Examples:
      serving experiment stop census-employment --reason "2 is better, p99 alike"
    """
    client = at.client(Role.OPERATOR)
    before = client.get(_traffic(model), Traffic)
    if not before.experiment:
        raise NotFound(f"{model} has no experiment now")
    order = _order(before, reason=reason or f"end of experiment {before.experiment}")
    now = client.put(_traffic(model), order, Traffic)
    at.tell(now, lambda: _text(now))


@app.command("list")
@grouped
def list_runs(model: Model, *, at: AtControl) -> None:
    """List the experiments that a model had, as the audit trail knows them, oldest first.

    A change of arms, shares or stickiness begins a run of its own.

    \b
    Examples:
      serving experiment list census-employment
    """
    found = runs_of(at.client(Role.AUDITOR), model)
    at.tell({"runs": found}, lambda: _runs(found))


def _runs(found: list[ExperimentRun]) -> str:
    rows = [
        (
            each.name,
            ", ".join(
                f"{version}={percent(share)}"
                for version, share in zip(each.versions, each.shares, strict=True)
            ),
            each.sticky,
            instant(each.since_ns // S_NS),
            instant(each.until_ns // S_NS) if each.until_ns else "runs",
            each.started_by,
        )
        for each in found
    ]
    return table(("NAME", "ARMS", "STICKY", "SINCE", "UNTIL", "BY"), rows)


def runs_of(client: ControlClient, model: str) -> list[ExperimentRun]:
    """Every run of the model's experiments, oldest first."""
    found: list[Entry] = []
    before = -1
    while True:
        page = client.get(
            "/v1/audit/events",
            _Events,
            name=EventName.TRAFFIC_SET,
            object=f"model:{model}",
            limit=str(PAGE),
            before=str(before),
        )
        found += page.events
        if page.next < 0:
            return experiment_runs(reversed(found))
        before = page.next


def _order(now: Traffic, *, reason: str) -> TrafficOrder:
    """The same traffic, without arms."""
    return TrafficOrder(
        stable=now.stable,
        shadows=now.shadows,
        testers=now.testers,
        warm=now.warm,
        reason=reason,
    )


def _traffic(model: str) -> str:
    return f"/v1/traffic/{quote(model, safe='')}"


def _text(now: Traffic) -> str:
    if not now.experiment:
        return f"{now.model}: {now.stable} answers everything"
    arms = canaries_text(now)
    return f"{now.model}: experiment {now.experiment} runs: {arms}, the rest by {now.stable}"
