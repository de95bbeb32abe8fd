"""The rule that says which statements count for a version. Pure; whoever wrote them was verified before.

One person counts once, whatever credential they used; nobody counts whose work it is, nor a delegate
of theirs. A request that somebody rejected brings no approvals. Too few approvals can be replaced, for
its hours, by an emergency override; nothing else replaces them. `artifacts.release` judges the same
statements again before a model is loaded, from what is signed alone.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Final

from serving.artifacts.statements import OVERRIDE, Approval

RETIRE: Final = "retire"
WITHDRAWAL: Final = "withdrawal"
"""Takes the same person's approval of the same request back."""

APPROVED: Final = "approved"
REJECTED: Final = "rejected"
_NEVER: Final = 2**63


@dataclass(frozen=True, slots=True)
class Rule:
    """What is demanded. kind: serve or retire. roles: each approver has one, and each is held by some.

    excluded: identities that do not count. override_roles: empty where nothing replaces approvals.
    """

    kind: str
    approvals: int
    roles: tuple[str, ...]
    excluded: frozenset[str]
    override_roles: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Count:
    """Which statements count, and what is missing in words. expires_ns: when it is no longer enough,
    0 for never. override: what it rests on instead of approvals."""

    counting: tuple[Approval, ...]
    missing: tuple[str, ...]
    expires_ns: int = 0
    override: Approval | None = None


def count_approvals(
    rule: Rule, statements: Iterable[Approval], *, about: tuple[str, str, str], now_ns: int
) -> Count:
    """about: model, version and digest."""
    standing = _standing(statements, about, now_ns)
    counting: list[Approval] = []
    people: set[str] = set()
    for each in standing:
        fits = each.kind == rule.kind and bool({*each.roles} & {*rule.roles})
        if fits and not each.identities & (rule.excluded | people):
            counting.append(each)
            people |= each.identities
    missing = _missing(rule, counting)
    if not missing:
        return Count(tuple(counting), (), _until(rule, counting))
    for each in standing:
        may = each.kind == OVERRIDE and bool({*each.roles} & {*rule.override_roles})
        if may and not each.identities & rule.excluded:
            return Count((), (), each.expires_ns, each)
    return Count(tuple(counting), tuple(missing))


def _standing(
    statements: Iterable[Approval], about: tuple[str, str, str], now_ns: int
) -> list[Approval]:
    """What says yes to this very version and neither ran out nor was taken back, oldest first."""
    found = [
        each
        for each in statements
        if (each.model, each.version, each.digest) == about and each.issued_ns <= now_ns
    ]
    withdrawn = {(each.request, each.approver) for each in found if each.kind == WITHDRAWAL}
    rejected = {
        each.request for each in found if each.decision == REJECTED and each.kind != WITHDRAWAL
    }
    standing = [
        each
        for each in found
        if each.decision == APPROVED
        and (not each.expires_ns or now_ns < each.expires_ns)
        and (each.request, each.approver) not in withdrawn
        and each.request not in rejected
    ]
    return sorted(standing, key=lambda each: (each.issued_ns, each.approver))


def _missing(rule: Rule, counting: Collection[Approval]) -> list[str]:
    lacking = rule.approvals - len(counting)
    roles = " or ".join(rule.roles)
    if lacking > 0:
        return [f"{lacking} more approval(s) ({rule.kind}) of role {roles}"]
    held = {role for each in counting for role in each.roles}
    absent = [role for role in rule.roles if role not in held] if rule.approvals else []
    return [f"an approval ({rule.kind}) of role {role}" for role in absent]


def _until(rule: Rule, counting: list[Approval]) -> int:
    """When it stops being enough: when the first of those goes without whom it is too little."""
    ends = sorted({each.expires_ns or _NEVER for each in counting})
    for end in ends:
        left = [each for each in counting if (each.expires_ns or _NEVER) > end]
        if _missing(rule, left):
            return 0 if end == _NEVER else end
    return 0
