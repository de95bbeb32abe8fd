"""Who may do what: against the oracle, and rule by rule with the reason that an auditor is told."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.access.policy import ROLE_ACTIONS, Policy, decide
from serving.access.state import AccessState, Effect, Revocation, RevocationKind, Rule
from serving.core.principals import Action, Ground, Principal, Resource, Role
from tests.access import oracle

SUBJECTS = ["alice", "alan", "bob", "ci-1"]
TENANTS = ["", "acme", "apex"]
MODELS = ["fraud", "fraud-cards", "cards", "*"]

# Most rules must reach most askers, or nothing of interest is ever decided.
patterns = st.sampled_from(
    [*"****", "a*", "*a*", "*-*", "f*-c*s", "alice", "cards", "acme"]
) | st.text(alphabet="a*cdr-", min_size=1, max_size=6)
grants = st.builds(
    Rule,
    rule=st.just("r"),
    subject=patterns,
    subject_tenant=st.just("*") | patterns,
    model=patterns,
    model_tenant=st.none() | patterns,
    made_by=st.sampled_from(SUBJECTS),
    effect=st.just(Effect.ALLOW),
    role=st.sampled_from(Role),
)
denials = st.builds(
    Rule,
    rule=st.just("r"),
    subject=patterns,
    subject_tenant=st.just("*") | patterns,
    model=patterns,
    model_tenant=st.none() | patterns,
    effect=st.just(Effect.DENY),
    action=st.none() | st.sampled_from(Action),
)
principals = st.builds(
    Principal,
    subject=st.sampled_from(SUBJECTS),
    roles=st.frozensets(st.sampled_from(Role), max_size=6),
    models=st.none() | st.frozensets(patterns, max_size=2),
    tenant=st.sampled_from(TENANTS),
    owner=st.sampled_from(["", *SUBJECTS]),
)


def foresee(
    principal: Principal,
    action: Action,
    resource: Resource,
    *,
    known: list[Rule],
    disabled: frozenset[str],
) -> bool:
    """What the oracle says."""
    sayings = [
        oracle.Saying(
            subject=rule.subject,
            subject_tenant=rule.subject_tenant,
            model=rule.model,
            model_tenant=rule.model_tenant,
            role=rule.role,
            action=rule.action,
            made_by=rule.made_by,
        )
        for rule in known
    ]
    asker = oracle.Asker(
        principal.subject,
        principal.tenant,
        principal.owner,
        frozenset(role.value for role in principal.roles),
        principal.models,
    )
    return oracle.allowed(
        asker,
        action.value,
        resource.model,
        tenant=resource.tenant,
        sayings=sayings,
        disabled=set(disabled),
    )


@pytest.mark.timeout(90)
@settings(max_examples=5000, deadline=None)
@given(
    principal=principals,
    action=st.sampled_from(Action),
    model=st.none() | st.sampled_from(MODELS),
    tenant=st.sampled_from(TENANTS),
    known=st.lists(grants | denials, max_size=3),
    disabled=st.frozensets(st.sampled_from(SUBJECTS), max_size=1),
)
def test_az_10_decisions_agree_with_the_oracle(
    *,
    principal: Principal,
    action: Action,
    model: str | None,
    tenant: str,
    known: list[Rule],
    disabled: frozenset[str],
) -> None:
    """In 5,000 worlds the implementation and its hundred-line oracle never disagree (P22, AZ-10)."""
    resource = Resource(model, "" if model is None else tenant)

    decision = decide(principal, action, resource, rules=known, disabled=disabled)

    assert decision.allowed is foresee(principal, action, resource, known=known, disabled=disabled)
    assert decision.allowed is (decision.ground in (Ground.ROLE, Ground.GRANT))
    assert decision.reason


def test_no_role_and_no_rule_is_refused_everything() -> None:
    """The default is deny, for every action on everything."""
    nobody = Principal("nobody", frozenset())

    decisions = [
        decide(nobody, action, Resource(model)) for action in Action for model in ("m", None)
    ]

    assert {decision.ground for decision in decisions} == {Ground.DEFAULT}
    assert not any(decision.allowed for decision in decisions)


def test_admin_grants_and_does_nothing_else_of_weight() -> None:
    """Who hands out rights neither approves nor reads payloads nor asks for predictions."""
    may = ROLE_ACTIONS[Role.ADMIN]

    assert Action.MANAGE_ACCESS in may
    assert not may & {Action.APPROVE, Action.READ_PAYLOADS, Action.INFER, Action.REVIEW}
    assert not any(
        Action.MANAGE_ACCESS in ROLE_ACTIONS[role] for role in Role if role is not Role.ADMIN
    )


def test_auditor_reads_everything_and_changes_nothing() -> None:
    """Every action that reads, and none that does not."""
    reading = {action for action in Action if action.startswith(("read_", "describe"))}

    assert ROLE_ACTIONS[Role.AUDITOR] == reading


def test_nobody_has_the_permission_of_our_own_processes() -> None:
    """A token cannot make its bearer one of us."""
    assert all(Action.TAKE_PART not in actions for actions in ROLE_ACTIONS.values())


def grant(**changes: object) -> Rule:
    values: dict[str, object] = {"rule": "g", "effect": Effect.ALLOW, "role": Role.CALLER}
    return Rule(**(values | changes))  # type: ignore[arg-type]  # as the struct checks itself


@pytest.mark.parametrize(
    ("principal", "known", "model", "ground", "reason"),
    [
        (Principal("a", frozenset({Role.CALLER})), [], "m", Ground.ROLE, "role caller permits infer"),
        (Principal("a", frozenset()), [], "m", Ground.DEFAULT, "no role of the credential and no grant"),
        (Principal("a", frozenset()), [grant(model="m*")], "m", Ground.GRANT, "rule g grants role caller"),
        (Principal("a", frozenset()), [grant(made_by="a")], "m", Ground.DEFAULT, "no grant permits infer"),
        (
            Principal("a", frozenset({Role.CALLER})),
            [grant(), Rule(rule="d", effect=Effect.DENY, model="m")],
            "m", Ground.DENIED, "rule d denies everything on models m",
        ),
        (
            Principal("a", frozenset({Role.CALLER}), frozenset({"x", "y*"})),
            [grant()], "m", Ground.CREDENTIAL, "limited to other models",
        ),
        (Principal("a", frozenset({Role.CALLER})), [], "theirs", Ground.TENANT, "another tenant's model"),
        (Principal("a", frozenset({Role.CALLER})), [grant()], "theirs", Ground.TENANT, "no grant reaches"),
        (
            Principal("a", frozenset()),
            [grant(model_tenant="ac*")], "theirs", Ground.GRANT, "rule g grants",
        ),
        (Principal("a", frozenset({Role.CALLER}), tenant="acme"), [], "theirs", Ground.ROLE, "permits"),
        (Principal("gone", frozenset(Role)), [grant()], "m", Ground.DISABLED, "disabled"),
        (Principal("a", frozenset(Role), owner="gone"), [grant()], "m", Ground.DISABLED, "owner"),
    ],
)  # fmt: skip
def test_decision_says_what_it_rests_on(
    *, principal: Principal, known: list[Rule], model: str, ground: Ground, reason: str
) -> None:
    """Each step of a decision has its ground, its rule and its words."""
    gone = Revocation(kind=RevocationKind.SUBJECT, value="gone")
    state = AccessState(rules=tuple(known), revocations=(gone,))
    policy = Policy(state, tenants={"theirs": "acme"})

    decision = policy.decide(principal, Action.INFER, model)

    assert (decision.ground, decision.allowed) == (ground, ground in (Ground.ROLE, Ground.GRANT))
    assert reason in decision.reason


def test_member_of_a_tenant_acts_on_the_whole_product_by_grant_only() -> None:
    """A tenant's operator does not see how everybody's models run, unless told that it may."""
    member = Principal("a", frozenset({Role.OPERATOR}), tenant="acme")
    everywhere = grant(role=Role.OPERATOR, model_tenant="*")

    grounds = [
        Policy(AccessState(rules=known)).decide(member, Action.READ_STATUS, None).ground
        for known in ((), (grant(role=Role.OPERATOR),), (everywhere,))
    ]

    assert grounds == [Ground.TENANT, Ground.TENANT, Ground.GRANT]


def test_policy_remembers_a_bounded_number_of_subjects() -> None:
    """However many subjects ask, decisions stay right; the memory is emptied and filled again."""
    policy = Policy(AccessState(rules=(grant(subject="s9*"),)))

    for number in range(10_050):
        principal = Principal(f"s{number}", frozenset())
        allowed = policy.decide(principal, Action.INFER, "m").allowed
        assert allowed is str(number).startswith("9")
