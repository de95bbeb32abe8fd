"""How a replica makes itself known: it takes a lease with control and renews it from a thread.

A replica depends on control for nothing else. While control is away the thread keeps trying, the
frames keep flowing, and the gateways keep their last snapshot. The lease ends when the replica says
so, or when it stops renewing.
"""

import http.client
import threading
from collections.abc import Callable
from contextlib import closing
from typing import Final, Literal

import msgspec
import structlog

from serving.access.ownports import host_of, trust_in
from serving.core.traffic import ReplicaEndpoint
from serving.inference.counters import ReplicaStatistics
from serving.port_settings import ControlSettings

logger = structlog.get_logger()

TIMEOUT_S: Final = 2.0

Phase = Literal["loading", "warming", "refused"]


class Renewal(msgspec.Struct, frozen=True):
    """What a replica tells with every renewal. providers: what its session really runs on."""

    endpoint: ReplicaEndpoint
    statistics: ReplicaStatistics
    providers: tuple[str, ...] = ()


class PhaseReport(msgspec.Struct, frozen=True):
    """How far a replica has come before its first lease, or that its artifact was refused.

    reason: of a refusal. serving: it goes on with what it verified and loaded before.
    """

    model: str
    version: str
    phase: Phase
    reason: str = ""
    serving: bool = False


class Registration:
    """One replica's line to control. `start` begins to renew, `stop` gives the lease back."""

    def __init__(self, replica: str, *, control: ControlSettings, secret: str) -> None:
        self._replica = replica
        self._control = control
        self._secret = secret
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self._reachable = True

    def report(self, report: PhaseReport) -> None:
        """Tells how far the start has come; lost without harm when control is away."""
        self._send("PUT", f"/internal/phases/{self._replica}", msgspec.json.encode(report))

    def start(self, renewal: Callable[[], Renewal]) -> None:
        """Takes the lease now and renews it every `renew_s`, whatever happens to control."""
        self._thread = threading.Thread(
            target=self._keep, args=(renewal,), name=f"lease-{self._replica}", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Gives the lease back, so that gateways stop sending frames here."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join(TIMEOUT_S * 2)
            self._send("DELETE", f"/internal/endpoints/{self._replica}", b"")

    def _keep(self, renewal: Callable[[], Renewal]) -> None:
        path = f"/internal/endpoints/{self._replica}"
        while not self._stopped.is_set():
            self._send("PUT", path, msgspec.json.encode(renewal()))
            self._stopped.wait(self._control.renew_s)

    def _send(self, method: str, path: str, body: bytes) -> None:
        headers = {"Authorization": f"Bearer {self._secret}", "Content-Type": "application/json"}
        try:
            with closing(self._connect()) as connection:
                connection.request(method, path, body=body, headers=headers)
                answer = connection.getresponse()
                content = answer.read()
        except (OSError, http.client.HTTPException) as error:
            self._note(reachable=False, reason=repr(error))
        else:
            accepted = answer.status == http.client.OK
            self._note(reachable=accepted, reason=content[:200].decode(errors="replace"))

    def _connect(self) -> http.client.HTTPConnection:
        """Not connected yet. Raises OSError when the certificate there cannot be read."""
        host, port = host_of(self._control), self._control.port
        if self._control.certificate is None:
            return http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
        # Read each time, because certificates are replaced.
        trust = trust_in(self._control)
        return http.client.HTTPSConnection(host, port, timeout=TIMEOUT_S, context=trust)

    def _note(self, *, reachable: bool, reason: str) -> None:
        """Logs the change, not every attempt."""
        if reachable != self._reachable:
            self._reachable = reachable
            if reachable:
                logger.info("control answers again", replica=self._replica)
            else:
                logger.warning("control does not answer", replica=self._replica, reason=reason)
