"""Who may come in. Refusing is cheap and early: before the body is decoded, from counters alone.

All limits are per worker. A permit is the caller's `Share`, taken by `admit` and given back by
`release` when the request's record is durable; memory of callers is bounded because a share
without requests is forgotten. The size of a request is known only when its body has been decoded:
then `hold` counts it, and refuses what does not fit any more. A log that is slower than the load
keeps places taken, and so refuses newcomers instead of gathering records.

What is refused here never got a prediction id: it is counted by its code and not recorded.
"""

from typing import Final

from serving.errors import CallerLimitReached, Overloaded, QueueFull, ServingError
from serving.gateway_settings import AdmissionSettings

PRESSURE: Final = 0.5
"""Of any limit of the worker: beyond it what nobody waits for is not begun."""

SMALL_BYTES: Final = 64 * 1024
"""A request that is still let in when memory becomes scarce."""
SCARCE: Final = 0.05
"""How much below `max_memory_share` memory is scarce."""


class Share:
    """What one caller has in flight."""

    __slots__ = ("in_flight", "subject")

    def __init__(self, subject: str) -> None:
        self.subject = subject
        self.in_flight = 0


class Admission:
    """Counts what is inside and refuses what would be too much."""

    def __init__(self, settings: AdmissionSettings) -> None:
        self.in_flight = 0
        self.in_flight_bytes = 0
        self._shares: dict[str, Share] = {}
        self._per_model: dict[str, int] = {}
        # Copied, because each of them is read for each request.
        self._most = settings.max_in_flight
        self._most_bytes = self._permitted_bytes = settings.max_queued_bytes
        self._largest_bytes = settings.max_queued_bytes
        self._most_memory_share = settings.max_memory_share
        self._most_rows = settings.max_queued_rows
        self._most_per_caller = settings.max_in_flight_per_caller
        self._most_per_model = settings.max_in_flight_per_model

    def admit(self, subject: str, model: str, queued_rows: int) -> Share:
        """A place for one more request of `subject` to `model`.

        queued_rows: of the version it would wait for. Raises CallerLimitReached (the caller's own
        doing) or Overloaded/QueueFull (ours).
        """
        share = self._shares.get(subject)
        if share is None:
            share = self._shares[subject] = Share(subject)
        of_model = self._per_model.get(model, 0)
        if (
            share.in_flight >= self._most_per_caller
            or queued_rows >= self._most_rows
            or of_model >= self._most_per_model
            or self.in_flight >= self._most
            or self.in_flight_bytes >= self._most_bytes
        ):
            if not share.in_flight:
                del self._shares[subject]
            raise self._refusal(share, queued_rows, of_model)
        share.in_flight += 1
        self.in_flight += 1
        self._per_model[model] = of_model + 1
        return share

    def hold(self, size_bytes: int) -> None:
        """Counts the inputs of an admitted request. Raises Overloaded, and counts nothing."""
        held_bytes = self.in_flight_bytes + size_bytes
        if held_bytes > self._most_bytes or size_bytes > self._largest_bytes:
            raise Overloaded("the gateway has no memory left for a request of this size")
        self.in_flight_bytes = held_bytes

    def press(self, memory_share: float) -> None:
        """How much of the machine's memory is in use: first large requests are refused, then all.

        The limit in bytes is the worker's own; this one is for what others take meanwhile.
        """
        scarce = memory_share >= self._most_memory_share - SCARCE
        self._largest_bytes = SMALL_BYTES if scarce else self._permitted_bytes
        full = memory_share >= self._most_memory_share
        self._most_bytes = -1 if full else self._permitted_bytes

    def pressed(self, model: str) -> bool:
        """Whether more than half of what may be inside is."""
        return (
            self.in_flight > PRESSURE * self._most
            or self.in_flight_bytes > PRESSURE * self._most_bytes
            or self._largest_bytes < self._permitted_bytes
            or self._per_model.get(model, 0) > PRESSURE * self._most_per_model
        )

    def release(self, share: Share, model: str, size_bytes: int) -> None:
        """Gives the place back."""
        share.in_flight -= 1
        self.in_flight -= 1
        self.in_flight_bytes -= size_bytes
        self._per_model[model] -= 1
        if not share.in_flight:
            self._shares.pop(share.subject, None)

    def _refusal(self, share: Share, queued_rows: int, of_model: int) -> ServingError:
        if share.in_flight >= self._most_per_caller:
            return CallerLimitReached(
                f"at most {self._most_per_caller} of your requests may be in flight"
            )
        if queued_rows >= self._most_rows:
            return QueueFull("the model's queue is full; retry later")
        if of_model >= self._most_per_model:
            return Overloaded("too many requests to this model are in flight; retry later")
        return Overloaded("the gateway is at capacity; retry later")
