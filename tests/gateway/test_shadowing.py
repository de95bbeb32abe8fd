from collections.abc import Callable
from pathlib import Path

import pytest

from serving.core.batches import RowFailure
from serving.core.predictions import Fate, PredictionRecord
from serving.core.principals import Role
from tests.gateway.stand import (
    CANDIDATE,
    Client,
    MemoryLink,
    Stand,
    a_snapshot,
    a_stand,
    counted,
    doubled,
)


@pytest.fixture
def primary(stand: Stand) -> MemoryLink:
    return stand.connect(MemoryLink())


@pytest.fixture
def candidate(stand: Stand) -> MemoryLink:
    return stand.connect(MemoryLink(lambda array: doubled(doubled(array))), CANDIDATE)


def answer(stand: Stand, link: MemoryLink) -> None:
    link.answer()
    stand.turns.run()


def copies(stand: Stand) -> list[PredictionRecord]:
    return [record for record in stand.log.records if record.shadow_of]


def test_copy_leaves_after_the_primarys_answer(
    stand: Stand, primary: MemoryLink, candidate: MemoryLink
) -> None:
    """The candidate gets the same rows, but not before the caller has its answer (P13)."""
    client = stand.client(3)
    stand.log.held = True
    stand.send(client)
    answer(stand, primary)
    assert (client.heard, candidate.sent) == (0, [])

    stand.log.commit()
    stand.turns.run()

    assert client.answers == [[6, 6]]
    assert candidate.sent[0].tensors == primary.sent[0].tensors


def test_copy_is_a_record_linked_to_its_primary(
    stand: Stand, primary: MemoryLink, candidate: MemoryLink
) -> None:
    """The candidate's answer is recorded under its version and points to the primary's record."""
    client = stand.client(3, subject="ada")
    stand.send(client)
    answer(stand, primary)
    answer(stand, candidate)

    first, copy = stand.log.records
    assert (copy.shadow_of, copy.version, copy.principal) == (first.prediction_id, "2", "ada")
    assert (first.outputs[0].array.tolist(), copy.outputs[0].array.tolist()) == (
        [[6, 6]],
        [[12, 12]],
    )
    assert client.heard == 1
    assert counted(stand, "serving_requests_total", 'role="shadow"', 'fate="ok"') == 1


def leave(stand: Stand, primary: MemoryLink, client: Client) -> None:
    stand.send(client)
    client.go_away()
    answer(stand, primary)


def fail(stand: Stand, primary: MemoryLink, client: Client) -> None:
    stand.send(client)
    primary.answer({0: RowFailure.MODEL_ERROR})
    stand.turns.run()


def expire(stand: Stand, primary: MemoryLink, client: Client) -> None:
    stand.send(client)
    stand.pass_time(2)
    answer(stand, primary)


@pytest.mark.parametrize("happen", [leave, fail, expire], ids=["left", "failed", "expired"])
def test_only_answered_requests_are_mirrored(
    *,
    stand: Stand,
    primary: MemoryLink,
    candidate: MemoryLink,
    happen: Callable[[Stand, MemoryLink, Client], None],
) -> None:
    """A request that was cancelled, failed or timed out has no copy (SH-03)."""
    happen(stand, primary, stand.client())

    assert (candidate.sent, copies(stand)) == ([], [])


def test_copy_takes_no_place_of_a_caller(
    stand: Stand, primary: MemoryLink, candidate: MemoryLink
) -> None:
    """Copies count against no limit of their caller's, and nothing waits for them (SH-06)."""
    stand.send(stand.client())
    answer(stand, primary)

    assert len(candidate.frames) == 1
    assert (stand.pipeline.idle, stand.pipeline.admission.in_flight_bytes) == (True, 0)


def test_candidate_that_hangs_fills_only_its_own_queue(tmp_path: Path) -> None:
    """Above its bound copies are dropped and counted; primaries never notice (SH-05)."""
    stand = a_stand(tmp_path, shadow={"max_queued_rows": 5})
    primary = stand.connect(MemoryLink())
    stand.connect(MemoryLink(allowed_frames=1), CANDIDATE)
    clients = [stand.client(value) for value in range(10)]
    for client in clients:
        stand.send(client)
        answer(stand, primary)

    assert [client.answers for client in clients] == [[[2.0 * v] * 2] for v in range(10)]
    assert stand.queue(CANDIDATE).queued_rows == 5
    assert counted(stand, "serving_shadow_dropped_total", 'version="2"') == 4


def test_copies_are_bounded_in_bytes_too(tmp_path: Path) -> None:
    """Few large copies are as many as many small ones; their room comes back when they end (SH-04)."""
    stand = a_stand(tmp_path, shadow={"max_bytes": 100})
    primary = stand.connect(MemoryLink())
    candidate = stand.connect(MemoryLink(), CANDIDATE)
    for _ in range(3):
        stand.send(stand.client(rows=6))
        answer(stand, primary)
    assert counted(stand, "serving_shadow_dropped_total") == 1

    answer(stand, candidate)
    stand.send(stand.client(rows=6))
    answer(stand, primary)

    assert counted(stand, "serving_shadow_dropped_total") == 1
    assert len(candidate.sent) == 3


def test_copies_that_ended_take_no_room(tmp_path: Path) -> None:
    """However many came and went, the next one has all the room there is."""
    stand = a_stand(tmp_path, shadow={"max_bytes": 50})
    primary = stand.connect(MemoryLink())
    candidate = stand.connect(MemoryLink(), CANDIDATE)
    for _ in range(5):
        stand.send(stand.client(rows=6))
        answer(stand, primary)
        answer(stand, candidate)

    assert (len(copies(stand)), counted(stand, "serving_shadow_dropped_total")) == (5, 0)


def test_copies_end_by_their_own_deadline(tmp_path: Path) -> None:
    """A candidate without replicas has records that say so, not a queue that grows."""
    stand = a_stand(tmp_path, shadow={"deadline_s": 2})
    primary = stand.connect(MemoryLink())
    stand.send(stand.client())
    answer(stand, primary)

    stand.pass_time(2.01)

    assert [(copy.fate, copy.reason) for copy in copies(stand)] == [
        (Fate.REPLICA_LOST, "no_replica")
    ]
    assert (stand.queue(CANDIDATE).idle, stand.queue(CANDIDATE).queued_rows) == (True, 0)


def test_failing_candidate_is_a_record_and_nothing_else(
    stand: Stand, primary: MemoryLink, candidate: MemoryLink
) -> None:
    """What goes wrong with a copy is written down; the caller has long had its answer (SH-01)."""
    client = stand.client(1)
    stand.send(client)
    answer(stand, primary)

    candidate.answer({0: RowFailure.MODEL_ERROR})

    assert [copy.fate for copy in copies(stand)] == [Fate.MODEL_ERROR]
    assert (client.answers, client.refusals) == ([[2, 2]], [])
    assert counted(stand, "serving_requests_total", 'role="primary"', 'fate="ok"') == 1


def test_copies_are_dropped_before_any_caller_is_refused(tmp_path: Path) -> None:
    """At half of what would refuse a caller no copy is made; it is counted (OV, SH-05)."""
    stand = a_stand(tmp_path, admission={"max_in_flight_per_model": 8})
    primary = stand.connect(MemoryLink(allowed_frames=1))
    candidate = stand.connect(MemoryLink(), CANDIDATE)
    clients = [stand.client(value) for value in range(8)]
    for client in clients:
        stand.send(client)
    answer(stand, primary)
    assert (clients[0].heard, candidate.sent) == (1, [])
    assert counted(stand, "serving_shadow_dropped_total", 'version="2"') == 1

    stand.turns.run()
    stand.queue().wake()
    stand.turns.run()
    answer(stand, primary)
    stand.send(stand.client(9))
    answer(stand, primary)

    assert [client.refusals for client in clients] == [[]] * 8
    assert [sent.rows for sent in candidate.sent] == [7, 1]


def test_pinned_requests_and_copies_in_one_frame_are_counted_apart(
    stand: Stand, primary: MemoryLink, candidate: MemoryLink
) -> None:
    """An operator's request to a candidate is no shadow, though it travels with copies."""
    stand.send(stand.client())
    primary.answer()
    operator = stand.client(5, role=Role.OPERATOR, version="2")
    stand.send(operator)

    answer(stand, candidate)

    assert (candidate.sent[0].rows, operator.answers) == (2, [[20, 20]])
    for role in ("chosen", "shadow"):
        labels = ('version="2"', f'role="{role}"', 'fate="ok"')
        assert counted(stand, "serving_requests_total", *labels) == 1
    assert stand.pipeline.admission.in_flight == 0


def test_pinned_requests_are_not_mirrored(
    stand: Stand, candidate: MemoryLink, primary: MemoryLink
) -> None:
    """Only what the stable version answered is mirrored."""
    stand.send(stand.client(role=Role.OPERATOR, version="2"))
    answer(stand, candidate)

    assert (len(candidate.sent), primary.sent) == (1, [])


def test_candidate_that_left_the_policy_gets_no_more_copies(
    stand: Stand, primary: MemoryLink, candidate: MemoryLink
) -> None:
    """The table in force when the answer leaves decides who gets a copy."""
    stand.send(stand.client())
    stand.pipeline.apply(a_snapshot(epoch=2, shadows=()))

    answer(stand, primary)

    assert candidate.sent == []
