"""Who may have a say about a version, as one pure rule over who is who.

In this order, and the first that says no decides:

    1. whoever may not approve this model (another tenant, no such role or grant) has no say;
    2. nobody decides about their own work: neither the author, nor who asked for the approval, by any
       credential of theirs, nor the owner of an API key that was used, nor a delegate of one of them;
    3. nobody decides twice, by whatever credential.
"""

from collections.abc import Collection
from dataclasses import dataclass

from serving.errors import Forbidden, SeparationBroken
from serving.governance.policies import Policies


@dataclass(frozen=True, slots=True)
class Say:
    """Somebody who wants to decide. decider, author, requester: identities of each. earlier: of
    everybody who decided on the same request. may: whether their rights reach the model."""

    decider: frozenset[str]
    may: bool
    author: frozenset[str]
    requester: frozenset[str]
    earlier: Collection[frozenset[str]] = ()


def check_say(say: Say, policies: Policies) -> None:
    """Passes when they may decide. Raises Forbidden, SeparationBroken."""
    if not say.may:
        raise Forbidden("this credential may not approve this model; it needs role approver")
    if say.decider & policies.excluded(say.author | say.requester):
        raise SeparationBroken(
            "nobody decides about their own work: the author, who asked for it, their API keys and "
            "their delegates are not asked"
        )
    if any(say.decider & each for each in say.earlier):
        raise SeparationBroken("this person has decided on this request already")
