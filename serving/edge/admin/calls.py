"""A request of the control port as a call of the control plane, and its answer as a reply.

`If-Match` names the revision that the caller saw; `Idempotency-Key` makes an order safe to repeat, and
`Idempotency-Replayed` says that the answer is that of an earlier time.
"""

from typing import Final

from serving.core.calls import Answer, Call
from serving.edge.admin.actors import actor_of
from serving.edge.routes import Reply, Request
from serving.errors import ParameterInvalid

_MOST_DIGITS: Final = 9


def call_of(request: Request) -> Call:
    """Raises ParameterInvalid."""
    return Call(
        actor=actor_of(request),
        arguments=request.arguments,
        query=request.query,
        body=request.body,
        key=request.headers.get(b"idempotency-key", b"").decode("latin-1"),
        if_revision=revision_in(request),
    )


def revision_in(request: Request) -> int | None:
    """The revision that `If-Match` names, None when it names none. Raises ParameterInvalid."""
    value = request.headers.get(b"if-match")
    if value is None or value == b"*":
        return None
    digits = value.strip(b'"')
    if not digits.isdigit() or len(digits) > _MOST_DIGITS:
        raise ParameterInvalid("If-Match must be a revision, a whole number in quotes")
    return int(digits)


def reply_of(answer: Answer) -> Reply:
    headers = (("Idempotency-Replayed", "true"),) if answer.repeated else ()
    return Reply(200, answer.content, answer.content_type, headers)
