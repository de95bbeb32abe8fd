from dataclasses import replace

import pytest

from serving.core.clock import ManualClock
from serving.core.models import BatchLimits, ModelName, ModelVersion, VersionName
from serving.core.traffic import Snapshot, Tombstone, TrafficPolicy
from serving.errors import ModelNotFound, ModelRetired, NoReplica
from serving.gateway.batching import VersionQueue
from serving.gateway.routing import RoutingTable
from tests.gateway.stand import CANDIDATE, DOUBLER, Stand, Telling, Turns, a_queue, a_snapshot


def a_table(snapshot: Snapshot, before: RoutingTable | None = None) -> RoutingTable:
    return RoutingTable(snapshot, before.queues if before else {}, make_queue, turns={})


def make_queue(version: ModelVersion) -> VersionQueue:
    return a_queue(version, outcomes=Telling(), clock=ManualClock(), turns=Turns())


def test_model_is_answered_by_its_stable_version() -> None:
    """The policy's stable version answers, its shadows get copies, and the epoch is known."""
    route = a_table(a_snapshot(epoch=3)).choose("doubler")

    assert (route.stable.version, route.epoch) == (DOUBLER, 3)
    assert [each.queue.version for each in route.shadows] == [CANDIDATE]


def test_unknown_model_and_version_are_not_found() -> None:
    """Nothing is served that the snapshot does not name."""
    table = a_table(a_snapshot())

    with pytest.raises(ModelNotFound):
        table.choose("other")
    with pytest.raises(ModelNotFound):
        table.pinned("doubler", "9")


def test_policy_of_an_unknown_version_has_no_route() -> None:
    """A policy whose stable version is not in the snapshot serves nothing rather than another."""
    snapshot = a_snapshot()
    broken = TrafficPolicy(ModelName("doubler"), VersionName("9"))

    table = a_table(replace(snapshot, policies=(broken,)))

    assert list(table.routes) == []


def test_shadow_of_an_unknown_version_is_left_out() -> None:
    """A candidate that is not there yet does not keep the model from serving."""
    table = a_table(a_snapshot(shadows=("2", "9")))

    assert [each.shadow.version for each in table.choose("doubler").shadows] == ["2"]


def test_only_the_stable_version_has_shadows() -> None:
    """Answers of a candidate are mirrored to nobody."""
    table = a_table(a_snapshot())

    stable, candidate = table.queues["doubler@1"], table.queues["doubler@2"]

    assert (len(table.shadows_of(stable)), table.shadows_of(candidate)) == (1, ())


def test_unchanged_versions_keep_their_queues() -> None:
    """A new snapshot does not disturb the calls of versions that stay as they are."""
    before = a_table(a_snapshot())
    after = a_table(a_snapshot(epoch=2, shadows=()), before)

    assert after.queues["doubler@1"] is before.queues["doubler@1"]
    assert after.shadows_of(after.queues["doubler@1"]) == ()


def test_changed_version_gets_a_queue_of_its_own() -> None:
    """Other limits under the same name are another version: its rows must not meet the old ones."""
    before = a_table(a_snapshot())
    changed = replace(DOUBLER, batching=BatchLimits(max_batch_size=4))
    after = a_table(a_snapshot(changed, CANDIDATE, epoch=2), before)

    assert after.queues["doubler@1"] is not before.queues["doubler@1"]
    assert after.queues["doubler@2"] is before.queues["doubler@2"]


def test_pipeline_swaps_the_table_at_once(stand: Stand) -> None:
    """Requests see one policy or the other, never a mixture."""
    old = stand.pipeline.table
    stand.pipeline.apply(a_snapshot(CANDIDATE, epoch=2, shadows=()))

    assert old.choose("doubler").stable.version == DOUBLER
    assert stand.pipeline.table.choose("doubler").stable.version == CANDIDATE


GRAVE = Tombstone(ModelName("doubler"), VersionName("1"), retired_s=10, successor="doubler@2")
OLDER = Tombstone(ModelName("doubler"), VersionName("0"), retired_s=5)


def test_retired_model_tells_whom_to_ask_instead() -> None:
    """The one that was retired last is the one that callers look for; the name is never free."""
    table = a_table(Snapshot(epoch=2, tombstones=(GRAVE, OLDER)))

    with pytest.raises(ModelRetired, match="doubler@1 was retired; ask doubler@2") as told:
        table.choose("doubler")
    assert told.value.successor == "doubler@2"
    with pytest.raises(ModelRetired, match="doubler@0"):
        table.pinned("doubler", "0")


def test_retired_version_is_told_beside_the_one_that_answers() -> None:
    """A caller who names it hears what became of it; whoever names none is answered."""
    table = a_table(replace(a_snapshot(CANDIDATE, shadows=()), tombstones=(GRAVE,)))

    assert table.choose("doubler").stable.version == CANDIDATE
    with pytest.raises(ModelRetired):
        table.check_grave("doubler", "1")
    table.check_grave("doubler", "2")


def test_policy_with_nothing_to_answer_asks_callers_to_retry() -> None:
    """A version that must not run is missing, not unknown."""
    snapshot = a_snapshot()
    table = a_table(replace(snapshot, versions=()))

    with pytest.raises(NoReplica):
        table.choose("doubler")
    assert table.unready == []


def test_readiness_waits_for_what_policies_name() -> None:
    """Neither for a version that comes nor for one that goes."""
    table = a_table(a_snapshot(shadows=()))

    assert (table.unready, set(table.queues)) == (["doubler@1"], {"doubler@1", "doubler@2"})
