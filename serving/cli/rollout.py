"""`serving rollout`: a candidate takes over step by step, watched by gates, or goes back."""

import sys
from typing import Annotated, Final
from urllib.parse import quote

import typer

from serving.cli.options import Config, DataDir, Json
from serving.cli.orders import ControlClient
from serving.cli.output import instant, say, say_json, table
from serving.cli.rollout_text import details, summary
from serving.control.rollout_desk import RolloutList, RolloutView, TurnOrder
from serving.core.clock import SystemClock
from serving.core.principals import Role
from serving.core.traffic import Sticky
from serving.errors import ParameterInvalid
from serving.governance.rollout_plans import DEFAULT_STEPS, RolloutPlan, read_gates, read_steps
from serving.governance.rollouts import RolloutOrder

app = typer.Typer(
    help=(
        "Rollouts: a candidate answers a growing share of the requests. Gates compare it with the "
        "stable version; one that breaks takes it back by itself."
    ),
    no_args_is_help=True,
    rich_markup_mode=None,
)

ROLLOUTS: Final = "/v1/rollouts"
WATCH_S: Final = 1.0

Model = Annotated[str, typer.Argument(help="Whose rollout.")]
Reason = Annotated[str, typer.Option(help="Why; kept in the audit trail.")]


@app.command("start")
def start(  # noqa: PLR0913 -- one parameter for each option
    model: Model,
    *,
    to: Annotated[str, typer.Option(help="The candidate: a version that is approved.")],
    steps: Annotated[
        str,
        typer.Option(
            help="WEIGHT:TIME or WEIGHT:TIME:REQUESTS, separated by commas. Default: "
            "1%:60s,10%:5m,50%:10m, at least 100 requests each."
        ),
    ] = "",
    gate: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=LIMIT; may be repeated. errors (0.01), latency (1.5) are always read; "
            "disagreement, loss, drift, fairness when named."
        ),
    ] = None,
    sticky: Annotated[Sticky, typer.Option(help="What keeps a caller on one side.")] = "request",
    warm: Annotated[
        float | None,
        typer.Option(help="Seconds that the old version stays deployed after the promotion."),
    ] = None,
    reason: Reason = "",
    json: Json = False,
    config: Config = None,
    data_dir: DataDir = None,
) -> None:
    """Let a candidate take over, step by step.

    Each weight is held for its time. Then, when the candidate answered enough requests and every gate
    is ok, the next one follows, and after the last one the candidate answers everything; the old
    version stays warm, so that `serving rollout rollback` is a matter of a moment. A gate that breaks,
    a candidate that does not come up or loses its replicas, an approval that is taken back: the
    candidate gets no request any more, and nobody has to do anything. Refused where approvals or a
    verdict are missing, and while another rollout of the model is under way.

    \b
    Gates:
      errors=0.01        failure rate of the candidate minus that of the stable version
      latency=1.5        95th percentile of the candidate over that of the stable version
      disagreement=0.02  share of copied requests that are answered otherwise (needs --shadow traffic)
      loss=0.01          outcome loss of the candidate minus that of the stable version
      drift=0.1          distance between the distributions of answers
      fairness=0.05      the worst disagreement in any slice

    \b
    Examples:
      serving rollout start fraud --to 2
      serving rollout start fraud --to 2 --steps 1%:60s,10%:5m,50%:10m --gate errors=0.005
    """
    plan = RolloutPlan(
        steps=read_steps(steps) if steps else DEFAULT_STEPS,
        gates=read_gates(gate or []),
        sticky=sticky,
        warm_s=warm,
    )
    order = RolloutOrder(candidate=to, plan=plan, reason=reason)
    client = ControlClient(config, data_dir, role=Role.OPERATOR)
    _tell(client.post(_path(model), order, RolloutView), as_json=json)


@app.command("status")
def status(
    model: Model,
    *,
    watch: Annotated[
        bool, typer.Option("--watch", help="Again every second, until it has ended.")
    ] = False,
    json: Json = False,
    config: Config = None,
    data_dir: DataDir = None,
) -> None:
    """Show the newest rollout of a model: how far it is, and what each gate says.

    With --watch --json one line each time something is different.

    \b
    Examples:
      serving rollout status fraud
      serving rollout status fraud --watch
    """
    client, clock = ControlClient(config, data_dir, role=Role.OPERATOR), SystemClock()
    told = ""
    while True:
        view = client.get(_path(model), RolloutView)
        text = details(view, now_ns=clock.wall_ns())
        if json:
            _tell(view, as_json=True)
        elif not watch or text != told:
            clear = "\033[2J\033[H" if watch and sys.stdout.isatty() else ""
            say(clear + text)
        told = text
        if not watch or not view.rollout.is_active:
            return
        clock.sleep(WATCH_S)


@app.command("pause")
def pause(
    model: Model,
    *,
    reason: Reason = "",
    json: Json = False,
    config: Config = None,
    data_dir: DataDir = None,
) -> None:
    """Stay at the present weight; a gate that breaks still takes the candidate back.

    \b
    Examples:
      serving rollout pause fraud --reason "before the weekend"
    """
    _turn("pause", model, reason, config=config, data_dir=data_dir, as_json=json)


@app.command("resume")
def resume(
    model: Model,
    *,
    reason: Reason = "",
    json: Json = False,
    config: Config = None,
    data_dir: DataDir = None,
) -> None:
    """Go on with a paused rollout; the time of its step begins anew.

    \b
    Examples:
      serving rollout resume fraud
    """
    _turn("resume", model, reason, config=config, data_dir=data_dir, as_json=json)


@app.command("promote")
def promote(
    model: Model,
    *,
    reason: Reason = "",
    json: Json = False,
    config: Config = None,
    data_dir: DataDir = None,
) -> None:
    """Let the candidate answer everything now, whatever steps are left.

    \b
    Examples:
      serving rollout promote fraud --reason "agreed in the meeting"
    """
    _turn("promote", model, reason, config=config, data_dir=data_dir, as_json=json)


@app.command("rollback")
def rollback(
    model: Model,
    *,
    reason: Reason = "",
    json: Json = False,
    config: Config = None,
    data_dir: DataDir = None,
) -> None:
    """Take the candidate back at once, also after it was promoted.

    Gateways are told at once, even while the registry's database is away. While the old version is
    warm nothing is deployed; later it is started first, and the candidate answers until it is there.
    Where the version before may not serve any more, the last good one that may answers.

    \b
    Examples:
      serving rollout rollback fraud --reason "complaints from the desk"
    """
    _turn("rollback", model, reason, config=config, data_dir=data_dir, as_json=json)


@app.command("list")
def list_rollouts(
    *,
    limit: Annotated[int, typer.Option(help="At most so many, newest first.")] = 20,
    json: Json = False,
    config: Config = None,
    data_dir: DataDir = None,
) -> None:
    """List rollouts of all models, newest first.

    \b
    Examples:
      serving rollout list
      serving rollout list --limit 100 --json
    """
    client = ControlClient(config, data_dir, role=Role.OPERATOR)
    found = client.get(ROLLOUTS, RolloutList, limit=str(limit))
    if json:
        say_json(found)
    else:
        say(summary(found))


@app.command("history")
def history(
    model: Model,
    *,
    json: Json = False,
    config: Config = None,
    data_dir: DataDir = None,
) -> None:
    """Show every turn of every rollout of a model, oldest first.

    \b
    Examples:
      serving rollout history fraud
    """
    client = ControlClient(config, data_dir, role=Role.OPERATOR)
    found = client.get(f"{_path(model)}/history", RolloutList)
    if json:
        say_json(found)
        return
    heads = ("WHEN", "CANDIDATE", "WHAT", "STATE", "WEIGHT", "BY", "WHY")
    rows = [
        (
            instant(each.at_ns // 10**9),
            rollout.candidate,
            each.turn.value,
            each.state.value,
            f"{each.weight:.2%}",
            each.actor,
            each.reason or "-",
        )
        for rollout in reversed(found.rollouts)
        for each in rollout.history
    ]
    say(table(heads, rows))


def _turn(
    verb: str, model: str, reason: str, *, config: Config, data_dir: DataDir, as_json: bool
) -> None:
    client = ControlClient(config, data_dir, role=Role.OPERATOR)
    order = TurnOrder(reason=reason)
    _tell(client.post(f"{_path(model)}/{verb}", order, RolloutView), as_json=as_json)


def _tell(view: RolloutView, *, as_json: bool) -> None:
    if as_json:
        say_json(view)
    else:
        say(details(view, now_ns=SystemClock().wall_ns()))


def _path(model: str) -> str:
    if not model:
        raise ParameterInvalid("a model has a name")
    return f"{ROLLOUTS}/{quote(model, safe='')}"
