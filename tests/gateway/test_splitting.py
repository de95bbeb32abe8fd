"""Who answers: exact by weight, the same for the same caller, and nobody moved back."""

from collections import Counter
from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st

from serving.core.clock import ManualClock
from serving.core.models import ModelName, VersionName
from serving.core.principals import Principal
from serving.core.principals import Role as Roles
from serving.core.traffic import FULL, Arm, Segment, Sticky, TrafficPolicy
from serving.gateway.batching import VersionQueue
from serving.gateway.splitting import (
    Split,
    Turns,
    fitting,
    parts_of,
    point_of_key,
    point_of_sequence,
)
from tests.gateway.stand import MemoryLink, Telling, a_queue
from tests.gateway.stand import Turns as Loop
from tests.plans import a_version

WEIGHTS = st.integers(0, FULL)


class Said:
    """A request with these headers."""

    def __init__(self, **headers: bytes) -> None:
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}

    def header(self, name: str) -> bytes:
        return self.headers.get(name, b"")


def somebody(subject: str = "ada", tenant: str = "") -> Principal:
    return Principal(subject, frozenset({Roles.CALLER}), tenant=tenant)


def queue_of(version: str, *, ready: bool = True) -> VersionQueue:
    queue = a_queue(
        a_version(version=version), outcomes=Telling(), clock=ManualClock(), turns=Loop()
    )
    if ready:
        queue.links.append(MemoryLink())
    return queue


STABLE, SECOND, THIRD = queue_of("1"), queue_of("2"), queue_of("3")


def a_split(
    *weights: int,
    sticky: Sticky = "request",
    salt: str = "spring",
    turns: Turns | None = None,
    queues: tuple[VersionQueue, ...] = (SECOND, THIRD),
    diverted: Callable[[VersionQueue], None] = lambda _queue: None,
) -> Split:
    arms = tuple(
        Arm(queue.version.version, weight) for queue, weight in zip(queues, weights, strict=False)
    )
    policy = TrafficPolicy(
        ModelName("doubler"), VersionName("1"), arms=arms, sticky=sticky, salt=salt
    )
    pairs = list(zip(arms, queues, strict=False))
    return Split(policy, STABLE, pairs, turns=turns or Turns(), diverted=diverted)


@settings(max_examples=5)
@given(first=WEIGHTS, second=WEIGHTS, skip=st.integers(0, 1000))
def test_weights_are_exact_over_any_ten_thousand_requests(
    first: int, second: int, skip: int
) -> None:
    """Within a tenth of a percent of all requests, wherever the counting begins."""
    second = min(second, FULL - first)
    turns = Turns()
    for _ in range(skip):
        turns.take()
    split = a_split(first, second, turns=turns)

    said, ada = Said(), somebody()
    answered = Counter(split.choose(said, ada) for _ in range(FULL))

    assert abs(answered[SECOND] - first) <= 10
    assert abs(answered[THIRD] - second) <= 10


def test_few_requests_are_split_as_evenly() -> None:
    """No stretch of a hundred requests has more than two more or fewer of a tenth."""
    split = a_split(1000)
    sides = [split.choose(Said(), somebody()) is SECOND for _ in range(2000)]

    assert {sum(sides[start : start + 100]) for start in range(1900)} <= {8, 9, 10, 11, 12}


@given(key=st.binary(max_size=40), salt=st.text(max_size=10), below=WEIGHTS, above=WEIGHTS)
def test_raising_a_weight_moves_nobody_back(key: bytes, salt: str, below: int, above: int) -> None:
    """Whoever an arm answers is answered by it at any higher weight, too."""
    below, above = sorted((below, above))
    said = Said(serving_sticky_key=key)

    def answers(weight: int) -> bool:
        split = a_split(weight, sticky="header", salt=salt)
        return split.choose(said, somebody()) is SECOND

    assert answers(above) or not answers(below)


@given(key=st.binary(min_size=1, max_size=40), first=WEIGHTS, second=WEIGHTS, more=WEIGHTS)
def test_two_arms_only_take_callers_from_the_stable_version(
    key: bytes, first: int, second: int, more: int
) -> None:
    """Raising one of two arms leaves the callers of the other where they are."""
    second = min(second, FULL - first)
    more = min(more, FULL - first - second)
    said = Said(serving_sticky_key=key)

    before = a_split(first, second, sticky="header").choose(said, somebody())
    for raised in ((first + more, second), (first, second + more)):
        after = a_split(*raised, sticky="header").choose(said, somebody())
        assert before in (after, STABLE)


@given(subject=st.text(min_size=1, max_size=20), weight=WEIGHTS)
def test_sh_12_same_caller_same_side(subject: str, weight: int) -> None:
    """In every worker and after every restart: two splits that know nothing of each other agree."""
    one, another = a_split(weight, sticky="principal"), a_split(weight, sticky="principal")
    chosen = {split.choose(Said(), somebody(subject)) for split in (one, another) * 3}

    assert len(chosen) == 1


def test_sh_12_shares_of_sticky_callers_are_those_of_the_weights() -> None:
    """Of 10,000 callers an arm of a tenth gets a tenth, as near as chance brings it."""
    split = a_split(1000, sticky="principal")
    mine = sum(split.choose(Said(), somebody(f"caller-{n}")) is SECOND for n in range(10_000))

    assert abs(mine - 1000) < 4 * 30


def test_what_is_sticky_is_what_the_policy_says() -> None:
    """The key, the data subject or the caller; without the first two the caller counts."""

    def sides(sticky: Sticky, said: Callable[[int], Said], who: Callable[[int], str]) -> int:
        split = a_split(5000, sticky=sticky)
        return len({split.choose(said(n), somebody(who(n))) for n in range(50)})

    keyed, about = (
        lambda n: Said(serving_sticky_key=b"%d" % n),
        lambda n: Said(serving_subject=b"%d" % n),
    )
    one, many = (lambda _n: "ada", lambda n: f"caller-{n}")

    assert (sides("header", keyed, one), sides("subject", about, one)) == (2, 2)
    assert sides("principal", keyed, one) == sides("header", lambda _: Said(), one) == 1
    assert sides("header", lambda _: Said(), many) == sides("subject", keyed, many) == 2


def test_salt_puts_callers_elsewhere() -> None:
    """Who was a canary in one rollout need not be one in the next."""
    points = {point_of_key(salt, b"ada") for salt in ("spring", "summer", "autumn")}

    assert len(points) == 3


def test_arm_without_a_replica_answers_nobody() -> None:
    """Its share goes to the stable version at once, and is counted."""
    away, diverted = queue_of("2", ready=False), list[VersionQueue]()
    split = a_split(2500, queues=(away,), diverted=diverted.append)

    answered = {split.choose(Said(), somebody()) for _ in range(100)}

    assert (answered, set(diverted)) == ({STABLE}, {away})
    assert 24 <= len(diverted) <= 26


@given(weights=st.lists(st.integers(0, FULL // 4), max_size=4))
def test_arms_share_no_points(weights: list[int]) -> None:
    """Every arm has as many points as its weight, inside the whole, and none of another's."""
    arms = [Arm(VersionName(str(n)), weight) for n, weight in enumerate(weights)]
    points = [set(range(first, end)) for first, end in parts_of(arms)]

    assert [len(each) for each in points] == weights
    assert len(set[int]().union(*points)) == sum(weights)
    assert set[int]().union(*points) <= set(range(FULL))


@settings(max_examples=20)
@given(start=st.integers(0, 2**40), step=st.integers(1, 64), share=st.integers(1, FULL))
def test_sh_05_share_is_the_same_of_every_regular_selection(
    start: int, step: int, share: int
) -> None:
    """Whatever repeats every so many requests, large ones say, is neither preferred nor left out."""
    taken = sum(point_of_sequence(start + step * n) < share for n in range(2000))

    assert abs(taken / 2000 - share / FULL) < 0.05


def test_segments_are_principals_tenants_and_headers() -> None:
    """A request belongs to those that it says, and to no other."""
    segments = frozenset(
        {
            Segment("principal", "ada"),
            Segment("tenant", "risk"),
            Segment("header:x-team", "blue"),
            Segment("header:x-team", "red"),
        }
    )
    said = Said(x_team=b"red")

    assert fitting(segments, said, somebody("ada", tenant="risk")) == {
        Segment("principal", "ada"),
        Segment("tenant", "risk"),
        Segment("header:x-team", "red"),
    }
    assert fitting(segments, Said(), somebody("bob")) == frozenset()
