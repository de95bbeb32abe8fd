"""Rollouts in the control process: overlay, conductor, desk and routes, built and wired.

Everything is there from the start, so that a rollback which was kept is in force before the database
was reached; the desk and the conductor open with it.
"""

from serving.app.directory import DataDirectory
from serving.app.registry_access import LateDesk, RegistryAccess
from serving.control.conductor import Conductor, RolloutOffice, Seen
from serving.control.lookout import Counted, Floor, Senses
from serving.control.overlay import Overlay
from serving.control.rollout_desk import RolloutDesk, answered
from serving.core.calls import Answer, Call
from serving.core.clock import Clock
from serving.edge.admin.rollout import RolloutRoutes, reason_in
from serving.edge.routes import Route
from serving.errors import NotReady
from serving.settings import Settings
from serving.storage.operations import Operations
from serving.telemetry.families import (
    ROLLOUT_ROLLBACKS,
    ROLLOUT_STATE,
    ROLLOUT_UNRECORDED,
    ROLLOUT_WEIGHT,
)
from serving.telemetry.metrics import MetricFamilies

OVERLAY_NAME = "rollbacks.json"


class RolloutControl:
    """What a control process needs to conduct rollouts. `source` is the desired state with what was
    rolled back left out."""

    def __init__(
        self,
        settings: Settings,
        directory: DataDirectory,
        registry: RegistryAccess,
        *,
        measures: Counted,
        clock: Clock,
    ) -> None:
        self.source = Overlay(registry.source, directory.root / OVERLAY_NAME)
        self._settings = settings
        self._registry = registry
        self._measures = measures
        self._clock = clock
        self._desk = LateDesk()
        self._conductor: Conductor | None = None

    def conduct(self, floor: Floor) -> None:
        """Says what runs, once that is built; before `run`."""
        senses = Senses(floor, self._measures, self._registry.comparisons.current, self._reread)
        self._conductor = Conductor(
            self._office,
            self._registry.worker,
            senses=senses,
            overlay=self.source,
            settings=self._settings.rollouts,
            clock=self._clock,
        )

    async def run(self) -> None:
        """Until cancelled."""
        await self._conducting().run()

    def routes(self) -> list[Route]:
        return RolloutRoutes(
            self._desk, self._registry.worker, changed=self._changed, emergency=self._emergency
        ).routes()

    def read_families(self, families: MetricFamilies) -> None:
        families.read(ROLLOUT_WEIGHT, self._weights)
        families.read(ROLLOUT_STATE, self._states)
        families.read(ROLLOUT_ROLLBACKS, self._rollbacks)
        families.read_one(ROLLOUT_UNRECORDED, lambda: len(self.source.entries))

    # -- inside ----------------------------------------------------------------------------------

    def _conducting(self) -> Conductor:
        if self._conductor is None:
            raise NotReady("nothing conducts rollouts yet. This is a bug")
        return self._conductor

    def _office(self) -> RolloutOffice | None:
        found = self._registry.rollouts()
        if found is not None and self._desk.desk is None:
            self._desk.desk = RolloutDesk(
                found.database,
                found.rollouts,
                Operations(found.database, self._clock),
                seen=self._seen,
                unrecorded=lambda rollout: rollout in {it.rollout for it in self.source.entries},
            )
        return found

    async def _reread(self) -> bool:
        await self._registry.source.read()
        return not self._registry.source.trouble

    def _seen(self, model: str) -> Seen | None:
        return self._conducting().seen.get(model)

    def _changed(self) -> None:
        self._registry.source.nudge()
        self._conducting().nudge()

    def _emergency(self, call: Call) -> Answer:
        model = call.arguments["model"]
        return answered(self._conducting().retreat(model, actor=call.actor, reason=reason_in(call)))

    def _weights(self) -> dict[tuple[str, ...], float]:
        return {
            (model, seen.rollout.candidate): seen.sight.published
            for model, seen in self._under_way()
        }

    def _states(self) -> dict[tuple[str, ...], float]:
        return {
            (model, seen.rollout.candidate, seen.rollout.state.value): 1.0
            for model, seen in self._under_way()
        }

    def _under_way(self) -> list[tuple[str, Seen]]:
        return list(self._conducting().seen.items())

    def _rollbacks(self) -> dict[tuple[str, ...], float]:
        return {key: float(count) for key, count in self._conducting().rollbacks.items()}
