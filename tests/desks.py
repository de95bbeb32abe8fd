"""The access state for tests: its registers over a folder, as a control process builds them."""

import secrets
from pathlib import Path

from serving.access.live import LiveAccess
from serving.access.store import AccessStore
from serving.access.tokens import Authenticator
from serving.control.access import AccessRegister
from serving.control.access_keys import KeyRegister
from serving.core.clock import ManualClock
from serving.errors import Unauthenticated
from serving.settings import AccessSettings


class Desk:
    """The registers over one folder, as a control process builds them."""

    def __init__(self, folder: Path, clock: ManualClock) -> None:
        self.clock = clock
        self.file = folder / "access.json"
        self.store = AccessStore(self.file)
        pepper = secrets.token_bytes(32)
        self.live = LiveAccess(pepper=pepper, tenants={}, clock=clock)
        self.authenticator = Authenticator((), AccessSettings(), api_keys=self.live)
        self.access = AccessRegister(
            self.store, live=self.live, authenticator=self.authenticator, clock=clock
        )
        self.keys = KeyRegister(self.access, self.store, pepper=pepper)

    def knows(self, secret: str) -> bool:
        try:
            now_s = self.clock.wall_ns() / 1e9
            self.authenticator.authenticate(f"ApiKey {secret}".encode(), now_s)
        except Unauthenticated:
            return False
        return True
