"""Who may do what: one pure function, and the rules of one epoch made quick to ask.

In this order, and the first that says something decides:

    1. a disabled subject, or a key of a disabled owner, may do nothing;
    2. a rule that denies wins over everything that permits;
    3. a credential limited to some models reaches no other;
    4. a role of the credential permits what the role may do, on models of the caller's own tenant
       and on those of none;
    5. a grant permits what its role may do, on the models and tenants that it names, except to the
       one who made it;
    6. everything else is refused.

A member of a tenant acts on the product as a whole (its status, its access) by a grant only that
names model tenants, since a role on the credential speaks for the tenant's own models.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from serving.access.patterns import ANY, matches
from serving.access.state import AccessState, Effect, Rule
from serving.core.principals import Action, Decision, Ground, Principal, Resource, Role

ROLE_ACTIONS: Final[Mapping[Role, frozenset[Action]]] = {
    Role.CALLER: frozenset({Action.INFER, Action.REPORT_OUTCOME, Action.DESCRIBE}),
    Role.DEVELOPER: frozenset(
        {
            Action.INFER,
            Action.REPORT_OUTCOME,
            Action.DESCRIBE,
            Action.DESCRIBE_CANDIDATES,
            Action.REGISTER,
        }
    ),
    Role.APPROVER: frozenset({Action.DESCRIBE, Action.DESCRIBE_CANDIDATES, Action.APPROVE}),
    Role.OPERATOR: frozenset(
        {
            Action.INFER,
            Action.REPORT_OUTCOME,
            Action.DESCRIBE,
            Action.DESCRIBE_CANDIDATES,
            Action.OPERATE,
            Action.READ_STATUS,
        }
    ),
    Role.REVIEWER: frozenset(
        {Action.DESCRIBE, Action.REPORT_OUTCOME, Action.REVIEW, Action.READ_PAYLOADS}
    ),
    Role.AUDITOR: frozenset(
        {
            Action.DESCRIBE,
            Action.DESCRIBE_CANDIDATES,
            Action.READ_PAYLOADS,
            Action.READ_STATUS,
            Action.READ_ACCESS,
        }
    ),
    Role.ADMIN: frozenset(
        {
            Action.DESCRIBE,
            Action.READ_STATUS,
            Action.READ_ACCESS,
            Action.MANAGE_ACCESS,
            Action.PROTECT_SUBJECTS,
        }
    ),
}
"""What each role may do; a role that is not asked for by anything yet is here already, so that
nobody holds it by accident when it is."""

MOST_SUBJECTS: Final = 10_000


def decide(
    principal: Principal,
    action: Action,
    resource: Resource,
    *,
    rules: Sequence[Rule] = (),
    disabled: frozenset[str] = frozenset(),
) -> Decision:
    """The decision, with its reason. See the module docstring."""
    refusal = _refusal(principal, action, resource, rules=rules, disabled=disabled)
    if refusal is not None:
        return refusal
    is_own = _is_own(principal, resource)
    for role in sorted(principal.roles):
        if is_own and action in ROLE_ACTIONS[role]:
            return Decision(True, Ground.ROLE, role, f"role {role} permits {action}")
    for rule in rules:
        if _grants(rule, principal, action, resource):
            reason = f"rule {rule.rule} grants role {rule.role} on models {rule.model}"
            return Decision(True, Ground.GRANT, rule.rule, reason)
    if is_own:
        reason = f"no role of the credential and no grant permits {action}"
        return Decision(False, Ground.DEFAULT, "", reason)
    what = "the product as a whole" if resource.model is None else "another tenant's model"
    return Decision(False, Ground.TENANT, "", f"no grant reaches {what}")


def concerns(rule: Rule, principal: Principal) -> bool:
    """Whether the rule is about this principal."""
    return matches(rule.subject, principal.subject) and matches(
        rule.subject_tenant, principal.tenant
    )


class Policy:
    """The rules of one epoch. Immutable, but for its memory of which rules concern whom."""

    def __init__(
        self, state: AccessState | None = None, *, tenants: Mapping[str, str] | None = None
    ) -> None:
        """tenants: model to the tenant that owns it; models of none are left out."""
        state = state or AccessState()
        self.epoch = state.epoch
        self._rules = state.rules
        self._disabled = state.disabled()
        self._tenants = dict(tenants or {})
        self._concerned: dict[tuple[str, str], tuple[Rule, ...]] = {}

    def decide(
        self,
        principal: Principal,
        action: Action,
        model: str | None,
        *,
        tenant: str | None = None,
    ) -> Decision:
        """Whether, and why. A model that does not exist belongs to nobody. tenant: who owns the
        model; None: as the settings and gateways know it."""
        if tenant is None:
            tenant = "" if model is None else self._tenants.get(model, "")
        return decide(
            principal,
            action,
            Resource(model, tenant),
            rules=self._rules_for(principal),
            disabled=self._disabled,
        )

    judge = decide

    def reveals(self, principal: Principal, action: Action, model: str) -> bool:
        """Whether a refusal may say that it is one: it would be the same without such a model."""
        hidden = decide(
            principal,
            action,
            Resource(model),
            rules=self._rules_for(principal),
            disabled=self._disabled,
        )
        return not hidden.allowed

    def _rules_for(self, principal: Principal) -> tuple[Rule, ...]:
        who = (principal.subject, principal.tenant)
        rules = self._concerned.get(who)
        if rules is None:
            if len(self._concerned) >= MOST_SUBJECTS:
                self._concerned.clear()
            rules = tuple(rule for rule in self._rules if concerns(rule, principal))
            self._concerned[who] = rules
        return rules


def _refusal(
    principal: Principal,
    action: Action,
    resource: Resource,
    *,
    rules: Sequence[Rule],
    disabled: frozenset[str],
) -> Decision | None:
    """What refuses, whatever would permit."""
    if principal.subject in disabled or principal.owner in disabled:
        return Decision(False, Ground.DISABLED, "", "the subject, or the key's owner, is disabled")
    for rule in rules:
        if _denies(rule, principal, action, resource):
            reason = f"rule {rule.rule} denies {rule.action or 'everything'} on models {rule.model}"
            return Decision(False, Ground.DENIED, rule.rule, reason)
    limits = principal.models
    if limits is None or resource.model is None:
        return None
    if not any(matches(limit, resource.model) for limit in limits):
        reason = "the credential is limited to other models"
        return Decision(False, Ground.CREDENTIAL, "", reason)
    return None


def _is_own(principal: Principal, resource: Resource) -> bool:
    """Whether a role of the credential reaches it."""
    if resource.model is None:
        return not principal.tenant
    return resource.tenant in ("", principal.tenant)


def _denies(rule: Rule, principal: Principal, action: Action, resource: Resource) -> bool:
    return (
        rule.effect is Effect.DENY
        and rule.action in (None, action)
        and matches(rule.model_tenant or ANY, resource.tenant)
        and _names(rule, resource)
        and concerns(rule, principal)
    )


def _grants(rule: Rule, principal: Principal, action: Action, resource: Resource) -> bool:
    if rule.effect is not Effect.ALLOW or rule.role is None or rule.made_by == principal.subject:
        return False
    if rule.model_tenant is None:
        reaches = _is_own(principal, resource)
    else:
        reaches = matches(rule.model_tenant, resource.tenant)
    return (
        reaches
        and action in ROLE_ACTIONS[rule.role]
        and _names(rule, resource)
        and concerns(rule, principal)
    )


def _names(rule: Rule, resource: Resource) -> bool:
    if resource.model is None:
        return rule.model == ANY
    return matches(rule.model, resource.model)
