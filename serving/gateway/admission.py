"""Who may come in. Refusing is cheap and early: before the body is decoded, from counters alone.

All limits are per worker. A permit is the caller's `Share`, taken by `admit` and given back by
`release` when the request's record is durable; memory of callers is bounded because a share
without requests is forgotten.
"""

from serving.errors import CallerLimitReached, Overloaded, QueueFull, ServingError
from serving.settings import AdmissionSettings


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
        self._settings = settings
        self._shares: dict[str, Share] = {}
        self._per_model: dict[str, int] = {}

    def admit(self, subject: str, model: str, queued_rows: int) -> Share:
        """A place for one more request of `subject` to `model`.

        queued_rows: of the version it would wait for. Raises CallerLimitReached (the caller's own
        doing) or Overloaded/QueueFull (ours).
        """
        share = self._shares.get(subject)
        if share is None:
            share = self._shares[subject] = Share(subject)
        refusal = self._refusal(share, model, queued_rows)
        if refusal is not None:
            if not share.in_flight:
                del self._shares[subject]
            raise refusal
        share.in_flight += 1
        self.in_flight += 1
        self._per_model[model] = self._per_model.get(model, 0) + 1
        return share

    def release(self, share: Share, model: str, size_bytes: int) -> None:
        """Gives the place back."""
        share.in_flight -= 1
        self.in_flight -= 1
        self.in_flight_bytes -= size_bytes
        self._per_model[model] -= 1
        if not share.in_flight:
            self._shares.pop(share.subject, None)

    def _refusal(self, share: Share, model: str, queued_rows: int) -> ServingError | None:
        settings = self._settings
        if share.in_flight >= settings.max_in_flight_per_caller:
            limit = settings.max_in_flight_per_caller
            return CallerLimitReached(f"at most {limit} of your requests may be in flight")
        if queued_rows >= settings.max_queued_rows:
            return QueueFull("the model's queue is full; retry later")
        if self._per_model.get(model, 0) >= settings.max_in_flight_per_model:
            return Overloaded("too many requests to this model are in flight; retry later")
        if (
            self.in_flight >= settings.max_in_flight
            or self.in_flight_bytes >= settings.max_queued_bytes
        ):
            return Overloaded("the gateway is at capacity; retry later")
        return None
