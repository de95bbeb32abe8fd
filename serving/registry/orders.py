"""What callers may ask of the registry. A field that they do not decide, or that there is none of, is
refused by name: nobody registers an approved version, or a model of another tenant's."""

import re
from typing import Any, Final

import msgspec

from serving.errors import ParameterInvalid, RevisionStale
from serving.registry.entities import Lineage, ModelFacts, RiskTier, Scale
from serving.registry.lifecycle import State, Step
from serving.registry.shares import Shares

NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
DIGEST: Final = re.compile(r"[0-9a-f]{64}")
MAX_TEXT_LENGTH: Final = 10_000
MAX_PAGE: Final = 200


class Order(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Anything that is asked for."""


class ModelOrder(Order, frozen=True):
    """A new model."""

    name: str
    facts: ModelFacts


class VersionOrder(Order, frozen=True):
    """A new version. digest: SHA-256 of an artifact that was uploaded; an ensemble needs none, it has
    the digest of its stages. definition: inputs, outputs,
    batching and recording, as in `model.yaml`; empty: as the artifact declares them."""

    version: str
    definition: dict[str, Any]
    digest: str = ""
    description: str = ""
    lineage: Lineage = Lineage()


class StateOrder(Order, frozen=True):
    """A step of a version's life. sunset_ns, successor: with a deprecation. override: retire it
    though it still gets traffic, which is then taken away."""

    step: Step
    reason: str = ""
    sunset_ns: int = 0
    successor: str = ""
    override: bool = False


class AliasOrder(Order, frozen=True):
    """version: what the alias means from now on."""

    version: str


class TrafficOrder(Shares, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Who answers, and who gets copies: see `Shares`. stable: empty takes all traffic away.
    scale: None leaves it."""

    scale: Scale | None = None
    reason: str = ""


class Search(Order, frozen=True):
    """Models to find. text: words that must all occur. tags: `name=value` or `name`, all of them.
    state: models with a version in this state. after: the name that the page begins behind."""

    text: str = ""
    owner: str = ""
    team: str = ""
    risk_tier: RiskTier | None = None
    tags: tuple[str, ...] = ()
    state: State | None = None
    after: str = ""
    limit: int = 50


def check_name(name: str, what: str) -> None:
    """Raises ParameterInvalid for what is no name: the only form that reaches a path or a URL."""
    if NAME.fullmatch(name) is None:
        raise ParameterInvalid(
            f"{what} {name[:80]!r} must be 1 to 63 characters of a-z 0-9 . _ -, the first a letter or "
            "digit"
        )


def check_digest(digest: str) -> None:
    """Raises ParameterInvalid."""
    if DIGEST.fullmatch(digest) is None:
        raise ParameterInvalid("digest must be a SHA-256 in 64 lower-case hexadecimal digits")


def check_facts(facts: ModelFacts) -> None:
    """Raises ParameterInvalid."""
    if not facts.owner or len(facts.owner) > 255 or len(facts.team) > 255:  # noqa: PLR2004 - columns
        raise ParameterInvalid("owner must be 1 to 255 characters, team at most 255")
    texts = [facts.purpose, facts.description, facts.task, facts.licence, facts.source]
    texts += [*facts.contacts, *facts.intended_uses, *facts.prohibited_uses, *facts.limitations]
    if any(len(text) > MAX_TEXT_LENGTH for text in texts):
        raise ParameterInvalid(f"a text must be at most {MAX_TEXT_LENGTH} characters")
    for tag, value in facts.tags.items():
        if not 0 < len(tag) <= 128 or "=" in tag or len(value) > 1024:  # noqa: PLR2004 - columns
            raise ParameterInvalid(
                "a tag is 1 to 128 characters without =, its value at most 1024 characters"
            )


def check_revision(revision: int, if_revision: int | None) -> None:
    """Raises RevisionStale when what is there is not what was seen."""
    if if_revision is not None and if_revision != revision:
        raise RevisionStale(f"its revision is {revision}, not {if_revision}: look again")
