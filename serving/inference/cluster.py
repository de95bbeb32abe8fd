"""Every call of Ray Serve: join a cluster, deploy, look, delete.

One application per model version, deployed once; Serve places its replicas, restarts dead ones and
scales them. Names say everything about an application (`serving.inference.plans`), so a control
process that starts again compares names and touches nothing that is as it should be.

Ray's exceptions become ours here: `NotReady` for a cluster that does not answer now, `StartFailed`
for one that cannot be used at all. The calls block; whoever has an event loop uses a thread.
"""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import ray
from ray import serve
from ray.exceptions import RayError
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy
from ray.serve.exceptions import RayServeException
from ray.serve.schema import ApplicationStatus, ApplicationStatusOverview, LoggingConfig

from serving.engine_settings import RaySettings
from serving.errors import NotReady, StartFailed
from serving.inference import scaling
from serving.inference.causes import cause_of
from serving.inference.plans import PREFIX, ApplicationPlan, ApplicationReport, State
from serving.inference.replica import Replica
from serving.inference.unstable import missing_symbols

NAMESPACE: Final = "serving"
NODE_SHARE: Final = 0.001
GRACEFUL_SHUTDOWN_S: Final = 30.0
HEALTH_PERIOD_S: Final = 5.0
HEALTH_TIMEOUT_S: Final = 10.0
MAX_ONGOING_REQUESTS: Final = 64
CONSTRUCTOR_ATTEMPTS: Final = 2
LOGGING: Final = LoggingConfig(log_level="WARNING", enable_access_log=False)
FAILURES: Final = (RayError, RayServeException, ConnectionError, TimeoutError, RuntimeError)

_STATES: Final[dict[ApplicationStatus, State]] = {
    ApplicationStatus.NOT_STARTED: "starting",
    ApplicationStatus.DEPLOYING: "starting",
    ApplicationStatus.RUNNING: "running",
    ApplicationStatus.UNHEALTHY: "running",  # Serve is already replacing its replicas.
    ApplicationStatus.DEPLOY_FAILED: "failed",
    ApplicationStatus.DELETING: "deleting",
}


class RayEngine:
    """Runs applications on a Ray cluster. Fits `control.reconciler.Engine`."""

    def __init__(self, settings: RaySettings, *, locate: Callable[[], str]) -> None:
        """locate: waits for the cluster and returns its address."""
        self._settings = settings
        self._locate = locate
        self._embedded = settings.address is None

    def connect(self) -> None:
        """Joins the cluster as a driver and starts Serve where it does not run. Raises StartFailed."""
        missing = missing_symbols()
        if missing:
            names = ", ".join(missing)
            raise StartFailed(f"Ray {ray.__version__} lacks what this version uses: {names}")
        address = self._locate()
        if os.environ.get("RAY_AUTH_MODE", "").lower() != "token":
            raise StartFailed(
                f"the Ray cluster at {address} is used with token authentication only: set "
                "RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH; its ports run code for any caller"
            )
        try:
            ray.init(
                address=address,
                namespace=NAMESPACE,
                log_to_driver=False,
                logging_level=logging.WARNING,
            )
            serve.start(proxy_location="Disabled", logging_config=LOGGING)
        except FAILURES as error:
            ray.shutdown()
            raise StartFailed(f"cannot use the Ray cluster at {address}: {error}") from error

    def report(self) -> dict[str, ApplicationReport]:
        """Our applications by name, as Serve sees them. Raises NotReady."""
        with _translated("report"):
            applications = serve.status().applications
        return {
            name: _report(overview)
            for name, overview in applications.items()
            if name.startswith(PREFIX)
        }

    def deploy(self, plans: Sequence[ApplicationPlan]) -> None:
        """Asks for applications that do not exist yet; does not wait for them. Raises NotReady."""
        targets = [
            serve.RunTarget(target=self._application(plan), name=plan.name, route_prefix=None)
            for plan in plans
        ]
        with _translated("deploy"):
            serve.run_many(
                targets,
                wait_for_ingress_deployment_creation=False,
                wait_for_applications_running=False,
            )

    def delete(self, name: str) -> None:
        """Asks Serve to drain and remove an application; does not wait. Raises NotReady."""
        with _translated("delete"):
            serve.delete(name, _blocking=False)

    def disconnect(self) -> None:
        """Leaves the cluster; what runs there goes on."""
        ray.shutdown()

    def _application(self, plan: ApplicationPlan) -> serve.Application:
        deployment = serve.deployment(
            name="replica",
            max_ongoing_requests=MAX_ONGOING_REQUESTS,
            max_surge_percent=100,
            max_constructor_retry_count=CONSTRUCTOR_ATTEMPTS,
            graceful_shutdown_timeout_s=GRACEFUL_SHUTDOWN_S,
            health_check_period_s=HEALTH_PERIOD_S,
            health_check_timeout_s=HEALTH_TIMEOUT_S,
            ray_actor_options=self._actor_options(plan),
            logging_config=LOGGING,
            **_scale(plan),
        )(Replica)
        return deployment.bind(plan.order.encode())

    def _actor_options(self, plan: ApplicationPlan) -> dict[str, Any]:
        options: dict[str, Any] = {
            "num_cpus": self._settings.replica_cpus,
            "num_gpus": plan.num_gpus,
        }
        if not self._embedded and plan.order.effective_settings().channel.listen == "unix":
            # Frames travel over Unix sockets: replicas run where the gateways are.
            node = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]  # Ray's
            options["resources"] = {f"node:{node}": NODE_SHARE}
        return options


def _scale(plan: ApplicationPlan) -> dict[str, Any]:
    if plan.min_replicas == plan.max_replicas:
        return {"num_replicas": plan.min_replicas}
    return {
        "autoscaling_config": AutoscalingConfig(
            min_replicas=plan.min_replicas,
            max_replicas=plan.max_replicas,
            upscale_delay_s=scaling.UPSCALE_DELAY_S,
            downscale_delay_s=scaling.DOWNSCALE_DELAY_S,
            look_back_period_s=scaling.LOOK_BACK_S,
            policy=AutoscalingPolicy(  # type: ignore[no-untyped-call]  # Ray's
                policy_function=scaling.POLICY
            ),
        )
    }


def _report(overview: ApplicationStatusOverview) -> ApplicationReport:
    replicas = sum(
        count
        for deployment in overview.deployments.values()
        for state, count in deployment.replica_states.items()
        if state == "RUNNING"
    )
    state = _STATES[overview.status]
    message = ""
    if state == "failed":
        details = [each.message for each in overview.deployments.values() if each.message]
        message = cause_of("\n".join([overview.message, *details]))
    return ApplicationReport(state, replicas, message)


@contextmanager
def _translated(verb: str) -> Iterator[None]:
    try:
        yield
    except FAILURES as error:
        raise NotReady(f"Ray Serve could not {verb}: {error}") from error
