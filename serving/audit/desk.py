"""The audit trail as the control port offers it: for reading only."""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from serving.audit.chain import Entry
from serving.audit.reading import Filter, Reading, find
from serving.core.calls import Answer, Call
from serving.errors import NotFound, ParameterInvalid

MOST_EVENTS: Final = 1000


class EventList(msgspec.Struct, frozen=True):
    """Newest first. next: the position to go on from, `before` it; -1 for the last page."""

    events: tuple[Entry, ...]
    next: int


TYPES: Final[Mapping[str, Any]] = {"EventList": EventList}


class AuditDesk:
    """Answers questions. Blocks: it is used from a thread of its own."""

    def __init__(self, database: Reading) -> None:
        self._database = database

    def ask(self, name: str, call: Call) -> Answer:
        """Raises ParameterInvalid, RegistryUnavailable."""
        del name  # There is one question only.
        return Answer(msgspec.json.encode(self.events(call.query)))

    def carry_out(self, name: str, call: Call) -> Answer:
        """Nothing here changes anything."""
        del call
        raise NotFound(f"the audit trail takes no order {name[:32]!r}")

    def events(self, query: Mapping[str, str]) -> EventList:
        try:
            wanted = msgspec.convert(dict(query), Filter, strict=False)
        except msgspec.ValidationError as error:
            raise ParameterInvalid(f"the query is not one: {str(error)[:128]}") from error
        if not 1 <= wanted.limit <= MOST_EVENTS:
            raise ParameterInvalid(f"limit must be 1 to {MOST_EVENTS}")
        found = tuple(find(self._database, wanted))
        return EventList(found, -1 if len(found) < wanted.limit else found[-1].position)
