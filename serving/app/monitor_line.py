"""The monitor's line to control: reports out, orders in. Away or slow, control only delays them."""

import http.client
from contextlib import closing
from typing import Final

import msgspec
import structlog

from serving.access.ownports import host_of, trust_in
from serving.governance.comparisons import ComparisonReport, MonitorOrders, MonitorReport
from serving.port_settings import ControlSettings

logger = structlog.get_logger()

TIMEOUT_S: Final = 2.0
PATH: Final = "/internal/comparisons"


class ControlLine:
    """One exchange at a time."""

    def __init__(self, control: ControlSettings, *, secret: str) -> None:
        self._control = control
        self._secret = secret
        self._reachable = True

    def exchange(self, reports: tuple[ComparisonReport, ...]) -> MonitorOrders | None:
        """What to compare from now on; None when control does not answer, or does not know yet."""
        body = msgspec.json.encode(MonitorReport(reports=reports))
        headers = {"Authorization": f"Bearer {self._secret}", "Content-Type": "application/json"}
        try:
            orders = msgspec.json.decode(self._sent(body, headers), type=MonitorOrders)
        except (OSError, http.client.HTTPException, msgspec.DecodeError) as error:
            self._note(reachable=False, reason=repr(error))
            return None
        self._note(reachable=True)
        return orders if orders.is_known else None

    def _sent(self, body: bytes, headers: dict[str, str]) -> bytes:
        with closing(self._connect()) as connection:
            connection.request("PUT", PATH, body=body, headers=headers)
            answer = connection.getresponse()
            content = answer.read()
        if answer.status != http.client.OK:
            raise http.client.HTTPException(content[:200].decode(errors="replace"))
        return content

    def _connect(self) -> http.client.HTTPConnection:
        """Not connected yet. Raises OSError when the certificate there cannot be read."""
        host, port = host_of(self._control), self._control.port
        if self._control.certificate is None:
            return http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
        trust = trust_in(self._control)  # Read each time, because certificates are replaced.
        return http.client.HTTPSConnection(host, port, timeout=TIMEOUT_S, context=trust)

    def _note(self, *, reachable: bool, reason: str = "") -> None:
        """Logs the change, not every attempt."""
        if reachable != self._reachable:
            self._reachable = reachable
            if reachable:
                logger.info("control answers again")
            else:
                logger.warning("control does not answer", reason=reason)
