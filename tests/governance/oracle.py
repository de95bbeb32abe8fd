"""The rules of approval once more, written to be read and not to be fast: what tests compare with."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

PEOPLE = ("alice", "bob", "carol", "dave", "")


@dataclass(frozen=True)
class Credential:
    """What somebody shows: whom it speaks for, and who answers for it."""

    subject: str
    owner: str
    may: bool


@dataclass(frozen=True)
class Statement:
    """One word as it was kept."""

    who: Credential
    kind: str
    roles: tuple[str, ...]
    decision: str
    about: str
    request: str
    issued: int
    expires: int


@dataclass(frozen=True)
class World:
    """Who made it, who asked, who wants to decide, who did before, and who acts for whom."""

    author: Credential
    requester: Credential
    decider: Credential
    earlier: tuple[Credential, ...]
    delegates: Mapping[str, tuple[str, ...]]
    statements: tuple[Statement, ...]
    approvals: int
    roles: tuple[str, ...]
    override_roles: tuple[str, ...]
    now: int


def same_person(one: Credential, other: Credential) -> bool:
    return any(a and a == b for a in (one.subject, one.owner) for b in (other.subject, other.owner))


def acts_for(one: Credential, other: Credential, delegates: Mapping[str, tuple[str, ...]]) -> bool:
    """Whether either is the other's delegate."""
    for a in (one.subject, one.owner):
        for b in (other.subject, other.owner):
            if a and b and (a in delegates.get(b, ()) or b in delegates.get(a, ())):
                return True
    return False


def may_decide(world: World) -> bool:
    """Not without the right, not on their own or a delegate's work, not twice."""
    if not world.decider.may:
        return False
    for involved in (world.author, world.requester):
        if same_person(world.decider, involved):
            return False
        if acts_for(world.decider, involved, world.delegates):
            return False
    return not any(same_person(world.decider, each) for each in world.earlier)


def is_enough(world: World) -> bool:
    """Whether the statements let the version serve now."""
    valid = [each for each in world.statements if holds(each, world)]
    counted: list[Statement] = []
    for each in sorted(valid, key=lambda one: (one.issued, one.who.subject)):
        fits = each.kind == "serve" and any(role in world.roles for role in each.roles)
        if fits and not any(same_person(each.who, other.who) for other in counted):
            counted.append(each)
    has_all_roles = all(any(role in each.roles for each in counted) for role in world.roles)
    if len(counted) >= world.approvals and (has_all_roles or not world.approvals):
        return True
    return any(
        each.kind == "override" and any(role in world.override_roles for role in each.roles)
        for each in valid
    )


def holds(statement: Statement, world: World) -> bool:
    """Whether it still says yes to this version, by somebody who may."""
    if statement.about != "v" or statement.decision != "approved":
        return False
    if statement.issued > world.now or (statement.expires and statement.expires <= world.now):
        return False
    if same_person(statement.who, world.author):
        return False
    if acts_for(statement.who, world.author, world.delegates):
        return False
    others: Sequence[Statement] = [
        each
        for each in world.statements
        if each.about == "v" and each.request == statement.request and each.issued <= world.now
    ]
    taken_back = any(
        each.kind == "withdrawal" and each.who.subject == statement.who.subject for each in others
    )
    rejected = any(each.kind != "withdrawal" and each.decision == "rejected" for each in others)
    return not taken_back and not rejected
