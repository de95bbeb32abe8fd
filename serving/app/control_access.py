"""Who may come to the control port, and the access state that its owner keeps: built and wired."""

from collections.abc import Sequence

from serving.access.apikeys import read_pepper
from serving.access.issuers import Issuers
from serving.access.keys import internal_secret
from serving.access.live import LiveAccess
from serving.access.operators import trusted_operators
from serving.access.permissions import CONTROL
from serving.access.store import AccessStore
from serving.access.tokens import Authenticator
from serving.app.control_types import TYPES
from serving.app.directory import DataDirectory
from serving.app.worker_metrics import read_refusals
from serving.audit.spool import Spool
from serving.control.access import AccessRegister
from serving.control.access_keys import KeyRegister
from serving.control.privacy import SubjectProtection
from serving.core.clock import Clock
from serving.edge.admin.access import AccessRoutes
from serving.edge.admin.control import ControlPlane, ControlRoutes
from serving.edge.admin.openapi import description_route
from serving.edge.admin.privacy import PrivacyRoutes
from serving.edge.routes import Route, Router
from serving.settings import Settings
from serving.telemetry.metrics import MetricFamilies


class ControlAccess:
    """The access state of an instance, and the door to its control port."""

    def __init__(
        self, settings: Settings, issuers: Issuers, *, directory: DataDirectory, clock: Clock
    ) -> None:
        """Raises StartFailed when the state on disk cannot be read."""
        self._clock = clock
        self._secret = internal_secret(directory.keys)
        pepper, store = read_pepper(directory.keys), AccessStore(directory.access_file)
        self._live = LiveAccess(pepper=pepper, tenants=settings.tenants, clock=clock)
        self._authenticator = Authenticator(
            (*issuers.trusted, trusted_operators(directory.keys, clock)),
            settings.access,
            api_keys=self._live,
            adopt=self._live.adopt,
            refused=self._live.denials.refuse_credential,
        )
        self._register = AccessRegister(
            store, live=self._live, authenticator=self._authenticator, clock=clock
        )
        self._keys = KeyRegister(self._register, store, pepper=pepper)
        self._protection = SubjectProtection(
            directory.root,
            spool=Spool(directory.audit),
            copies=settings.privacy.erase_list_copies,
            clock=clock,
        )

    @property
    def register(self) -> AccessRegister:
        return self._register

    def router(self, plane: ControlPlane, more: Sequence[Route]) -> Router:
        """The whole control port. more: what is answered from the database."""
        routes = ControlRoutes(
            plane, authentication=self._authenticator, secret=self._secret, clock=self._clock
        )
        access = AccessRoutes(self._register, self._keys)
        privacy = PrivacyRoutes(self._protection)
        table = [*routes.routes(), *access.routes(), *privacy.routes(), *more]
        return Router(
            [*table, description_route(table, TYPES)],
            identify=routes.identify,
            permissions=CONTROL,
        )

    def read_families(self, families: MetricFamilies) -> None:
        read_refusals(families, self._live, self._authenticator)
