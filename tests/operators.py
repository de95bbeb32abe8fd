"""Whoever operates an instance in a test: the control port, as an operator asks it."""

from typing import Any

import httpx

from serving.core.principals import Role
from tests.instances import Instance
from tests.places import PATIENCE_S, wait_until


class Operator:
    """Orders and questions over HTTP; every answer must be 200 unless it is asked for as it is."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance

    def ask(
        self, method: str, path: str, body: object = None, *, role: Role = Role.OPERATOR
    ) -> httpx.Response:
        """Whatever is answered."""
        return httpx.request(
            method,
            f"{self._instance.control_url}{path}",
            json=body,
            headers={"Authorization": f"Bearer {self._instance.token(role)}"},
            timeout=PATIENCE_S,
        )

    def route(self, model: str, stable: str, *shadows: str) -> dict[str, Any]:
        """Who answers from now on; the traffic row."""
        copies = [{"version": version} for version in shadows]
        order = {"stable": stable, "shadows": copies, "reason": "a test"}
        return self._done(self.ask("PUT", f"/v1/traffic/{model}", order))

    def step(self, model: str, version: str, **order: object) -> dict[str, Any]:
        """A step of a version's life."""
        path = f"/v1/models/{model}/versions/{version}/state"
        return self._done(self.ask("POST", path, {"reason": "a test", **order}))

    def apply(self, *deployments: dict[str, Any], **more: object) -> dict[str, Any]:
        return self._done(self.ask("POST", "/v1/apply", {"deployments": deployments, **more}))

    def status(self) -> dict[str, Any]:
        return self._done(self.ask("GET", "/v1/status"))

    def drift(self) -> set[tuple[str, str]]:
        """What differs, and how."""
        status = self.status()
        if not status["known"]:
            return {("control", "not_known")}
        return {(each["what"], each["difference"]) for each in status["drift"]}

    def settle(self, *, within_s: float = PATIENCE_S) -> None:
        """Returns once what runs is what should."""

        def is_settled() -> bool:
            try:
                return not self.drift()
            except httpx.TransportError:
                return False  # Control is being started again.

        wait_until(is_settled, within_s=within_s)

    def moved(self) -> bool:
        """Whether every model is answered by the version that should answer."""
        return not {difference for _, difference in self.drift()} & {"not_moved", "not_known"}

    def events(self, name: str) -> list[dict[str, Any]]:
        """Events of the audit trail."""
        path = f"/v1/audit/events?name={name}&limit=1000"
        found: list[dict[str, Any]] = self._done(self.ask("GET", path, role=Role.AUDITOR))["events"]
        return found

    def _done(self, answer: httpx.Response) -> dict[str, Any]:
        assert answer.status_code == httpx.codes.OK, answer.text
        found: dict[str, Any] = answer.json()
        return found
