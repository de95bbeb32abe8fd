"""Approvals from the request to their end: who may, what counts, and what it changes."""

import dataclasses
from pathlib import Path

import msgspec
import pytest
from sqlalchemy import text

from serving.core.actors import Actor
from serving.core.principals import Role
from serving.errors import (
    AlreadyThere,
    DigestChanged,
    Forbidden,
    KeyReused,
    NotFound,
    RequestClosed,
    SeparationBroken,
    TransitionRefused,
)
from serving.governance.entities import ApprovalRequest, RequestState
from serving.governance.policies import BUILT_IN
from serving.registry.entities import RiskTier
from serving.registry.lifecycle import State, Step
from serving.registry.orders import StateOrder
from serving.trust.installation import edit_trusted
from tests.governance.offices import AUTHOR, GRACE, HEIDI, IVAN, KINDS, Office
from tests.registries import digest_of, person


@pytest.fixture
def office(tmp_path: Path) -> Office:
    """Version 1 is validated; its tier takes one approver."""
    office = Office(tmp_path)
    office.validate()
    return office


def by_key(holder: str, owner: str, *roles: Role) -> Actor:
    """Somebody who shows an API key."""
    return dataclasses.replace(person(holder, *roles), owner=owner)


def test_approval_takes_the_version_a_step_further(office: Office) -> None:
    """Asked for, agreed to by another, approved: in the registry too, and every act is an event."""
    request = office.open()

    closed = office.decide(request, GRACE)

    assert (request.state, closed.state) == (RequestState.OPEN, RequestState.APPROVED)
    assert office.version().state is State.APPROVED
    assert office.standing().approvers == ("grace",)
    assert office.events()[:3] == [
        "governance:request:approved",
        "governance:approval:given",
        "governance:request:opened",
    ]
    decision = office.view(request).decisions[0]
    assert (decision.approver, decision.decision, decision.valid) == ("grace", "approved", True)


@pytest.mark.parametrize(
    "own",
    [
        AUTHOR,
        by_key("alice", "", Role.APPROVER),
        by_key("ci", "alice", Role.APPROVER),
        by_key("alice", "bob", Role.APPROVER),
    ],
    ids=["token", "another credential", "own API key", "key of the same subject"],
)
def test_rg_04_nobody_approves_what_they_submitted(office: Office, own: Actor) -> None:
    """By whatever credential: 403, no word of theirs is kept, and the try is in the trail."""
    request = office.open()

    with pytest.raises(SeparationBroken):
        office.decide(request, own)

    assert office.view(request).decisions == ()
    assert office.events()[0] == "governance:approval:refused"


def test_rg_04_who_asks_for_an_approval_does_not_give_it(office: Office) -> None:
    """Even for somebody else's version."""
    both = person("heidi", Role.DEVELOPER, Role.APPROVER)
    request = office.open(actor=both)

    with pytest.raises(SeparationBroken):
        office.decide(request, HEIDI)


def test_delegates_do_not_approve_each_others_work(tmp_path: Path) -> None:
    """Neither the delegate of the author, nor whoever the author is a delegate of."""
    policies = BUILT_IN.model_copy(
        update={"delegates": {"alice": ("grace",), "heidi": ("alice", "x")}}
    )
    office = Office(tmp_path, policies=policies)
    office.validate()
    request = office.open()

    for delegate in (GRACE, HEIDI):
        with pytest.raises(SeparationBroken):
            office.decide(request, delegate)

    assert office.decide(request, person("judy", Role.APPROVER)).state is RequestState.APPROVED


def test_rg_05_word_on_another_digest_is_refused(office: Office) -> None:
    """What was looked at, what was asked for, and what is there are one digest, or it is 409."""
    request = office.open()

    with pytest.raises(DigestChanged):
        office.decide(request, GRACE, digest=digest_of("2"))

    office.decide(request, GRACE)
    with office.database.transaction() as connection:
        connection.execute(text("UPDATE versions SET digest = :d"), {"d": digest_of("2")})
    assert not office.standing().satisfied
    with pytest.raises(DigestChanged):
        office.decide(request_again(office), GRACE, digest=digest_of("1"))


def request_again(office: Office) -> ApprovalRequest:
    return office.open(actor=AUTHOR)


def test_rg_06_two_approvals_take_two_people(tmp_path: Path) -> None:
    """The same person counts once, by any credential; a wrong role and a stranger not at all."""
    office = Office(tmp_path, tier=RiskTier.HIGH)
    office.validate()
    office.record(*KINDS)
    request = office.open()
    office.decide(request, GRACE)

    for again in (GRACE, by_key("robot", "grace", Role.APPROVER)):
        with pytest.raises(SeparationBroken, match="already"):
            office.decide(request, again)
    with pytest.raises(Forbidden):
        office.decide(request, IVAN)

    assert office.view(request).request.state is RequestState.OPEN
    assert office.decide(request, HEIDI).state is RequestState.APPROVED


def test_rg_06_model_of_another_tenant_is_not_approved(tmp_path: Path) -> None:
    """Nor seen: there is no such request for a member of another tenant."""
    office = Office(tmp_path)
    office.validate()
    request = office.open()
    with office.database.transaction() as connection:
        connection.execute(text("UPDATE models SET tenant = 'acme'"))
    outsider = person("mallory", Role.APPROVER, tenant="other")

    with pytest.raises(Forbidden):
        office.decide(request, outsider)
    with pytest.raises(NotFound):
        office.view(request, outsider)


def test_rg_07_state_cannot_be_jumped(tmp_path: Path) -> None:
    """Without validation nothing is approved; without approval nothing serves."""
    office = Office(tmp_path)
    request = office.open()

    with pytest.raises(TransitionRefused, match="validation"):
        office.decide(request, GRACE)
    with pytest.raises(TransitionRefused), office.database.transaction() as connection:
        office.governance.registry.change_state(
            connection, ("fraud", "1"), order=StateOrder(step=Step.APPROVE), actor=GRACE
        )
    office.validate()
    with (
        pytest.raises(TransitionRefused, match="1 more approval"),
        office.database.transaction() as connection,
    ):
        office.governance.registry.change_state(
            connection, ("fraud", "1"), order=StateOrder(step=Step.APPROVE), actor=GRACE
        )


def test_rg_07_replayed_word_changes_nothing(office: Office) -> None:
    """A decided request is closed; a statement that is copied to another version is about the first."""
    request = office.open()
    office.decide(request, GRACE)
    office.register("2")
    office.validate("2")

    with pytest.raises(SeparationBroken):
        office.decide(request, GRACE)
    with pytest.raises(RequestClosed):
        office.decide(request, HEIDI)
    with office.database.transaction() as connection:
        connection.execute(
            text(
                "INSERT INTO approval_decisions SELECT 'copy', request, model, '2', approver,"
                " decision, at_ns, envelope FROM approval_decisions"
            )
        )
    assert office.standing("2").approvers == ()


def test_rg_07_expired_approval_is_none(office: Office) -> None:
    """Its time is part of what was signed: afterwards the version lacks it, and a request too."""
    late = office.open()
    office.decide(late, GRACE)
    ends_ns = office.standing().expires_ns
    office.clock.advance((ends_ns - office.clock.wall_ns()) / 1e9 + 1)

    standing = office.standing()

    assert (standing.satisfied, standing.approvers) == (False, ())


def test_rg_07_expired_request_takes_no_word(office: Office) -> None:
    """It is closed by the next round at the latest."""
    request = office.open()
    office.clock.advance(15 * 86_400)

    with pytest.raises(RequestClosed, match="expired"):
        office.decide(request, GRACE)
    office.database.run(office.governance.requests.expire)

    assert office.view(request).request.state is RequestState.EXPIRED
    assert office.events()[0] == "governance:request:expired"


def test_rg_08_override_is_loud_and_ends(office: Office) -> None:
    """Only its role, never the author, for hours; the version serves and lacks its approvals after."""
    order = {"model": "fraud", "version": "1", "digest": digest_of("1"), "reason": "incident 4711"}
    author = person("alice", Role.OPERATOR)

    with pytest.raises(Forbidden, match="operator"):
        office.order("override", ApprovalRequest, actor=GRACE, body=order)
    with pytest.raises(SeparationBroken):
        office.order("override", ApprovalRequest, actor=author, body=order)
    given = office.order("override", ApprovalRequest, actor=IVAN, body=order)
    during, state = office.standing(), office.version().state
    office.clock.advance(24 * 3600 + 1)

    assert (given.state, given.kind) == (RequestState.APPROVED, "override")
    assert (during.satisfied, during.override, state) == (True, True, State.APPROVED)
    assert not office.standing().satisfied
    assert office.events().count("governance:override:given") == 1
    assert office.events().count("governance:approval:refused") == 2


def test_override_is_no_approval(office: Office) -> None:
    """It satisfies, but nobody counts as an approver by it, and retiring is not covered."""
    order = {"model": "fraud", "version": "1", "digest": digest_of("1"), "reason": "now"}
    office.order("override", ApprovalRequest, actor=IVAN, body=order)

    with office.database.reading() as connection:
        model = office.governance.registry.model(connection, "fraud", actor=GRACE)
        version = office.governance.registry.version(connection, "fraud", "1", actor=GRACE)
        terms = office.governance.guard.release_terms(connection, model, version)

    assert (terms.requirement.tier, terms.requirement.roles) == ("override", ("operator",))
    assert len(terms.approvals) == 1


def test_row_that_was_edited_is_no_approval(office: Office) -> None:
    """Neither a changed state, nor a changed statement, nor one by a key that is not trusted."""
    request = office.open()
    with office.database.transaction() as connection:
        connection.execute(text("UPDATE approval_requests SET state = 'approved'"))
    forged = office.standing()
    with office.database.transaction() as connection:
        connection.execute(text("UPDATE approval_requests SET state = 'open'"))
    office.decide(request, GRACE)
    with office.database.transaction() as connection:
        connection.execute(
            text('UPDATE approval_decisions SET envelope = replace(envelope, \'"sig":"\', :w)'),
            {"w": '"sig":"AAAA'},
        )

    assert not forged.satisfied
    assert not office.standing().satisfied
    assert office.view(request).decisions[0].valid is False


def test_approval_by_a_revoked_key_is_none(office: Office) -> None:
    """Signatures are verified each time, with the keys that are trusted now."""
    office.decide(office.open(), GRACE)
    before = office.standing().satisfied

    edit_trusted(
        office.keys,
        lambda keys: tuple(
            type(each)(each.key_id, each.public_key, each.name, each.roles, revoked_at_ns=1)
            for each in keys
        ),
    )

    assert (before, office.standing().satisfied) == (True, False)


def test_rejection_closes_the_request_whoever_agreed(tmp_path: Path) -> None:
    """One no is enough, and the approvals before it no longer count."""
    office = Office(tmp_path, tier=RiskTier.HIGH)
    office.validate()
    office.record(*KINDS)
    request = office.open()
    office.decide(request, GRACE)

    closed = office.decide(request, HEIDI, decision="reject")

    assert closed.state is RequestState.REJECTED
    assert office.standing().approvers == ()
    with pytest.raises(RequestClosed):
        office.decide(request, person("judy", Role.APPROVER))


def test_approval_that_is_taken_back_takes_the_version_back(office: Office) -> None:
    """In the same transaction: state, request, and what counts."""
    request = office.open()
    office.decide(request, GRACE)
    office.clock.advance(1)
    body = {"reason": "the report was wrong"}
    with pytest.raises(Forbidden):
        office.order("take_back", ApprovalRequest, actor=HEIDI, body=body, request=request.id)

    closed = office.order("take_back", ApprovalRequest, actor=GRACE, body=body, request=request.id)

    assert closed.state is RequestState.WITHDRAWN
    assert office.version().state is State.VALIDATED
    assert not office.standing().satisfied


def test_row_that_was_deleted_gives_no_approval_back(office: Office) -> None:
    """Whoever deletes the row of a withdrawal finds it kept elsewhere, also after a restart."""
    request = office.open()
    office.decide(request, GRACE)
    office.clock.advance(1)
    body = {"reason": "the report was wrong"}
    office.order("take_back", ApprovalRequest, actor=GRACE, body=body, request=request.id)
    with office.database.transaction() as connection:
        connection.execute(text("DELETE FROM approval_decisions WHERE decision = 'rejected'"))

    assert not office.standing().satisfied
    office.restart()
    assert not office.standing().satisfied
    assert office.standing().approvers == ()


def test_request_is_withdrawn_by_who_opened_it(office: Office) -> None:
    """And by nobody else; afterwards another can be opened."""
    request = office.open()
    with pytest.raises(AlreadyThere):
        office.open()
    body = {"reason": "wrong version"}
    with pytest.raises(Forbidden):
        office.order("withdraw", ApprovalRequest, actor=GRACE, body=body, request=request.id)

    closed = office.order("withdraw", ApprovalRequest, actor=AUTHOR, body=body, request=request.id)

    assert closed.state is RequestState.WITHDRAWN
    with pytest.raises(RequestClosed):
        office.decide(request, GRACE)
    assert office.open().state is RequestState.OPEN


def test_comments_are_kept_in_order(office: Office) -> None:
    """With who said them; each is an event."""
    request = office.open()
    for actor, words in ((GRACE, "which data?"), (AUTHOR, "May")):
        office.clock.advance(1)
        office.order(
            "comment", dict[str, object], actor=actor, body={"text": words}, request=request.id
        )

    said = [(each.author, each.text) for each in office.view(request).comments]

    assert said == [("grace", "which data?"), ("alice", "May")]
    assert office.events()[0] == "governance:request:commented"


def test_evidence_of_the_tier_is_needed_first(tmp_path: Path) -> None:
    """An approver cannot agree to what was never shown; the newest piece of a kind decides."""
    office = Office(tmp_path, tier=RiskTier.HIGH)
    office.validate()
    request = office.open()

    with pytest.raises(TransitionRefused, match=r"bias.*security"):
        office.decide(request, GRACE)
    office.record("bias", "security")
    office.record("bias", outcome="fail")
    with pytest.raises(TransitionRefused, match="bias: the newest did not pass"):
        office.decide(request, GRACE)
    office.record("bias")

    assert office.decide(request, GRACE).state is RequestState.OPEN


def test_incomplete_model_card_is_missing_evidence(tmp_path: Path) -> None:
    """The fields that say nothing are named."""
    office = Office(tmp_path, tier=RiskTier.LIMITED)
    office.validate()
    with office.database.transaction() as connection:
        registry = office.governance.registry
        model = registry.model(connection, "fraud", actor=AUTHOR)
        registry.change_model(
            connection,
            "fraud",
            facts=msgspec.structs.replace(model.facts, limitations=(), contacts=()),
            actor=AUTHOR,
        )

    with pytest.raises(TransitionRefused, match="contacts, limitations"):
        office.decide(office.open(), GRACE)


def test_evidence_that_was_edited_is_none(office: Office) -> None:
    """It is signed, and bound to the digest."""
    with office.database.transaction() as connection:
        connection.execute(
            text('UPDATE evidence SET envelope = replace(envelope, \'"sig":"\', \'"sig":"AA\')')
        )

    assert "validation" in office.standing().missing[-1]


def test_retirement_of_a_high_tier_takes_consent(tmp_path: Path) -> None:
    """Asked for and agreed to like approval; an override with a reason goes without."""
    office = Office(tmp_path, tier=RiskTier.HIGH)
    registry = office.governance.registry

    def step(step: Step, **order: object) -> None:
        with office.database.transaction() as connection:
            registry.change_state(
                connection,
                ("fraud", "1"),
                order=StateOrder(step=step, reason="old", **order),  # type: ignore[arg-type] # one flag
                actor=person("ivan", Role.OPERATOR, Role.APPROVER),
            )

    step(Step.REJECT)
    with pytest.raises(TransitionRefused, match="retire"):
        step(Step.RETIRE)
    with pytest.raises(TransitionRefused, match="nothing is decided"):
        office.open(kind="retire")


def test_rg_03_repeated_decision_is_one_decision(office: Office) -> None:
    """The same key and the same word: the same answer; another word under that key is refused."""
    request = office.open()

    first = office.decide(request, GRACE, key="k-1")
    second = office.decide(request, GRACE, key="k-1")

    assert first == second
    assert len(office.view(request).decisions) == 1
    with pytest.raises(KeyReused):
        office.decide(request, GRACE, decision="reject", key="k-1")


def test_changed_tier_takes_a_new_request(office: Office) -> None:
    """Nobody agrees to one tier and has agreed to another."""
    request = office.open()
    with office.database.transaction() as connection:
        connection.execute(text("UPDATE models SET facts = replace(facts, 'minimal', 'limited')"))

    with pytest.raises(RequestClosed, match="tier"):
        office.decide(request, GRACE)
