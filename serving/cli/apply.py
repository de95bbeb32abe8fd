"""`serving apply`: what a file says should serve, planned and made."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import typer
import yaml

from serving.cli.groups import AtControl, grouped
from serving.cli.output import say, say_json, table
from serving.cli.shares import canaries_text, shadow_text
from serving.control.changes import DEFAULT_REASON, Applied, ApplyOrder, Step
from serving.core.principals import Role
from serving.errors import SettingInvalid
from serving.registry.entities import Scale
from serving.registry.shares import Shares

WORDS: Final[Mapping[str, Callable[[Shares], str]]] = {
    "stable": lambda shares: shares.stable or "none",
    "canaries": lambda shares: canaries_text(shares) if shares.arms else "none",
    "shadows": lambda shares: "+".join(map(shadow_text, shares.shadows)) or "none",
    "sticky": lambda shares: shares.sticky,
    "testers": lambda shares: "+".join(shares.testers) or "none",
}
"""What a step may change of a model's traffic, in words."""


@grouped
def apply(
    *,
    file: Annotated[
        Path, typer.Option("-f", "--file", help="YAML with `deployments`, as in a settings file.")
    ],
    plan: Annotated[bool, typer.Option("--plan", help="Only say what would be done.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before acting.")] = False,
    prune: Annotated[
        bool, typer.Option("--prune", help="Take the traffic of models that the file leaves out.")
    ] = False,
    reason: Annotated[str, typer.Option(help="Why; kept in the audit trail.")] = DEFAULT_REASON,
    at: AtControl,
) -> None:
    """Make what serves what a file says: the plan is shown first, then made if you agree.

    The file lists deployments as `serving up` reads them. Versions that the registry does not know yet
    are taken from the instance's models folder. Applying a file twice changes nothing the second
    time, so it fits a repository and a schedule.

    \b
    Examples:
      serving apply -f production.yaml --plan
      serving apply -f production.yaml --yes --reason "release 14"
    """
    order = ApplyOrder(deployments=_deployments(file), plan_only=True, prune=prune, reason=reason)
    client = at.client(Role.OPERATOR)
    planned = client.post("/v1/apply", order, Applied)
    if not at.json:
        say(describe(planned))
    if plan or not planned.steps:
        if at.json:
            say_json(planned)
        return
    if not yes and not typer.confirm("make it so?"):
        raise typer.Exit(1)
    made = client.post(
        "/v1/apply",
        ApplyOrder(deployments=order.deployments, prune=prune, reason=reason),
        Applied,
    )
    at.tell(made, lambda: _outcome(made))
    if any(step.kind == "blocked" for step in made.steps):
        raise typer.Exit(1)


def describe(planned: Applied) -> str:
    """The plan as text: one line for each step."""
    rows = [(step.kind, step.what, _detail(step)) for step in planned.steps]
    left_out = [f"left out: {model}: {reason}" for model, reason in planned.left_out]
    text = table(("STEP", "WHAT", "HOW"), rows) if rows else "nothing to do"
    return "\n".join([text, *left_out])


def _detail(step: Step) -> str:
    if step.before is None or step.after is None:
        return step.detail
    changes = []
    for name, text in WORDS.items():
        before, after = text(step.before), text(step.after)
        if before != after:
            changes.append(f"{name} {before} -> {after}")
    before_scale, after_scale = step.before.scale, step.after.scale
    if after_scale is not None and before_scale != after_scale:
        changes.append(f"scale {_scale(before_scale)} -> {_scale(after_scale)}")
    return ", ".join(changes)


def _scale(scale: Scale) -> str:
    most = f" to {scale.max_replicas}" if scale.max_replicas > scale.min_replicas else ""
    gpus = f" with {scale.num_gpus:g} GPU" if scale.num_gpus else ""
    return f"{scale.min_replicas}{most}{gpus}"


def _outcome(made: Applied) -> str:
    blocked = [step for step in made.steps if step.kind == "blocked"]
    done = f"made {len(made.steps) - len(blocked)} steps"
    return "\n".join([done, *(f"blocked: {step.what}: {step.detail}" for step in blocked)])


def _deployments(file: Path) -> list[dict[str, Any]]:
    """Raises SettingInvalid."""
    try:
        values = yaml.safe_load(file.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SettingInvalid(f"cannot read {file}: {error}") from error
    if not isinstance(values, dict) or not isinstance(values.get("deployments"), list):
        raise SettingInvalid(f"{file} must hold a list of deployments")
    found: list[dict[str, Any]] = values["deployments"]
    return found
