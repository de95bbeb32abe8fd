"""Nobody approves their own work: the rules against an oracle, over thousands of random worlds."""

import random
from collections import Counter

from serving.artifacts.statements import Approval
from serving.errors import Forbidden
from serving.governance.counting import Rule, count_approvals
from serving.governance.policies import BUILT_IN
from serving.governance.separation import Say, check_say
from tests.governance.oracle import PEOPLE, Credential, Statement, World, is_enough, may_decide

WORLDS = 5000
ROLES = ("approver", "operator", "reviewer")


def credential(draw: random.Random) -> Credential:
    """A person's own, or an API key with another owner or the same."""
    owner = draw.choice(PEOPLE) if draw.random() < 0.4 else ""
    return Credential(draw.choice(PEOPLE[:-1]), owner, draw.random() < 0.8)


def statement(draw: random.Random, number: int) -> Statement:
    kind = draw.choices(("serve", "override", "withdrawal", "retire"), (8, 1, 1, 1))[0]
    return Statement(
        who=credential(draw),
        kind=kind,
        roles=tuple(draw.sample(ROLES, draw.randint(1, 2))),
        decision="rejected" if kind == "withdrawal" or draw.random() < 0.1 else "approved",
        about=draw.choice("vvvvvw"),
        request=draw.choice(("r1", "r2", "r3")),
        issued=number + (100 if draw.random() < 0.05 else 0),
        expires=draw.choice((0, 0, 40, 60)),
    )


def world(seed: int) -> World:
    draw = random.Random(seed)  # noqa: S311 - repeatable worlds
    pairs = [draw.sample(PEOPLE[:-1], 2) for _ in range(draw.randint(0, 2))]
    return World(
        author=credential(draw),
        requester=credential(draw),
        decider=credential(draw),
        earlier=tuple(credential(draw) for _ in range(draw.randint(0, 2))),
        delegates={one: (other,) for one, other in pairs},
        statements=tuple(statement(draw, number) for number in range(draw.randint(0, 6))),
        approvals=draw.randint(0, 3),
        roles=tuple(draw.sample(ROLES, draw.randint(1, 2))),
        override_roles=tuple(draw.sample(ROLES, draw.randint(0, 1))),
        now=50,
    )


def identities(one: Credential) -> frozenset[str]:
    return frozenset({one.subject, one.owner} - {""})


def decided(each: World) -> bool:
    """What the product says about the decider."""
    policies = BUILT_IN.model_copy(update={"delegates": dict(each.delegates)})
    say = Say(
        decider=identities(each.decider),
        may=each.decider.may,
        author=identities(each.author),
        requester=identities(each.requester),
        earlier=[identities(earlier) for earlier in each.earlier],
    )
    try:
        check_say(say, policies)
    except Forbidden:
        return False
    return True


def counted(each: World) -> bool:
    """What the product says about the statements."""
    policies = BUILT_IN.model_copy(update={"delegates": dict(each.delegates)})
    rule = Rule(
        kind="serve",
        approvals=each.approvals,
        roles=each.roles,
        excluded=policies.excluded(identities(each.author)),
        override_roles=each.override_roles,
    )
    approvals = [
        Approval(
            kind=one.kind,
            model=one.about,
            version="1",
            digest="d",
            approver=one.who.subject,
            approver_owner=one.who.owner,
            roles=one.roles,
            author=each.author.subject,
            decision="approved" if one.decision == "approved" else "rejected",
            reason="",
            issued_ns=one.issued,
            expires_ns=one.expires,
            request=one.request,
        )
        for one in each.statements
    ]
    return not count_approvals(rule, approvals, about=("v", "1", "d"), now_ns=each.now).missing


def test_p22_separation_agrees_with_the_oracle_in_5000_worlds() -> None:
    """Who may decide, and what counts: not one disagreement, and neither answer is rare."""
    answers: Counter[tuple[bool, bool]] = Counter()
    wrong = []
    for seed in range(WORLDS):
        each = world(seed)
        expected = may_decide(each), is_enough(each)
        answers[expected] += 1
        if (decided(each), counted(each)) != expected:
            wrong.append(seed)

    assert wrong == []
    assert min(sum(n for (may, _), n in answers.items() if may) / WORLDS, 0.1) == 0.1
    assert min(sum(n for (_, enough), n in answers.items() if enough) / WORLDS, 0.1) == 0.1


def test_approvals_last_until_the_first_that_is_needed_ends() -> None:
    """With one to spare, until the second."""
    statements = [
        Approval(
            kind="serve", model="v", version="1", digest="d", approver=name, roles=("approver",),
            author="x", decision="approved", reason="", issued_ns=1, expires_ns=ends,
        )
        for name, ends in (("a", 10), ("b", 20), ("c", 0))
    ]  # fmt: skip

    def until(approvals: int) -> int:
        rule = Rule("serve", approvals, ("approver",), frozenset({"x"}))
        return count_approvals(rule, statements, about=("v", "1", "d"), now_ns=5).expires_ns

    assert [until(each) for each in (0, 1, 2, 3)] == [0, 0, 20, 10]
