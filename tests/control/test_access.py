"""The one place where the access state changes: checked, kept, in force, announced."""

import asyncio
import contextlib
from pathlib import Path

import pytest

from serving.access.orders import (
    DAY_S,
    KeyOrder,
    Question,
    RevocationOrder,
    RotationOrder,
    RuleOrder,
)
from serving.access.state import AccessState, Effect, RevocationKind
from serving.audit.events import Event, EventName
from serving.audit.reading import Filter, find
from serving.control.access import KEPT_S, MOST
from serving.control.access_keys import USES_KEPT_S
from serving.core.actors import Origin
from serving.core.clock import ManualClock
from serving.core.principals import Action, Ground, Principal, Role
from serving.errors import NotFound, NotReady, ParameterInvalid
from tests.audit.trails import Trail
from tests.desks import Desk

ADMIN = Principal("ada", frozenset({Role.ADMIN}))
KEY = KeyOrder(subject="ci", roles=(Role.CALLER,))


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def desk(tmp_path: Path, clock: ManualClock) -> Desk:
    return Desk(tmp_path, clock)


async def test_change_is_on_disk_in_force_and_announced(desk: Desk) -> None:
    """Whoever waits gets the new state; a restarted control process has it too."""
    waiting = asyncio.create_task(desk.access.after(0, wait_s=10))
    await asyncio.sleep(0)

    made = desk.keys.make_key(KEY, ADMIN)

    state = await waiting
    assert state == desk.access.state == desk.store.load()
    assert (state.epoch, state.keys[0].key) == (1, made.key)
    assert desk.knows(made.secret)
    assert made.secret.encode() not in desk.file.read_bytes()


async def test_nothing_new_is_nothing_after_the_wait(desk: Desk) -> None:
    """A poll of whoever is up to date ends empty-handed."""
    assert await desk.access.after(0, wait_s=0) is None


async def test_worker_with_a_later_state_gets_the_one_that_counts(desk: Desk) -> None:
    """After an older file was restored the epoch jumps beyond what workers have seen."""
    desk.keys.make_key(KEY, ADMIN)

    state = await desk.access.after(100, wait_s=0)

    assert state is not None
    assert (state.epoch, len(state.keys)) == (101, 1)


def test_change_that_cannot_be_kept_is_not_made(desk: Desk, tmp_path: Path) -> None:
    """Neither here nor for anybody who waits."""
    tmp_path.rename(tmp_path.with_name("elsewhere"))

    with pytest.raises(NotReady):
        desk.keys.make_key(KEY, ADMIN)

    assert desk.access.state == AccessState()
    tmp_path.with_name("elsewhere").rename(tmp_path)


def test_key_is_listed_without_its_secret(desk: Desk, clock: ManualClock) -> None:
    """Who holds it, who owns it, until when, and when it was last used; newest first."""
    order = KeyOrder(
        subject="ci", roles=(Role.CALLER,), models=("fraud-*",), owner="grace", ttl_s=60
    )
    first = desk.keys.make_key(order, ADMIN)
    second = desk.keys.make_key(KEY, ADMIN)
    desk.knows(first.secret)
    now_s = clock.wall_ns() // 10**9

    newest, oldest = desk.keys.listed()

    assert (newest.key, newest.owner, newest.last_used_s) == (second.key, "ada", 0)
    assert (oldest.key, oldest.owner, oldest.models) == (first.key, "grace", ("fraud-*",))
    assert (oldest.last_used_s, oldest.expires_s) == (now_s, now_s + 60)
    assert first.secret not in repr(oldest)


def test_az_13_rotation_keeps_both_keys_for_the_overlap(desk: Desk, clock: ManualClock) -> None:
    """The holder stays the same; the old key names its successor and ends by itself."""
    old = desk.keys.make_key(KEY, ADMIN)
    new = desk.keys.rotate_key(old.key, RotationOrder(overlap_s=60), ADMIN)

    both = desk.knows(old.secret), desk.knows(new.secret)
    clock.advance(60)

    views = {view.key: view for view in desk.keys.listed()}
    assert both == (True, True)
    assert (desk.knows(old.secret), desk.knows(new.secret)) == (False, True)
    assert (views[old.key].state, views[old.key].successor) == ("expired", new.key)
    assert views[new.key].subject == "ci"
    with pytest.raises(ParameterInvalid, match="has ended"):
        desk.keys.rotate_key(old.key, RotationOrder(), ADMIN)


def test_revoked_key_ends_now_and_is_listed_for_a_while(desk: Desk, clock: ManualClock) -> None:
    """Revoking twice changes nothing; long afterwards the key is forgotten with the next change."""
    made = desk.keys.make_key(KEY, ADMIN)

    desk.keys.revoke_key(made.key, ADMIN)
    epoch = desk.access.state.epoch
    desk.keys.revoke_key(made.key, ADMIN)

    assert (desk.knows(made.secret), desk.access.state.epoch) == (False, epoch)
    assert desk.keys.listed()[0].state == "revoked"
    clock.advance(KEPT_S + DAY_S)
    desk.keys.make_key(KEY, ADMIN)
    assert made.key not in {view.key for view in desk.keys.listed()}


def test_last_uses_are_written_back_rarely(desk: Desk, clock: ManualClock) -> None:
    """What workers tell is known at once, kept on disk now and then, and only of keys there are."""
    made = desk.keys.make_key(KEY, ADMIN)

    desk.keys.note_uses({made.key: 5, "unknown": 5})
    before = desk.store.load_uses()
    clock.advance(USES_KEPT_S)
    desk.keys.note_uses({made.key: 7})
    desk.keys.note_uses({made.key: 6})

    assert (before, desk.store.load_uses()) == ({}, {made.key: 7})
    assert desk.keys.listed()[0].last_used_s == 7


@pytest.mark.parametrize(
    "order",
    [
        KeyOrder(subject="a\nb", roles=(Role.CALLER,)),
        KeyOrder(subject="a", roles=(Role.CALLER,), owner="\x00"),
        KeyOrder(subject="a", roles=(Role.CALLER,), models=("x\n",)),
    ],
)
def test_key_for_nobody_is_refused(desk: Desk, order: KeyOrder) -> None:
    """Subjects, owners and patterns are printable."""
    with pytest.raises(ParameterInvalid):
        desk.keys.make_key(order, ADMIN)


@pytest.mark.parametrize("name", ["", "nothing", "svk_"])
def test_key_that_is_none_is_not_found(desk: Desk, name: str) -> None:
    """Neither to revoke nor to replace."""
    with pytest.raises(NotFound):
        desk.keys.revoke_key(name, ADMIN)
    with pytest.raises(NotFound):
        desk.keys.rotate_key(name, RotationOrder(), ADMIN)


def test_grant_and_its_end_decide(desk: Desk) -> None:
    """A question is answered by the rules in force, with the one that decided."""
    question = Question(subject="bob", action=Action.INFER, model="fraud-cards")
    order = RuleOrder(effect=Effect.ALLOW, subject="b*", model="fraud-*", role=Role.CALLER)

    before = desk.access.explain(question)
    rule = desk.access.add_rule(order, ADMIN)
    during = desk.access.explain(question)
    desk.access.remove_rule(rule.rule, ADMIN)
    after = desk.access.explain(question)

    assert [each.allowed for each in (before, during, after)] == [False, True, False]
    assert (during.rule, during.ground, during.epoch) == (rule.rule, Ground.GRANT, 1)
    assert (rule.made_by, desk.access.rules()) == ("ada", ())
    with pytest.raises(NotFound):
        desk.access.remove_rule(rule.rule, ADMIN)


def test_grant_does_not_hold_for_who_made_it(desk: Desk) -> None:
    """An administrator cannot become an approver by writing it down (P22)."""
    order = RuleOrder(effect=Effect.ALLOW, subject="*", role=Role.APPROVER)
    desk.access.add_rule(order, ADMIN)

    answers = [
        desk.access.explain(
            Question(subject=subject, action=Action.APPROVE, model="m", roles=(Role.ADMIN,))
        ).allowed
        for subject in ("ada", "grace")
    ]

    assert answers == [False, True]


def test_question_about_a_key_is_about_its_holder(desk: Desk) -> None:
    """Roles, models and tenant are the key's."""
    made = desk.keys.make_key(
        KeyOrder(subject="ci", roles=(Role.CALLER,), models=("fraud-*",)), ADMIN
    )

    found = [
        desk.access.explain(Question(subject="", action=Action.INFER, model=model, key=made.key))
        for model in ("fraud-cards", "cards")
    ]

    assert [(each.allowed, each.ground) for each in found] == [
        (True, Ground.ROLE),
        (False, Ground.CREDENTIAL),
    ]
    with pytest.raises(NotFound):
        desk.access.explain(Question(subject="", action=Action.INFER, key="nothing"))


@pytest.mark.parametrize(
    "order",
    [
        RuleOrder(effect=Effect.ALLOW, subject="a"),
        RuleOrder(effect=Effect.ALLOW, subject="a", role=Role.CALLER, action=Action.INFER),
        RuleOrder(effect=Effect.DENY, subject="a", role=Role.CALLER),
        RuleOrder(effect=Effect.DENY, subject="a\n"),
        RuleOrder(effect=Effect.DENY, subject="a", model_tenant="\x1b"),
    ],
)
def test_rule_that_means_nothing_is_refused(desk: Desk, order: RuleOrder) -> None:
    """A grant gives a role, a denial names no role, and patterns are printable."""
    with pytest.raises(ParameterInvalid):
        desk.access.add_rule(order, ADMIN)


@pytest.mark.parametrize("action", [None, Action.MANAGE_ACCESS])
def test_nobody_shuts_themselves_out(desk: Desk, action: Action | None) -> None:
    """A slip of an administrator must not leave an instance without one."""
    everybody = RuleOrder(effect=Effect.DENY, subject="*", action=action)
    myself = RevocationOrder(kind=RevocationKind.SUBJECT, value="ada")

    with pytest.raises(ParameterInvalid, match="shut you out"):
        desk.access.add_rule(everybody, ADMIN)
    with pytest.raises(ParameterInvalid, match="shut you out"):
        desk.access.revoke(myself, ADMIN)

    assert desk.access.state == AccessState()


def test_revocations_replace_each_other_and_can_be_withdrawn(
    desk: Desk, clock: ManualClock
) -> None:
    """The same one again moves its time; withdrawn, it is gone."""
    now_s = clock.wall_ns() // 10**9
    order = RevocationOrder(kind=RevocationKind.ISSUED_BEFORE, value="bob")

    first = desk.access.revoke(order, ADMIN)
    clock.advance(5)
    second = desk.access.revoke(order, ADMIN)

    assert (first.since_s, second.since_s) == (now_s, now_s + 5)
    assert desk.access.revocations() == (second,)
    desk.access.unrevoke(RevocationKind.ISSUED_BEFORE, "bob", ADMIN)
    assert desk.access.revocations() == ()
    with pytest.raises(NotFound):
        desk.access.unrevoke(RevocationKind.ISSUED_BEFORE, "bob", ADMIN)


@pytest.mark.parametrize(
    "order",
    [
        RevocationOrder(kind=RevocationKind.TOKEN, value="*"),
        RevocationOrder(kind=RevocationKind.SUBJECT, value="*"),
        RevocationOrder(kind=RevocationKind.ISSUED_BEFORE, value="bob", since_s=2**39),
    ],
)
def test_revocation_that_would_shut_everybody_out_is_refused(
    desk: Desk, order: RevocationOrder
) -> None:
    """A star is for what was issued until now; a time in the future would end what is to come."""
    with pytest.raises(ParameterInvalid):
        desk.access.revoke(order, ADMIN)


def test_token_revocations_end_and_disabled_subjects_stay(desk: Desk, clock: ManualClock) -> None:
    """No token lives as long as its revocation is kept; a person stays away until let in again."""
    for kind in (RevocationKind.TOKEN, RevocationKind.SUBJECT):
        desk.access.revoke(RevocationOrder(kind=kind, value="x"), ADMIN)

    clock.advance(KEPT_S + 1)
    desk.keys.make_key(KEY, ADMIN)

    assert [each.kind for each in desk.access.revocations()] == [RevocationKind.SUBJECT]


def test_state_is_bounded(desk: Desk) -> None:
    """Every worker holds all of it, so there is a most."""
    rule = desk.access.add_rule(RuleOrder(effect=Effect.DENY, subject="a"), ADMIN)

    with pytest.raises(ParameterInvalid, match="at most"):
        desk.access.change(Event(EventName.RULE_MADE, "ada", "rule:x"), rules=(rule,) * (MOST + 1))


def test_p24_change_and_its_event_are_one_write(desk: Desk, tmp_path: Path) -> None:
    """Who, what, before and after wait in the file of the state until the trail has them."""
    origin = Origin("192.0.2.7", "r-9")
    made = desk.keys.make_key(KEY, ADMIN, origin=origin)
    rule = desk.access.add_rule(
        RuleOrder(effect=Effect.DENY, subject="x", comment="left"), ADMIN, origin=origin
    )
    desk.keys.rotate_key(made.key, RotationOrder(), ADMIN)
    desk.keys.revoke_key(made.key, ADMIN)
    desk.access.remove_rule(rule.rule, ADMIN)
    order = RevocationOrder(kind=RevocationKind.SUBJECT, value="bob", comment="gone")
    desk.access.revoke(order, ADMIN)
    desk.access.unrevoke(RevocationKind.SUBJECT, "bob", ADMIN)

    again = Desk(tmp_path, desk.clock).access.waiting_events()

    events = [each.event for each in again]
    assert [each.name for each in events] == [
        EventName.KEY_MADE,
        EventName.RULE_MADE,
        EventName.KEY_ROTATED,
        EventName.KEY_REVOKED,
        EventName.RULE_REMOVED,
        EventName.REVOCATION_MADE,
        EventName.REVOCATION_WITHDRAWN,
    ]
    first, second = events[0], events[1]
    assert (first.actor, first.source, first.request_id) == ("ada", "192.0.2.7", "r-9")
    assert (second.object, second.reason) == (f"rule:{rule.rule}", "left")
    assert made.secret not in desk.file.read_text()
    assert "digest" not in str(events[0].after)


def test_p24_killed_between_a_change_and_its_event_200_times(tmp_path: Path) -> None:
    """Wherever the process ends, there is never one without the other, and the event once."""
    clock, trail = ManualClock(), Trail(tmp_path / "database")

    class Killed(BaseException):
        """The process ends here."""

    def absorb(desk: Desk, *, until: str) -> None:
        waiting = desk.access.waiting_events()
        if until == "before":
            raise Killed
        trail.database.run(lambda c: trail.log.absorb(c, waiting))
        if until == "between":
            raise Killed
        desk.access.forget_events(len(waiting))

    subjects = []
    for number in range(200):
        desk = Desk(tmp_path, clock)
        order = RuleOrder(effect=Effect.DENY, subject=f"s{number}")
        subjects.append(desk.access.add_rule(order, ADMIN).rule)
        with contextlib.suppress(Killed):
            absorb(desk, until=("before", "between", "after")[number % 3])
    last = Desk(tmp_path, clock)
    absorb(last, until="after")

    found = find(trail.database, Filter(name="access:rule:made", limit=1000))
    assert [each.object for each in reversed(found)] == [f"rule:{each}" for each in subjects]
    assert {rule.rule for rule in last.access.rules()} == set(subjects)
    assert last.access.waiting_events() == ()
