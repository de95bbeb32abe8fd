"""A version beside the stable one that answers a share of the requests, through the whole path."""

from collections import Counter
from dataclasses import replace

import pytest

from serving.core.models import VersionName
from serving.core.predictions import Fate
from serving.core.principals import Role
from serving.core.traffic import Arm, Shadow, Snapshot, TrafficPolicy
from serving.errors import Forbidden, ModelNotFound
from tests.gateway.stand import CANDIDATE, DOUBLER, Client, MemoryLink, Stand, a_snapshot, counted

SECOND = VersionName("2")


def routed(weight: int = 5000, *, epoch: int = 2, **policy: object) -> Snapshot:
    """Version 2 answers `weight` of the requests."""
    snapshot = a_snapshot(epoch=epoch, shadows=())
    terms = {"arms": (Arm(SECOND, weight),), **policy}
    return replace(snapshot, policies=(replace(snapshot.policies[0], **terms),))  # type: ignore[arg-type]


@pytest.fixture
def links(stand: Stand) -> list[MemoryLink]:
    stand.pipeline.apply(routed())
    return [
        stand.connect(MemoryLink(allowed_frames=100)),
        stand.connect(MemoryLink(allowed_frames=100), CANDIDATE),
    ]


def ask(stand: Stand, links: list[MemoryLink], *clients: Client) -> Counter[str]:
    """All of them; which versions the records of their answers name."""
    before = len(stand.log.records)
    for client in clients:
        stand.send(client)
        answer(stand, links)
    return Counter(each.version for each in stand.log.records[before:] if not each.shadow_of)


def answer(stand: Stand, links: list[MemoryLink]) -> None:
    for link in links:
        while link.ready and link.frames:
            link.answer()
            stand.turns.run()


def test_arm_answers_its_share(stand: Stand, links: list[MemoryLink]) -> None:
    """Every answer is of the version that its record names; together they are the weights."""
    served = ask(stand, links, *(stand.client() for _ in range(50)))

    assert abs(served["2"] - 25) <= 1
    assert served.total() == 50
    assert (
        counted(stand, "serving_requests_total", 'version="2"', 'role="primary"', "ok")
        == served["2"]
    )


def test_arm_that_loses_its_replicas_fails_no_request(
    stand: Stand, links: list[MemoryLink]
) -> None:
    """What was on its way to it, and what would be, is answered by the stable version."""
    clients = [stand.client() for _ in range(10)]
    stand.send(*clients)
    assert links[1].frames
    links[1].abort()
    stand.turns.run()
    stand.pass_time(0.02)
    answer(stand, links)
    later = ask(stand, links, *(stand.client() for _ in range(10)))

    assert [client.heard for client in clients] == [len(client.answers) for client in clients]
    assert (later, {each.fate for each in stand.log.records}) == (Counter({"1": 10}), {Fate.OK})
    assert abs(counted(stand, "serving_diverted_total", 'version="2"') - 10) <= 1
    assert stand.queue(CANDIDATE).queued_rows == 0


def test_arm_of_another_signature_keeps_its_calls(stand: Stand, links: list[MemoryLink]) -> None:
    """A request that was read for one version is not given to one that reads it differently."""
    other = replace(CANDIDATE, outputs=(replace(CANDIDATE.outputs[0], name="z"),))
    snapshot = routed(10_000, epoch=3)
    stand.pipeline.apply(replace(snapshot, versions=(DOUBLER, other)))
    link = stand.connect(MemoryLink(allowed_frames=0), other)
    stand.send(stand.client())
    link.ready = False
    stand.pass_time(0.02)

    assert stand.queue(other).queued_rows == 1


def test_sh_10_every_record_carries_the_epoch_that_routed_it(
    stand: Stand, links: list[MemoryLink]
) -> None:
    """Old and new policies are both valid; which one it was can be told from the record."""
    ask(stand, links, stand.client())
    stand.pipeline.apply(routed(10_000, epoch=9))
    ask(stand, links, stand.client())

    assert [(each.policy_epoch, each.fate) for each in stand.log.records] == [
        (2, Fate.OK),
        (9, Fate.OK),
    ]
    assert stand.log.records[1].version == "2"


def test_sh_12_a_caller_stays_while_the_weight_rises(stand: Stand, links: list[MemoryLink]) -> None:
    """From ten percent to all: once on the new version, never back."""
    callers = [f"caller-{number}" for number in range(20)]
    moved: set[str] = set()
    for epoch, weight in enumerate((1000, 2500, 5000, 10_000), start=2):
        stand.pipeline.apply(routed(weight, epoch=epoch, sticky="principal", salt="spring"))
        for subject in callers:
            served = ask(stand, links, stand.client(subject=subject))
            assert subject not in moved or served == Counter({"2": 1})
            moved |= {subject} if served["2"] else set()

    assert moved == set(callers)


@pytest.mark.parametrize(("subject", "role"), [("tess", Role.CALLER), ("ada", Role.OPERATOR)])
def test_testers_choose_a_version(
    stand: Stand, links: list[MemoryLink], subject: str, role: Role
) -> None:
    """Those whom the traffic names, and operators; their records say that they chose."""
    stand.pipeline.apply(routed(0, epoch=3, testers=("tess",)))
    ask(stand, links, stand.client(subject=subject, role=role, version="2"))

    (record,) = stand.log.records
    assert (record.version, record.chosen) == ("2", True)
    assert counted(stand, "serving_requests_total", 'role="chosen"', 'fate="ok"') == 1


def test_others_choose_no_version(stand: Stand, links: list[MemoryLink]) -> None:
    """Whoever is no tester and no operator is refused, and told no more than before."""
    stand.pipeline.apply(routed(0, epoch=3, testers=("tess",)))

    with pytest.raises(Forbidden):
        stand.send(stand.client(subject="ada", version="2"))


def test_chosen_and_routed_requests_share_a_frame_and_not_a_flag(
    stand: Stand, links: list[MemoryLink]
) -> None:
    """Each record says of its own request whether the version was chosen."""
    stand.pipeline.apply(routed(0, epoch=3))
    stand.send(stand.client(), stand.client(version="1"), stand.client())
    answer(stand, links)

    assert [frame.rows for frame in links[0].sent] == [3]
    assert [each.chosen for each in stand.log.records] == [False, True, False]


def test_tester_cannot_choose_what_is_not_there(stand: Stand, links: list[MemoryLink]) -> None:
    """A version that gateways were not told of is none."""
    stand.pipeline.apply(routed(epoch=3, testers=("tess",)))

    with pytest.raises(ModelNotFound):
        stand.send(stand.client(subject="tess", version="9"))


def test_arm_may_be_a_shadow_too(stand: Stand, links: list[MemoryLink]) -> None:
    """It answers its share, and gets copies of what the stable version answered, of nothing else."""
    stand.pipeline.apply(routed(epoch=3, shadows=(Shadow(SECOND),)))
    ask(stand, links, *(stand.client() for _ in range(20)))
    answer(stand, links)

    own = [each for each in stand.log.records if not each.shadow_of]
    copied = {each.shadow_of for each in stand.log.records if each.shadow_of}
    assert copied == {each.prediction_id for each in own if each.version == "1"}
    assert {each.version for each in own} == {"1", "2"}


def test_counting_goes_on_over_snapshots(stand: Stand, links: list[MemoryLink]) -> None:
    """A replica that comes or goes makes a new table; the weights stay exact."""
    served: Counter[str] = Counter()
    for epoch in range(3, 43):
        stand.pipeline.apply(routed(2500, epoch=epoch))
        served += ask(stand, links, stand.client())

    assert abs(served["2"] - 10) <= 1


def test_policy_knows_the_weights_of_its_versions() -> None:
    """The stable version has what the arms leave; who is not named has nothing."""
    policy: TrafficPolicy = routed(1000, shadows=(Shadow(VersionName("3")),)).policies[0]

    assert [policy.weight_of(VersionName(name)) for name in ("1", "2", "3")] == [9000, 1000, 0]
    assert policy.versions == ("1", "2", "3")
