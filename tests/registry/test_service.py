"""The registry: one contract on both databases."""

import threading

import pytest
from sqlalchemy import Connection

from serving.core.actors import Actor
from serving.core.principals import Role
from serving.errors import (
    AlreadyThere,
    DigestChanged,
    Forbidden,
    ModelNotFound,
    NotFound,
    ParameterInvalid,
    RevisionStale,
    TransitionRefused,
)
from serving.registry import rows
from serving.registry.entities import Dataset, ModelFacts, RiskTier, Scale
from serving.registry.journal import Claim, Unguarded
from serving.registry.lifecycle import State, Step
from serving.registry.orders import ModelOrder, Search, TrafficOrder
from serving.storage.database import Database
from tests.registries import ADA, BOB, RegistryStand, person, shadows_of, version_of


@pytest.fixture
def stand(database: Database) -> RegistryStand:
    return RegistryStand(database)


def test_a_model_is_what_its_owner_said(stand: RegistryStand) -> None:
    """Everything that was registered comes back, with who did it and the first revision."""
    facts = ModelFacts(
        owner="ada",
        contacts=("fraud@example.org",),
        risk_tier=RiskTier.LIMITED,
        data_sets=(Dataset(name="cards", licence="own"),),
        prohibited_uses=("credit scoring",),
    )
    order = ModelOrder(name="fraud", facts=facts)
    stand.run(lambda c: stand.registry.register_model(c, order, actor=ADA))

    found = stand.database.read(lambda c: stand.registry.model(c, "fraud", actor=BOB))

    assert (found.facts, found.created_by, found.revision) == (facts, "ada", 1)
    assert found.created_ns == stand.clock.wall_ns()


def test_a_name_is_taken_once(stand: RegistryStand) -> None:
    """Of two models of one name the second is refused, and changes nothing."""
    stand.model(owner="ada")

    with pytest.raises(AlreadyThere):
        stand.model(owner="bob", actor=BOB)

    found = stand.database.read(lambda c: stand.registry.model(c, "fraud", actor=ADA))
    assert found.facts.owner == "ada"


ODD_NAMES = ("", "../etc", "a/b", "a#b", "a?b", "http://a", "A", "a" * 64, "-a", "a b", "a\n", "é")


def test_rg_01_odd_names_are_refused(stand: RegistryStand) -> None:
    """No name can leave its place in a path or a URL: neither a model's, a version's, nor an alias's."""
    stand.model()
    stand.version()

    for name in ODD_NAMES:
        with pytest.raises(ParameterInvalid):
            stand.model(name)
        with pytest.raises(ParameterInvalid):
            stand.version(name, digest="a" * 64)
        with pytest.raises(ParameterInvalid):
            stand.alias(name, "1")
    assert search(stand) == ["fraud"]


def test_facts_change_from_the_revision_that_was_seen(stand: RegistryStand) -> None:
    """Two people who saw the same: the first changes it, the second is told to look again."""
    stand.model()

    def change(owner: str) -> None:
        facts = ModelFacts(owner=owner)
        stand.run(
            lambda c: stand.registry.change_model(c, "fraud", facts=facts, actor=ADA, if_revision=1)
        )

    change("first")
    with pytest.raises(RevisionStale):
        change("second")

    found = stand.database.read(lambda c: stand.registry.model(c, "fraud", actor=ADA))
    assert (found.facts.owner, found.revision) == ("first", 2)


def test_a_version_never_changes(stand: RegistryStand) -> None:
    """RG-05: another artifact under the same name is refused, and so is the same once more."""
    stand.model()
    stand.version("1", digest="a" * 64)

    with pytest.raises(DigestChanged):
        stand.version("1", digest="b" * 64, actor=BOB)
    with pytest.raises(AlreadyThere):
        stand.version("1", digest="a" * 64)

    found = stand.database.read(lambda c: stand.registry.version(c, "fraud", "1", actor=ADA))
    assert (found.digest, found.author, found.state) == ("a" * 64, "ada", State.REGISTERED)


def test_rg_05_an_approved_digest_cannot_be_replaced(stand: RegistryStand) -> None:
    """What was approved stays what it was; another artifact needs a version of its own."""
    stand.model()
    stand.approved("1")

    with pytest.raises(DigestChanged):
        stand.version("1", digest="b" * 64)

    assert stand.states() == {"1": "approved"}


def test_versions_keep_their_order_and_definition(stand: RegistryStand) -> None:
    """They are listed as they were registered, each with what the data plane needs to know."""
    stand.model()
    for name in ("10", "9", "beta"):
        stand.version(name)

    found = stand.database.read(lambda c: stand.registry.versions(c, "fraud", actor=ADA))

    assert [each.version for each in found] == ["10", "9", "beta"]
    assert found[1].definition == version_of("fraud", "9")


def test_an_api_keys_owner_is_an_author_too(stand: RegistryStand) -> None:
    """Who answers for the key that registered a version is kept beside whom the key speaks for."""
    stand.model()
    key = Actor(subject="ci", owner="ada", roles=frozenset({Role.DEVELOPER}))

    version = stand.version("1", actor=key)

    assert (version.author, version.author_owner) == ("ci", "ada")


def test_rg_07_a_draft_cannot_serve(stand: RegistryStand) -> None:
    """Neither a step of its state nor traffic takes a version past its approval."""
    stand.model()
    stand.version("1")

    with pytest.raises(TransitionRefused):
        stand.take(Step.APPROVE)
    with pytest.raises(TransitionRefused):
        stand.route("1")
    with pytest.raises(TransitionRefused, match="traffic"):
        stand.take(Step.PROMOTE)

    assert stand.states() == {"1": "registered"}


def test_traffic_takes_versions_along(stand: RegistryStand) -> None:
    """Whoever answers is stable, whoever gets a copy is a shadow, whoever gets neither stands down."""
    stand.model()
    stand.approved("1", "2", "3")

    stand.route("1", "2")
    first = stand.states()
    stand.route("2", "3")
    second = stand.states()
    stand.route("")

    assert first == {"1": "stable", "2": "shadow", "3": "approved"}
    assert second == {"1": "approved", "2": "stable", "3": "shadow"}
    assert stand.states() == {"1": "approved", "2": "approved", "3": "approved"}


def test_traffic_keeps_its_scale(stand: RegistryStand) -> None:
    """How many replicas there are stays until somebody says otherwise."""
    stand.model()
    stand.approved("1", "2")
    order = TrafficOrder(stable="1", scale=Scale(min_replicas=2, max_replicas=3, num_gpus=0.5))
    stand.run(
        lambda c: stand.registry.set_traffic(c, "fraud", order=order, actor=ADA, if_revision=0)
    )

    after = stand.route("2")

    assert (after.scale, after.revision) == (order.scale, 2)


def test_rg_02_of_two_promotions_one_wins(stand: RegistryStand) -> None:
    """Two who saw the same traffic promote different versions at once: one gets 409."""
    stand.model()
    stand.approved("1", "2", "3")
    stand.route("1")
    refused: list[str] = []

    def promote(version: str) -> None:
        try:
            stand.route(version, if_revision=1)
        except RevisionStale:
            refused.append(version)

    threads = [threading.Thread(target=promote, args=(version,)) for version in ("2", "3")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    (loser,) = refused
    assert stand.states()[loser] == "approved"
    assert sorted(stand.states().values()) == ["approved", "approved", "stable"]


def test_rg_02_what_serves_cannot_be_retired(stand: RegistryStand) -> None:
    """A version with traffic is not retired, unless somebody says that it must be and why."""
    stand.model()
    stand.approved("1", "2")
    stand.route("1", "2")
    stand.take(Step.DEPRECATE, successor="2")

    with pytest.raises(TransitionRefused, match="traffic"):
        stand.take(Step.RETIRE)
    retired = stand.take(Step.RETIRE, override=True, reason="it leaks")

    traffic = stand.database.read(lambda c: stand.registry.traffic(c, "fraud", actor=ADA))
    assert (retired.state, retired.successor, retired.reason) == (State.RETIRED, "2", "it leaks")
    assert (traffic.stable, traffic.shadows) == ("", shadows_of("2"))


def test_a_deprecated_version_serves_until_it_is_replaced(stand: RegistryStand) -> None:
    """Deprecation takes no traffic away; its dates and successor are kept."""
    stand.model()
    stand.approved("1", "2")
    stand.route("1")
    deprecated = stand.take(Step.DEPRECATE, successor="2", sunset_ns=5)
    stand.route("1", "2")
    still = stand.states()
    stand.route("2")

    assert (deprecated.sunset_ns, deprecated.successor) == (5, "2")
    assert deprecated.deprecated_ns == stand.clock.wall_ns()
    assert still == {"1": "deprecated", "2": "shadow"}
    assert stand.states() == {"1": "deprecated", "2": "stable"}


def test_a_deprecated_version_does_not_come_back_by_traffic(stand: RegistryStand) -> None:
    """It has to be reinstated first, and then its dates are gone."""
    stand.model()
    stand.approved("1", "2")
    stand.route("2")
    stand.take(Step.DEPRECATE)

    with pytest.raises(TransitionRefused):
        stand.route("1")
    reinstated = stand.take(Step.REINSTATE)
    stand.route("1")

    assert (reinstated.deprecated_ns, stand.states()["1"]) == (0, "stable")


def test_a_revoked_approval_takes_the_traffic_away(stand: RegistryStand) -> None:
    """No approved digest, no traffic: in the same transaction."""
    stand.model()
    stand.approved("1", "2")
    stand.route("1", "2")

    stand.take(Step.REVOKE, reason="withdrawn")

    traffic = stand.database.read(lambda c: stand.registry.traffic(c, "fraud", actor=ADA))
    assert (traffic.stable, traffic.shadows, stand.states()["1"]) == (
        "",
        shadows_of("2"),
        "validated",
    )


def test_steps_that_need_a_reason_need_one(stand: RegistryStand) -> None:
    """A rejection without a word is refused."""
    stand.model()
    stand.version("1")

    with pytest.raises(ParameterInvalid, match="reason"):
        stand.take(Step.REJECT, reason="  ")


def test_the_guard_has_the_last_word(database: Database) -> None:
    """What it refuses does not happen, and leaves neither a state nor an event."""

    class Stubborn(Unguarded):
        def check(self, connection: Connection, claim: Claim) -> None:
            if claim.transition.step is Step.APPROVE:
                raise TransitionRefused(f"{claim.version.key} lacks two approvals")

    stand = RegistryStand(database, guard=Stubborn())
    stand.model()
    stand.version("1")
    stand.take(Step.VALIDATE)

    with pytest.raises(TransitionRefused, match="fraud@1 lacks two"):
        stand.take(Step.APPROVE)

    assert stand.states() == {"1": "validated"}
    assert stand.events()[-1] == "version:validated"


def test_p24_every_change_has_its_event(stand: RegistryStand) -> None:
    """The history of a model is complete, in order, and says who and why."""
    stand.model()
    stand.approved("1")
    stand.route("1")
    stand.run(lambda c: stand.registry.set_alias(c, "fraud", "champion", version="1", actor=ADA))
    stand.run(lambda c: stand.registry.remove_alias(c, "fraud", "champion", actor=BOB))
    stand.take(Step.DEPRECATE, reason="old")

    found = stand.database.read(lambda c: stand.registry.history(c, "fraud", actor=ADA))

    assert stand.events() == [
        "model:registered",
        "version:registered",
        "version:validated",
        "version:approved",
        "version:promoted",
        "traffic:set",
        "alias:set",
        "alias:removed",
        "version:deprecated",
    ]
    assert (found[-2].actor, found[-1].actor, found[-1].reason) == ("bob", "ada", "old")
    assert (found[-1].before["state"], found[-1].after["state"]) == ("stable", "deprecated")


def test_history_of_one_model_is_not_anothers(stand: RegistryStand) -> None:
    """Names that begin alike, or hold what a pattern would take for anything, stay apart."""
    for name in ("a_b", "axb", "a_b2"):
        stand.model(name)
        stand.version("1", model=name)

    found = stand.database.read(lambda c: stand.registry.history(c, "a_b", actor=ADA))

    assert [each.object for each in found] == ["model:a_b", "version:a_b@1"]


def test_an_alias_is_a_name_for_a_version(stand: RegistryStand) -> None:
    """It can be moved, found by, and removed; it is never a version's own name."""
    stand.model()
    stand.version("1")
    stand.version("2")

    def point(version: str, if_revision: int | None = None) -> int:
        return stand.run(
            lambda c: stand.registry.set_alias(
                c, "fraud", "champion", version=version, actor=ADA, if_revision=if_revision
            )
        ).revision

    assert (point("1"), point("2", 1)) == (1, 2)
    found = stand.database.read(lambda c: stand.registry.version(c, "fraud", "champion", actor=ADA))
    assert found.version == "2"
    with pytest.raises(RevisionStale):
        point("1", 1)
    with pytest.raises(NotFound):
        point("9")
    with pytest.raises(ParameterInvalid):
        stand.run(lambda c: stand.registry.set_alias(c, "fraud", "1", version="2", actor=ADA))


def search(stand: RegistryStand, actor: Actor = ADA, **search: object) -> list[str]:
    wanted = Search(**search)  # type: ignore[arg-type]  # whatever a test names
    return [each.name for each in stand.search(wanted, actor).models]


def test_search_finds_by_words_and_facts(stand: RegistryStand) -> None:
    """All words must occur, whatever their case; filters and tags narrow it down."""
    stand.model("fraud-cards", purpose="Finds FRAUD in card payments", owner="ada")
    stand.model("churn", purpose="Who may leave", owner="bob", tags={"area": "crm", "x": "1"})
    stand.model("fraud_wire", purpose="100% of transfers", owner="bob", risk_tier=RiskTier.DEMO)
    stand.approved("1", model="churn")

    assert search(stand) == ["churn", "fraud-cards", "fraud_wire"]
    assert search(stand, text="payment fraud") == ["fraud-cards"]
    assert search(stand, text="100%") == ["fraud_wire"]
    assert search(stand, text="fraud_") == ["fraud_wire"]
    assert search(stand, owner="bob", tags=("area=cards",)) == ["fraud_wire"]
    assert search(stand, tags=("x",)) == ["churn"]
    assert search(stand, risk_tier=RiskTier.DEMO) == ["fraud_wire"]
    assert search(stand, state=State.APPROVED) == ["churn"]


def test_search_goes_page_by_page(stand: RegistryStand) -> None:
    """Each page begins behind the last name of the one before; the last says that it is the last."""
    for name in ("a", "b", "c", "d", "e"):
        stand.model(name)
    pages = []
    after = ""
    while True:
        wanted = Search(after=after, limit=2)
        page = stand.search(wanted)
        pages.append([each.name for each in page.models])
        after = page.next
        if not after:
            break

    assert pages == [["a", "b"], ["c", "d"], ["e"]]


def test_az_06_another_tenants_models_are_not_there(stand: RegistryStand) -> None:
    """They are 404 to ask for, in the words of a name of nothing, and in no list and no count."""
    theirs = person("tess", tenant="acme")
    stand.model("secret", actor=theirs)
    stand.version("1", model="secret", actor=theirs)
    stand.model("shared")

    for actor in (ADA, person("uwe", tenant="other")):
        for question in stand.questions():
            with pytest.raises(ModelNotFound) as refused:
                question("secret", actor)
            with pytest.raises(ModelNotFound) as nothing:
                question("none", actor)
            assert str(refused.value) == str(nothing.value)
        assert search(stand, actor) == ["shared"]
    assert search(stand, theirs) == ["secret", "shared"]


def test_az_06_another_tenants_models_cannot_be_touched(stand: RegistryStand) -> None:
    """No order reaches them either, and nothing of them changes."""
    theirs = person("tess", tenant="acme")
    stand.model("secret", actor=theirs)
    stand.version("1", model="secret", actor=theirs)

    with pytest.raises(ModelNotFound):
        stand.version("2", model="secret")
    with pytest.raises(ModelNotFound):
        stand.take(Step.VALIDATE, model="secret")
    with pytest.raises(ModelNotFound):
        stand.route("1", model="secret", if_revision=0)

    found = stand.database.read(lambda c: stand.registry.versions(c, "secret", actor=theirs))
    assert [(each.version, each.state) for each in found] == [("1", State.REGISTERED)]


def test_a_model_belongs_to_the_tenant_of_whoever_registers_it(stand: RegistryStand) -> None:
    """Nobody chooses a tenant; the answer says which it is."""
    made = stand.model("secret", actor=person("tess", tenant="acme"))

    assert made.tenant == "acme"


def test_roles_decide_what_may_be_done(stand: RegistryStand) -> None:
    """Who may only look is told so: 403, since they know that it is there."""
    stand.model()
    stand.version("1")
    auditor = person("otto", Role.AUDITOR)
    developer = person("dora", Role.DEVELOPER)

    with pytest.raises(Forbidden):
        stand.model("other", actor=auditor)
    with pytest.raises(Forbidden):
        stand.version("2", actor=auditor)
    with pytest.raises(Forbidden):
        stand.take(Step.REJECT, actor=developer)
    with pytest.raises(Forbidden):
        stand.route("", actor=developer, if_revision=0)

    assert stand.states() == {"1": "registered"}


def test_what_ends_is_known_for_ever(stand: RegistryStand) -> None:
    """Deprecated and retired versions are listed with their dates and successors; others are not."""
    stand.model()
    stand.approved("1", "2")
    stand.take(Step.DEPRECATE, successor="2", sunset_ns=7)
    stand.take(Step.RETIRE)

    (ending,) = stand.database.read(rows.endings)

    assert (ending.version, ending.state, ending.successor) == ("1", State.RETIRED, "2")
    assert (ending.sunset_ns, ending.retired_ns) == (7, stand.clock.wall_ns())


def test_a_successor_must_be_there(stand: RegistryStand) -> None:
    """A version of this model or, with its name, of another; never itself."""
    stand.model()
    stand.approved("1")
    stand.model("newer")
    stand.version("1", model="newer")

    for successor in ("1", "9", "newer@2", "fraud@1"):
        with pytest.raises(ParameterInvalid):
            stand.take(Step.DEPRECATE, successor=successor)

    assert stand.take(Step.DEPRECATE, successor="newer@1").successor == "newer@1"
