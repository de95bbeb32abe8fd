"""`serving rollout`: a candidate takes over step by step, watched by gates, or goes back."""

import sys
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Final
from urllib.parse import quote

import typer

from serving.cli.groups import AtControl, grouped
from serving.cli.output import instant, table
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
CLEAR: Final = "\033[2J\033[H"

Model = Annotated[str, typer.Argument(help="Whose rollout.")]
Reason = Annotated[str, typer.Option(help="Why; kept in the audit trail.")]


@dataclass(frozen=True, slots=True)
class Course:
    """How a candidate takes over, as it was written."""

    steps: Annotated[
        str,
        typer.Option(
            help="WEIGHT:TIME or WEIGHT:TIME:REQUESTS, separated by commas. Default: "
            "1%:60s,10%:5m,50%:10m, at least 100 requests each."
        ),
    ] = ""
    gate: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=LIMIT; may be repeated. errors (0.01), latency (1.5) are always read; "
            "disagreement, loss, drift, fairness when named."
        ),
    ] = None
    sticky: Annotated[Sticky, typer.Option(help="What keeps a caller on one side.")] = "request"
    warm: Annotated[
        float | None,
        typer.Option(help="Seconds that the old version stays deployed after the promotion."),
    ] = None

    def plan(self) -> RolloutPlan:
        """Raises ParameterInvalid."""
        return RolloutPlan(
            steps=read_steps(self.steps) if self.steps else DEFAULT_STEPS,
            gates=read_gates(self.gate or []),
            sticky=self.sticky,
            warm_s=self.warm,
        )


@app.command("start")
@grouped
def start(
    model: Model,
    *,
    at: AtControl,
    to: Annotated[str, typer.Option(help="The candidate: a version that is approved.")],
    course: Course,
    reason: Reason = "",
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
    order = RolloutOrder(candidate=to, plan=course.plan(), reason=reason)
    _tell(at, at.client(Role.OPERATOR).post(_path(model), order, RolloutView))


@app.command("status")
@grouped
def status(
    model: Model,
    *,
    at: AtControl,
    watch: Annotated[
        bool, typer.Option("--watch", help="Again every second, until it has ended.")
    ] = False,
) -> None:
    """Show the newest rollout of a model: how far it is, and what each gate says.

    With --watch --json one line each time something is different.

    \b
    Examples:
      serving rollout status fraud
      serving rollout status fraud --watch
    """
    client, clock = at.client(Role.OPERATOR), SystemClock()
    told: object = None
    while True:
        view = client.get(_path(model), RolloutView)
        text = details(view, now_ns=clock.wall_ns())
        now = view if at.json else text
        if now != told:
            at.tell(view, partial(_screen, text, watched=watch))
        told = now
        if not watch or not view.rollout.is_active:
            return
        clock.sleep(WATCH_S)


@app.command("pause")
@grouped
def pause(
    model: Model,
    *,
    at: AtControl,
    reason: Reason = "",
) -> None:
    """Stay at the present weight; a gate that breaks still takes the candidate back.

    \b
    Examples:
      serving rollout pause fraud --reason "before the weekend"
    """
    _turn(at, "pause", model, reason)


@app.command("resume")
@grouped
def resume(
    model: Model,
    *,
    at: AtControl,
    reason: Reason = "",
) -> None:
    """Go on with a paused rollout; the time of its step begins anew.

    \b
    Examples:
      serving rollout resume fraud
    """
    _turn(at, "resume", model, reason)


@app.command("promote")
@grouped
def promote(
    model: Model,
    *,
    at: AtControl,
    reason: Reason = "",
) -> None:
    """Let the candidate answer everything now, whatever steps are left.

    \b
    Examples:
      serving rollout promote fraud --reason "agreed in the meeting"
    """
    _turn(at, "promote", model, reason)


@app.command("rollback")
@grouped
def rollback(
    model: Model,
    *,
    at: AtControl,
    reason: Reason = "",
) -> None:
    """Take the candidate back at once, also after it was promoted.

    Gateways are told at once, even while the registry's database is away. While the old version is
    warm nothing is deployed; later it is started first, and the candidate answers until it is there.
    Where the version before may not serve any more, the last good one that may answers.

    \b
    Examples:
      serving rollout rollback fraud --reason "complaints from the desk"
    """
    _turn(at, "rollback", model, reason)


@app.command("list")
@grouped
def list_rollouts(
    *,
    at: AtControl,
    limit: Annotated[int, typer.Option(help="At most so many, newest first.")] = 20,
) -> None:
    """List rollouts of all models, newest first.

    \b
    Examples:
      serving rollout list
      serving rollout list --limit 100 --json
    """
    client = at.client(Role.OPERATOR)
    found = client.get(ROLLOUTS, RolloutList, limit=str(limit))
    at.tell(found, lambda: summary(found))


@app.command("history")
@grouped
def history(
    model: Model,
    *,
    at: AtControl,
) -> None:
    """Show every turn of every rollout of a model, oldest first.

    \b
    Examples:
      serving rollout history fraud
    """
    client = at.client(Role.OPERATOR)
    found = client.get(f"{_path(model)}/history", RolloutList)
    at.tell(found, lambda: _turns(found))


def _turns(found: RolloutList) -> str:
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
    return table(heads, rows)


def _turn(at: AtControl, verb: str, model: str, reason: str) -> None:
    order = TurnOrder(reason=reason)
    _tell(at, at.client(Role.OPERATOR).post(f"{_path(model)}/{verb}", order, RolloutView))


def _tell(at: AtControl, view: RolloutView) -> None:
    at.tell(view, lambda: details(view, now_ns=SystemClock().wall_ns()))


def _screen(text: str, *, watched: bool) -> str:
    return f"{CLEAR if watched and sys.stdout.isatty() else ''}{text}"


def _path(model: str) -> str:
    if not model:
        raise ParameterInvalid("a model has a name")
    return f"{ROLLOUTS}/{quote(model, safe='')}"
