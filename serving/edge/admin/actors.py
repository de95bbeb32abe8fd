"""Who acts, from a request of the control port."""

import secrets

from serving.access.authorization import reach_of
from serving.core.actors import Actor, Origin
from serving.edge.routes import Request

REQUEST_ID: bytes = b"x-request-id"
MOST_ID_LENGTH = 128


def actor_of(request: Request) -> Actor:
    """The caller, with their address and an identifier that names the request in the audit trail."""
    origin = origin_of(request)
    return Actor.of(
        request.principal,
        source=origin.source,
        request_id=origin.request_id,
        reach=reach_of(request.principal),
    )


def origin_of(request: Request) -> Origin:
    """Where the request came from. Its identifier is the caller's own, where that is one."""
    given = request.headers.get(REQUEST_ID, b"").decode("latin-1")
    is_fit = 0 < len(given) <= MOST_ID_LENGTH and given.isprintable()
    return Origin(request.source, given if is_fit else secrets.token_hex(8))
