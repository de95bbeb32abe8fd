"""What a principal may do: the whole policy, two rules.

A refusal never says whether the thing asked for exists, so that a caller limited to some models
cannot learn the names of the others by asking.
"""

from typing import Final

from serving.core.principals import Principal
from serving.errors import Forbidden

INFERENCE_REFUSED: Final = "this credential may not use the model that the request names"
OPERATION_REFUSED: Final = "this credential may not operate the service; it needs role operator"


def authorize_inference(principal: Principal, model: str) -> None:
    """Passes when `principal` may infer with `model`, which need not exist. Raises Forbidden."""
    if not principal.may_call(model):
        raise Forbidden(INFERENCE_REFUSED)


def authorize_operation(principal: Principal) -> None:
    """Passes when `principal` may read and change how the service runs. Raises Forbidden."""
    if not principal.may_operate():
        raise Forbidden(OPERATION_REFUSED)
