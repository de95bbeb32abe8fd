"""The engine without Ray: replicas are threads of the control process.

For tests and for machines where Ray is too much. The same listener, lease and frames as on Ray; what
is missing is the isolation: a model that takes the process down takes control and every replica with
it, and nothing restarts or scales a replica.
"""

import threading
from collections.abc import Sequence
from uuid import uuid4

import structlog

from serving.core.clock import Clock
from serving.errors import ServingError
from serving.inference.hosting import HostedReplica, Load
from serving.inference.plans import ApplicationPlan, ApplicationReport

logger = structlog.get_logger()

DRAIN_S = 5.0


class LocalEngine:
    """Runs applications in this process. Fits `control.reconciler.Engine`.

    `deploy` loads models in threads of their own, so control answers meanwhile. Its other calls are
    made by one thread.
    """

    def __init__(self, *, load: Load, clock: Clock) -> None:
        self._load = load
        self._clock = clock
        self._applications: dict[str, LocalApplication] = {}

    def connect(self) -> None:
        """There is nothing to join."""

    def report(self) -> dict[str, ApplicationReport]:
        return {name: each.report() for name, each in self._applications.items()}

    def deploy(self, plans: Sequence[ApplicationPlan]) -> None:
        for plan in plans:
            application = LocalApplication(plan, load=self._load, clock=self._clock)
            self._applications[plan.name] = application
            application.start()

    def delete(self, name: str) -> None:
        application = self._applications.pop(name, None)
        if application is not None:
            application.stop()

    def disconnect(self) -> None:
        """Stops every replica: they cannot outlive this process."""
        for name in list(self._applications):
            self.delete(name)


class LocalApplication:
    """The replicas of one plan: always `min_replicas` of them."""

    def __init__(self, plan: ApplicationPlan, *, load: Load, clock: Clock) -> None:
        self._replicas = [
            HostedReplica(plan.order, replica=uuid4().hex[:8], load=load, clock=clock)
            for _ in range(plan.min_replicas)
        ]
        self._thread = threading.Thread(target=self._run, name=f"load-{plan.key}", daemon=True)
        self._report = ApplicationReport("starting")

    def start(self) -> None:
        self._thread.start()

    def report(self) -> ApplicationReport:
        refused = next((each.refusal for each in self._replicas if each.refusal), "")
        return ApplicationReport("failed", message=refused) if refused else self._report

    def stop(self) -> None:
        self._thread.join()
        for replica in self._replicas:
            replica.stop(drain_s=DRAIN_S)

    def _run(self) -> None:
        try:
            for replica in self._replicas:
                replica.start()
        except ServingError as error:
            logger.exception("replica does not start", code=error.code)
            self._report = ApplicationReport("failed", message=error.message)
        else:
            self._report = ApplicationReport("running", replicas=len(self._replicas))
