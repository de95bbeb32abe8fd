"""The rules of access once more, as short as they can be said, to hold the implementation against.

Written from the issue and not from the code: a permission is a set of (role, action) pairs read from
a table of words, a pattern is a regular expression, and a decision is one sentence.
"""

import re
from dataclasses import dataclass

TABLE = """
    caller     infer report_outcome describe
    developer  infer report_outcome describe describe_candidates register
    approver         describe describe_candidates approve
    operator   infer report_outcome describe describe_candidates operate read_status
    reviewer   report_outcome describe review read_payloads
    auditor          describe describe_candidates read_payloads read_status read_access
    admin            describe read_status read_access manage_access protect_subjects
"""
MAY = {
    (role, action)
    for role, *actions in map(str.split, TABLE.split("\n")[1:-1])
    for action in actions
}


@dataclass(frozen=True)
class Saying:
    """A grant when it has a role, else a denial; `None` for an action means all of them."""

    subject: str
    subject_tenant: str
    model: str
    model_tenant: str | None
    role: str | None
    action: str | None
    made_by: str


@dataclass(frozen=True)
class Asker:
    subject: str
    tenant: str
    owner: str
    roles: frozenset[str]
    models: frozenset[str] | None


def fits(pattern: str, text: str) -> bool:
    return bool(re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), text, re.DOTALL))


def allowed(
    asker: Asker,
    action: str,
    model: str | None,
    *,
    tenant: str,
    sayings: list[Saying],
    disabled: set[str],
) -> bool:
    """model: None is the product as a whole. tenant: whose the model is, empty for everybody's."""
    own = asker.tenant == "" if model is None else tenant in {"", asker.tenant}

    def is_meant(saying: Saying) -> bool:
        names_model = saying.model == "*" if model is None else fits(saying.model, model)
        names_asker = fits(saying.subject, asker.subject)
        return names_model and names_asker and fits(saying.subject_tenant, asker.tenant)

    def forbids(saying: Saying) -> bool:
        reaches = saying.model_tenant is None or fits(saying.model_tenant, tenant)
        return saying.role is None and saying.action in {None, action} and reaches

    def permits(saying: Saying) -> bool:
        reaches = own if saying.model_tenant is None else fits(saying.model_tenant, tenant)
        foreign_made = saying.made_by != asker.subject
        return (saying.role, action) in MAY and reaches and foreign_made

    meant = [saying for saying in sayings if is_meant(saying)]
    outside_limit = (
        asker.models is not None
        and model is not None
        and not any(fits(limit, model) for limit in asker.models)
    )
    is_refused = bool({asker.subject, asker.owner} & disabled) or outside_limit
    has_role = own and any((role, action) in MAY for role in asker.roles)
    return (
        not is_refused and not any(map(forbids, meant)) and (has_role or any(map(permits, meant)))
    )
