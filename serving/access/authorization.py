"""The questions that the doors of the product ask, each answered by nothing or by a refusal.

A refusal never says whether the thing asked for exists: it is the one that a name which does not
exist would get. So a caller limited to some models, or to its tenant's, cannot learn the names of
the others by asking.

On the request path a question that was answered before costs one look in a set of the principal's;
`access.live` empties those sets when the rules change.
"""

from collections.abc import Mapping
from typing import Final

from serving.access.policy import ROLE_ACTIONS, Policy
from serving.core.actors import Reach
from serving.core.principals import Action, Decision, Ground, Principal
from serving.errors import Forbidden, ModelNotFound

MODEL_REFUSED: Final = "this credential may not use the model that the request names"
OPERATION_REFUSED: Final = "this credential may not operate the service; it needs role operator"
NO_MODEL: Final = "there is no such model here"
"""What a model of somebody else's is said to be; the same words as for one that is none."""

MOST_REMEMBERED: Final = 1024
"""Models per principal: whoever asks for more names than there are models gains nothing by it."""

_BY_ROLES: Final = Policy()


class _Trust:
    """The authority behind our own processes."""

    def decide(
        self,
        principal: Principal,
        action: Action,
        model: str | None,
        *,
        tenant: str | None = None,
    ) -> Decision:
        del principal, action, model, tenant
        return Decision(True, Ground.TRUSTED, "", "one of the product's own processes")

    judge = decide

    def reveals(self, principal: Principal, action: Action, model: str) -> bool:
        del principal, action, model
        return True


OURSELVES: Final = Principal("serving", frozenset(), authority=_Trust())
"""One of the product's own processes: it has shown the secret that only they share."""


def authorize_inference(principal: Principal, model: str) -> None:
    """Passes when `principal` may infer with `model`, which need not exist.

    Raises Forbidden or ModelNotFound.
    """
    if model not in principal.permitted:
        _permit_inference(principal, model)


def authorize_description(principal: Principal, model: str) -> None:
    """Passes when `principal` may see what there is to know about `model`, which need not exist.

    Raises Forbidden or ModelNotFound.
    """
    authorize(principal, Action.DESCRIBE, model)


def authorize_operation(principal: Principal, model: str | None = None) -> None:
    """Passes when `principal` may decide how `model`, or the product, runs. Raises Forbidden."""
    authorize(principal, Action.OPERATE, model, refused=OPERATION_REFUSED)


def authorize(
    principal: Principal, action: Action, model: str | None = None, *, refused: str = ""
) -> None:
    """Passes when `principal` may do `action`. refused: the words of the refusal, if it is one.

    Raises Forbidden, or ModelNotFound where that is what a model which does not exist would get.
    """
    authority = principal.authority or _BY_ROLES
    if authority.judge(principal, action, model).allowed:
        return
    if model is not None and not authority.reveals(principal, action, model):
        raise ModelNotFound(NO_MODEL)
    if not refused:
        needed = f"this credential may not do this; it needs {_NEEDED[action]}"
        refused = needed if model is None else MODEL_REFUSED
    raise Forbidden(refused)


def may(principal: Principal, action: Action, model: str | None = None) -> bool:
    """Whether, without a refusal: for what is shown to some and not to others."""
    return decision(principal, action, model).allowed


def reach_of(principal: Principal) -> Reach:
    """What a principal may do with a model whose owner is known."""
    authority = principal.authority or _BY_ROLES

    def reach(action: Action, model: str, tenant: str) -> bool:
        return authority.decide(principal, action, model, tenant=tenant).allowed

    return reach


def decision(principal: Principal, action: Action, model: str | None = None) -> Decision:
    """Whether, and why."""
    return (principal.authority or _BY_ROLES).decide(principal, action, model)


def _permit_inference(principal: Principal, model: str) -> None:
    authorize(principal, Action.INFER, model)
    if len(principal.permitted) >= MOST_REMEMBERED:
        principal.permitted.clear()
    principal.permitted.add(model)


def _roles_with(action: Action) -> str:
    roles = [role.value for role, actions in ROLE_ACTIONS.items() if action in actions]
    return f"role {' or '.join(roles)}" if roles else "the secret of the product's own processes"


_NEEDED: Final[Mapping[Action, str]] = {action: _roles_with(action) for action in Action}
