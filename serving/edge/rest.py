"""The inference port's application: OIP REST, one exchange per inference, routes for the rest.

Everything about a request's head is done once per distinct head (`serving.edge.plans`). An inference
becomes a `RestExchange`, the wire's half of a call, and goes down `Pipeline.infer`; everything else
goes to the `Router` over `serving.edge.catalogue`.
"""

from collections.abc import Callable

import structlog

from serving.access.permissions import INFERENCE
from serving.access.tokens import Authenticator
from serving.core.principals import Principal
from serving.edge.catalogue import CatalogueRoutes, Readiness
from serving.edge.credentials import credential_of
from serving.edge.exchange import WireVersions
from serving.edge.http1.connection import Responder
from serving.edge.http1.heads import Head
from serving.edge.plans import plan_of
from serving.edge.routes import Headers, Router
from serving.errors import InternalError, ServingError
from serving.gateway.pipeline import Pipeline
from serving.port_settings import HttpSettings
from serving.telemetry.families import GatewayMetrics

logger = structlog.get_logger()


class RestApplication:
    """The inference port's application."""

    def __init__(
        self,
        pipeline: Pipeline,
        *,
        authenticator: Authenticator,
        readiness: Readiness,
        metrics: GatewayMetrics,
        limits: HttpSettings,
        now_s: Callable[[], float],
        refused: Callable[[ServingError], None],
    ) -> None:
        """now_s: wall time. refused: told of each request refused before it was admitted."""
        self.versions = WireVersions()
        self._pipeline = pipeline
        self._authenticator = authenticator
        self._limits = limits
        self._now_s = now_s
        self._refused = refused
        catalogue = CatalogueRoutes(pipeline, readiness=readiness, metrics=metrics, now_s=now_s)
        self.router = Router(
            catalogue.routes(), identify=self._identify, permissions=INFERENCE, refused=refused
        )

    def __call__(self, head: Head, body: bytes | memoryview, responder: Responder) -> None:
        plan = head.plan
        if plan is None:
            plan = head.plan = plan_of(head, self._limits) or False
        if plan is False:
            self.router(head, body, responder)
            return
        exchange = plan.exchange(plan, self.versions, memoryview(body), responder)
        try:
            self._pipeline.infer(exchange)
        except ServingError as error:
            self._refused(error)
            exchange.refuse(error)
        except Exception:
            # Outermost: the worker must survive a request, and the caller learns no detail.
            logger.exception("request failed")
            surprise = InternalError("something went wrong here; quote the request id")
            self._refused(surprise)
            exchange.refuse(surprise)

    def _identify(self, headers: Headers) -> Principal:
        return self._authenticator.authenticate(credential_of(headers), self._now_s())
