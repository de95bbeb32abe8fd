"""Copies by share, segment and budget: what is copied, what is not, and that nothing else notices."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from serving.core.batches import RowFailure
from serving.core.models import VersionName
from serving.core.predictions import PredictionRecord
from serving.core.principals import Role
from serving.core.traffic import Segment, Shadow
from serving.errors import Overloaded
from serving.gateway.splitting import point_of_sequence
from tests.gateway.stand import (
    CANDIDATE,
    Client,
    MemoryLink,
    Stand,
    a_snapshot,
    a_stand,
    counted,
)
from tests.plans import a_version

THIRD = a_version(version="3")


def shadowing(stand: Stand, *shadows: Shadow, epoch: int = 2) -> list[MemoryLink]:
    """Links of the stable version and of its candidates, under this policy."""
    snapshot = a_snapshot(a_version(), CANDIDATE, THIRD, epoch=epoch)
    policy = replace(snapshot.policies[0], shadows=shadows)
    stand.pipeline.apply(replace(snapshot, policies=(policy,)))
    versions = (a_version(), *(a_version(version=each.version) for each in shadows))
    return [stand.connect(MemoryLink(allowed_frames=1000), version) for version in versions]


def shadow(version: str = "2", **terms: object) -> Shadow:
    return Shadow(VersionName(version), **terms)  # type: ignore[arg-type]  # passed on as given


def ask(stand: Stand, links: list[MemoryLink], *clients: Client) -> None:
    """Each is answered before the next one asks; copies run at once."""
    for client in clients:
        stand.send(client)
        for link in links:
            while link.frames:
                link.answer()
                stand.turns.run()


def copies(stand: Stand, version: str = "2") -> list[PredictionRecord]:
    return [each for each in stand.log.records if each.shadow_of and each.version == version]


def primaries(stand: Stand) -> list[PredictionRecord]:
    return [each for each in stand.log.records if not each.shadow_of]


def test_share_is_taken_by_sequence_alone(stand: Stand) -> None:
    """Anybody can tell from the record of a request whether it was to be copied."""
    links = shadowing(stand, shadow(share=3000))
    ask(stand, links, *(stand.client(1, rows=1 + n % 7) for n in range(300)))

    expected = {
        each.prediction_id for each in primaries(stand) if point_of_sequence(each.sequence) < 3000
    }
    assert {each.shadow_of for each in copies(stand)} == expected
    assert 65 <= len(expected) <= 115
    assert counted(stand, "serving_shadow_dropped_total") == 0


def test_sh_05_sampling_is_unbiased_by_size(stand: Stand) -> None:
    """Large requests that come in a rhythm are copied as often as small ones."""
    links = shadowing(stand, shadow(share=5000))
    ask(stand, links, *(stand.client(1, rows=8 if n % 2 else 1) for n in range(400)))

    large = sum(each.rows == 8 for each in copies(stand))
    small = sum(each.rows == 1 for each in copies(stand))
    assert abs(large - 100) < 3 * 7.1
    assert abs(small - 100) < 3 * 7.1


def test_candidates_of_one_share_get_the_same_requests(stand: Stand) -> None:
    """Several candidates are compared on the same requests, a smaller share on some of those."""
    links = shadowing(stand, shadow("2", share=4000), shadow("3", share=2000))
    ask(stand, links, *(stand.client() for _ in range(200)))

    second, third = ({each.shadow_of for each in copies(stand, v)} for v in ("2", "3"))
    assert third < second


def test_only_segments_are_copied(stand: Stand) -> None:
    """Any of a shadow's segments is enough; requests of none are not its business, nor dropped."""
    either = (Segment("principal", "ada"), Segment("header:x-team", "red"))
    links = shadowing(stand, shadow(segments=either))
    red = stand.client(subject="bob")
    red.headers["x-team"] = b"red"
    ask(stand, links, stand.client(subject="ada"), stand.client(subject="bob"), red)

    assert [each.principal for each in copies(stand)] == ["ada", "bob"]
    assert counted(stand, "serving_shadow_dropped_total") == 0


def test_budget_bounds_the_model_time_of_copies(stand: Stand) -> None:
    """A candidate with a fifth of the primary's model time gets about a fifth of the requests; the
    others are dropped, and counted as that."""
    links = shadowing(stand, shadow(budget=2000))
    ask(stand, links, *(stand.client() for _ in range(200)))

    assert 38 <= len(copies(stand)) <= 42
    dropped = counted(stand, "serving_shadow_dropped_total", 'reason="budget"')
    assert dropped == 200 - len(copies(stand))
    seconds = {
        version: counted(stand, "serving_model_seconds_total", f'version="{version}"')
        for version in ("1", "2")
    }
    assert seconds["2"] <= 0.22 * seconds["1"]


def test_sh_05_budget_is_unbiased_by_size(stand: Stand) -> None:
    """A copy is made while anything is left, whatever it will cost: small ones are not preferred."""
    links = shadowing(stand, shadow(budget=2500))
    sizes = np.random.default_rng(7).choice([1, 8], 600)
    ask(stand, links, *(stand.client(1, rows=int(rows)) for rows in sizes))

    made = np.array([each.rows for each in copies(stand)])
    asked = np.mean(sizes == 8)
    assert abs(np.mean(made == 8) - asked) < 3 * np.sqrt(0.25 / len(made))


def test_budget_does_not_pay_twice_for_what_did_not_run(tmp_path: Path) -> None:
    """Copies that nobody ran keep what they were charged; saved-up time is bounded."""
    stand = a_stand(tmp_path, shadow={"deadline_s": 1})
    links = shadowing(stand, shadow(budget=10_000))
    links[1].ready = False
    ask(stand, links[:1], *(stand.client() for _ in range(20)))
    stand.pass_time(2)

    assert {each.fate.name for each in copies(stand)} == {"REPLICA_LOST"}
    assert len(copies(stand)) == 20


@pytest.mark.parametrize("harm", ["none", "fails", "hangs", "exits"])
def test_sh_01_candidate_cannot_hurt_the_primary(stand: Stand, harm: str) -> None:
    """Sampled and on a budget: every caller gets the same bytes as without a shadow, and the copies
    have their own ends (P13)."""
    links = shadowing(stand, shadow(share=8000, budget=9000))
    clients = [stand.client(value) for value in range(30)]
    ends: dict[str, Callable[[], None]] = {
        "none": links[1].answer,
        "fails": lambda: links[1].answer({0: RowFailure.MODEL_ERROR}),
        "hangs": lambda: None,
        "exits": links[1].abort,
    }
    for client in clients:
        ask(stand, links[:1], client)
        if links[1].frames:
            ends[harm]()
            stand.turns.run()
    stand.pass_time(6)

    assert [client.answers for client in clients] == [[[2.0 * n] * 2] for n in range(30)]
    made = counted(stand, "serving_shadow_copies_total")
    dropped = counted(stand, "serving_shadow_dropped_total", 'version="2"')
    wanted = sum(point_of_sequence(each.sequence) < 8000 for each in primaries(stand))
    assert (len(copies(stand)), made + dropped) == (made, wanted)
    assert stand.pipeline.admission.in_flight == 0


def test_sh_02_rubbish_of_a_candidate_is_only_recorded(stand: Stand) -> None:
    """It answers readily and wrongly: the caller has the primary's answer, the record has both."""
    links = shadowing(stand, shadow(), epoch=2)
    links[1] = stand.connect(
        MemoryLink(lambda array: np.multiply(array, np.float32(np.nan))), CANDIDATE
    )
    stand.queue(CANDIDATE).links[:] = [links[1]]
    client = stand.client(3)
    ask(stand, links, client)

    (copy,) = copies(stand)
    assert client.answers == [[6, 6]]
    assert np.isnan(copy.outputs[0].array).all()


@pytest.mark.parametrize("fate", ["rejected", "timed out", "cancelled", "failed"])
def test_sh_03_shadow_of_an_unanswered_request_is_not_sent(stand: Stand, fate: str) -> None:
    """Whatever the share and the budget: only answers are mirrored, and nothing is dropped."""
    links = shadowing(stand, shadow(share=10_000, budget=10_000))
    client = stand.client(timeout_s=0.5)
    if fate == "rejected":
        stand.pipeline.admission.press(2.0)
    ends: dict[str, Callable[[], None]] = {
        "timed out": lambda: stand.pass_time(1),
        "cancelled": client.go_away,
        "failed": lambda: links[0].answer({0: RowFailure.MODEL_ERROR}),
        "rejected": lambda: None,
    }
    try:
        stand.send(client)
    except Overloaded:
        assert fate == "rejected"
    ends[fate]()
    while links[0].frames:
        links[0].answer()
    stand.turns.run()

    assert (copies(stand), links[1].sent) == ([], [])
    assert counted(stand, "serving_shadow_dropped_total") == 0


def test_sh_04_copy_of_a_large_body_is_made_or_counted(tmp_path: Path) -> None:
    """16 MiB are mirrored where they fit, and counted where they do not: never silently absent."""
    rows = 1 << 20
    for limit, made in ((64 << 20, 1), (1 << 20, 0)):
        stand = a_stand(tmp_path, shadow={"max_bytes": limit, "max_queued_rows": rows}, channel={})
        links = shadowing(stand, shadow(), epoch=2)
        ask(stand, links, stand.client(1, rows=rows // 16, columns=2), big(stand, rows))

        large = [each for each in copies(stand) if each.rows == rows]
        dropped = counted(stand, "serving_shadow_dropped_total", 'reason="room"')
        assert (len(large), dropped) == (made, 1 - made)


def big(stand: Stand, rows: int) -> Client:
    return stand.client(1, rows=rows, columns=4, vetted=True)


def test_sh_05_full_queue_drops_and_counts(tmp_path: Path) -> None:
    """What finds no room is dropped with its reason, and made plus dropped is all of the share."""
    stand = a_stand(tmp_path, shadow={"max_queued_rows": 5})
    links = shadowing(stand, shadow(share=5000))
    links[1].ready = False
    ask(stand, links[:1], *(stand.client() for _ in range(60)))

    wanted = sum(point_of_sequence(each.sequence) < 5000 for each in primaries(stand))
    dropped = counted(stand, "serving_shadow_dropped_total", 'reason="room"')
    assert (stand.queue(CANDIDATE).queued_rows, dropped) == (5, wanted - 5)
    assert counted(stand, "serving_shadow_copies_total") == 5


def test_sh_06_copies_cost_callers_nothing(stand: Stand) -> None:
    """No place, no rate limit, no quota: a copy has no share of the admission and no account."""
    links = shadowing(stand, shadow(budget=20_000))
    stand.send(stand.client(role=Role.CALLER))
    links[0].answer()
    stand.turns.run()
    (frame,) = links[1].frames

    assert [(call.share, call.account, call.exchange) for call in frame.calls] == [(None,) * 3]
    assert stand.pipeline.admission.in_flight == 0
