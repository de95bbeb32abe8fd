"""A file of deployments, applied: looked at, planned, and made as planned.

The plan is what would be done, step by step, with what is there and what would be; nothing to do is an
empty plan, so applying twice is applying once. Three kinds of steps:

    admit    a version of the models folder is registered, its artifact stored and signed, and approved
             where the policy of its tier lets the installation agree by itself
    traffic  a model's traffic becomes what the file says
    blocked  a step that somebody else has to make first, with what it takes; nothing is done

Steps are made in order, each in transactions of its own that can be repeated. A model whose version
is blocked keeps its traffic as it is.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from pydantic import ValidationError
from sqlalchemy import Connection

from serving.control.changes import Applied, ApplyOrder, Step
from serving.core.actors import Actor
from serving.core.principals import Action
from serving.core.traffic import Segment
from serving.errors import Forbidden, ParameterInvalid, ServingError
from serving.registry import rows
from serving.registry.entities import Scale
from serving.registry.lifecycle import SERVING, State
from serving.registry.orders import TrafficOrder
from serving.registry.service import Registry
from serving.registry.shares import ArmOrder, ShadowOrder
from serving.settings import Deployment
from serving.storage.database import Database
from serving.traffic_settings import ShadowShare

SAID: Final = ("stable", "shadows", "arms", "sticky", "testers")
"""What a file says of traffic; the rest belongs to rollouts and experiments."""
ADMITTED: Final = SERVING | {State.APPROVED, State.DEPRECATED}


class Admission(Protocol):
    """How a version of the models folder comes to be approved: `control.admission`."""

    def obstacle(self, model: str, version: str) -> ServingError | None:
        """Why the folder cannot give it: there is no such version, or no artifact. None: it can."""

    def admit(self, deployment: Deployment, version: str, *, actor: Actor) -> str:
        """As far as the policy permits; safe to repeat. What is missing then, in words, or nothing."""


@dataclass(frozen=True, slots=True)
class Applying:
    """Applies files. Blocks."""

    database: Database
    registry: Registry
    admission: Admission

    def run(self, order: ApplyOrder, *, actor: Actor) -> Applied:
        """Raises ParameterInvalid, Forbidden, RegistryUnavailable, and what stops a step."""
        deployments = _deployments(order)
        planned = self.plan(deployments, order, actor=actor)
        if order.plan_only or not planned.steps:
            return planned
        return self._make(deployments, planned, actor)

    def plan(
        self, deployments: Sequence[Deployment], order: ApplyOrder, *, actor: Actor
    ) -> Applied:
        """What there is to do. Raises Forbidden, RegistryUnavailable, and for a deployment that is
        not optional whatever the folder lacks."""
        left_out: list[tuple[str, str]] = []

        def look(connection: Connection) -> tuple[Step, ...]:
            steps: list[Step] = []
            for deployment in deployments:
                _check(connection, deployment, actor)
                obstacle = self._obstacle(connection, deployment)
                if obstacle is not None and deployment.optional:
                    left_out.append((deployment.model, obstacle.message))
                elif obstacle is not None:
                    raise obstacle
                else:
                    steps += _steps(connection, deployment, order)
            if order.prune:
                steps += _pruned(connection, deployments, order, actor)
            return tuple(steps)

        return Applied(steps=self.database.read(look), left_out=tuple(left_out))

    # -- inside ----------------------------------------------------------------------------------

    def _obstacle(self, connection: Connection, deployment: Deployment) -> ServingError | None:
        for version in deployment.versions:
            if rows.find_version(connection, deployment.model, version) is None:
                obstacle = self.admission.obstacle(deployment.model, version)
                if obstacle is not None:
                    return obstacle
        return None

    def _make(
        self,
        deployments: Sequence[Deployment],
        planned: Applied,
        actor: Actor,
    ) -> Applied:
        by_model = {deployment.model: deployment for deployment in deployments}
        made: list[Step] = []
        blocked: set[str] = set()
        for step in planned.steps:
            model, _, version = step.what.partition("@")
            if step.kind == "admit":
                missing = self.admission.admit(by_model[model], version, actor=actor)
                if missing:
                    blocked.add(model)
                    made.append(Step(kind="blocked", what=step.what, detail=missing))
                    continue
            elif step.kind == "traffic":
                if model in blocked:
                    continue
                self._route(model, step, actor)
            made.append(step)
        return Applied(steps=tuple(made), made=True, left_out=planned.left_out)

    def _route(self, model: str, step: Step, actor: Actor) -> None:
        if step.after is None or step.before is None:
            raise ValueError("a step of traffic without any. This is a bug")
        after, seen = step.after, step.before.revision

        def change(connection: Connection) -> None:
            self.registry.set_traffic(connection, model, order=after, actor=actor, if_revision=seen)

        self.database.run(change)


def _deployments(order: ApplyOrder) -> list[Deployment]:
    """Raises ParameterInvalid."""
    try:
        found = [Deployment.model_validate(each) for each in order.deployments]
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "deployments"
        raise ParameterInvalid(f"deployments: {where}: {first['msg']}") from error
    names = [deployment.model for deployment in found]
    if len(set(names)) != len(names):
        raise ParameterInvalid("deployments must name each model once")
    return found


def _check(connection: Connection, deployment: Deployment, actor: Actor) -> None:
    """Raises Forbidden. A new model belongs to the tenant that its deployment names."""
    model = rows.find_model(connection, deployment.model)
    tenant = deployment.tenant if model is None else model.tenant
    if not actor.may(Action.OPERATE, deployment.model, tenant):
        raise Forbidden(f"this credential may not operate {deployment.model}")


def _steps(connection: Connection, deployment: Deployment, order: ApplyOrder) -> Iterator[Step]:
    for name in deployment.versions:
        version = rows.find_version(connection, deployment.model, name)
        key = f"{deployment.model}@{name}"
        if version is None:
            yield Step(kind="admit", what=key, detail="register, sign, ask for approval")
        elif version.state in (State.RETIRED, State.REJECTED):
            yield Step(kind="blocked", what=key, detail=f"it is {version.state}")
            return
        elif version.state not in ADMITTED:
            yield Step(kind="admit", what=key, detail=f"it is {version.state}: ask for approval")
    now = rows.traffic_of(connection, deployment.model)
    arms = tuple(ArmOrder(version=each.version, weight=each.weight) for each in deployment.canaries)
    after = TrafficOrder(
        stable=deployment.stable,
        shadows=tuple(_copies(each) for each in deployment.shadows),
        arms=arms,
        sticky=deployment.sticky,
        salt=now.salt,
        testers=deployment.testers,
        experiment=now.experiment if arms == now.arms else "",
        warm=now.warm,
        scale=Scale(
            min_replicas=deployment.min_replicas,
            max_replicas=deployment.max_replicas,
            num_gpus=deployment.num_gpus,
        ),
        reason=order.reason,
    )
    if any(getattr(now, name) != getattr(after, name) for name in (*SAID, "scale")):
        yield Step(kind="traffic", what=deployment.model, before=now, after=after)


def _copies(shadow: ShadowShare) -> ShadowOrder:
    return ShadowOrder(
        version=shadow.version,
        share=shadow.share,
        budget=shadow.budget,
        segments=tuple(Segment(each.by, each.value) for each in shadow.segments),
    )


def _pruned(
    connection: Connection, deployments: Sequence[Deployment], order: ApplyOrder, actor: Actor
) -> Iterator[Step]:
    """Models with traffic that the file does not name, as far as the actor may operate them."""
    named = {deployment.model for deployment in deployments}
    for traffic in rows.all_traffic(connection):
        model = rows.find_model(connection, traffic.model)
        if traffic.model in named or not traffic.stable or model is None:
            continue
        if actor.may(Action.OPERATE, model.name, model.tenant):
            nothing = TrafficOrder(reason=order.reason)
            yield Step(kind="traffic", what=model.name, before=traffic, after=nothing)
