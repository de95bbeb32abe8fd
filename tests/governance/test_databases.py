"""What audit and governance promise holds on both databases."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from serving.audit.findings import Kind
from serving.errors import SeparationBroken
from serving.governance.entities import RequestState
from serving.registry.entities import RiskTier
from serving.registry.lifecycle import State
from serving.storage_settings import RegistrySettings
from tests.audit.trails import Trail
from tests.governance.offices import AUTHOR, GRACE, HEIDI, KINDS, Office


def test_two_people_approve_on_either_database(
    tmp_path: Path, registry_settings: RegistrySettings
) -> None:
    """Request, refusal, two decisions, the registry's step; all of it in the trail."""
    office = Office(tmp_path, tier=RiskTier.HIGH, settings=registry_settings)
    office.validate()
    office.record(*KINDS)
    request = office.open()
    with pytest.raises(SeparationBroken):
        office.decide(request, AUTHOR)
    office.decide(request, GRACE)

    closed = office.decide(request, HEIDI)

    assert (closed.state, office.version().state) == (RequestState.APPROVED, State.APPROVED)
    assert office.view(request).standing.satisfied
    assert office.events("governance:approval:*") == [
        "governance:approval:given",
        "governance:approval:given",
        "governance:approval:refused",
    ]
    office.database.close()


def test_trail_is_whole_on_either_database(
    tmp_path: Path, registry_settings: RegistrySettings
) -> None:
    """Several writers at once, signed, verified; an edit by SQL is named."""
    trail = Trail(tmp_path, settings=registry_settings)
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda _: trail.append(2), range(8)))
    trail.sign()
    before = trail.verify()
    trail.sql("UPDATE audit_events SET actor = 'nobody' WHERE position = 5")

    after = trail.verify()
    trail.database.close()

    assert (before.intact, before.events, before.covered) == (True, 17, 17)
    assert [(each.kind, each.position) for each in after.findings] == [(Kind.EDITED, 5)]
