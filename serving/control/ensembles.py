"""Ensembles in the control plane: what their stages must be, looked up in the registry.

An ensemble has no application. It may run while its stages are those that were agreed to, by digest,
and each of them may run by itself: its own release is checked as for any version. Its inspection reads
the stages and nothing else, for there is nothing to load.
"""

from collections.abc import Iterator
from typing import Final

from sqlalchemy import Connection

from serving.core.models import ModelVersion
from serving.inference.reports import InspectionReport
from serving.registry import rows
from serving.registry.ensembles import ENTRY, trouble_with
from serving.registry.entities import RegisteredVersion
from serving.registry.lifecycle import SERVING, State

RUNTIME: Final = "gateway"
"""What runs an ensemble, as reports name it."""

MAY_BE_STAGE: Final = SERVING | {State.APPROVED, State.DEPRECATED}
_ENDED: Final = frozenset({State.REJECTED, State.RETIRED})


def examine(connection: Connection, version: RegisteredVersion) -> InspectionReport:
    """The inspection of an ensemble: whether its stages are there, and are those of its digest."""
    definition = version.definition
    reason = trouble_with(definition, lambda *key: _definition(connection, *key))
    for stage in definition.stages if not reason else ():
        found = rows.find_version(connection, stage.model, stage.version)
        if found is not None and found.state in _ENDED:
            reason = f"stage {stage.name}: {stage.key} is {found.state}"
    return InspectionReport(
        code="stages" if reason else "",
        reason=reason,
        stage="reading",
        files={ENTRY: version.digest},
        runtime=RUNTIME,
        definition=definition,
    )


def stages_of(
    connection: Connection, definition: ModelVersion, *, now_ns: int
) -> Iterator[tuple[RegisteredVersion | None, str]]:
    """Each stage's version, and why it may not be one; nothing when it may."""
    trouble = trouble_with(definition, lambda *key: _definition(connection, *key))
    if trouble:
        yield None, trouble
        return
    for stage in definition.stages:
        found = rows.find_version(connection, stage.model, stage.version)
        if found is None:
            continue
        is_over = 0 < found.sunset_ns <= now_ns
        if found.state not in MAY_BE_STAGE or is_over:
            words = "past its sunset" if is_over else str(found.state)
            yield found, f"stage {stage.name}: {stage.key} is {words}"
        else:
            yield found, ""


def _definition(connection: Connection, model: str, version: str) -> ModelVersion | None:
    found = rows.find_version(connection, model, version)
    return None if found is None else found.definition
