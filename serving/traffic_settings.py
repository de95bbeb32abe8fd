"""How the traffic of a deployment is divided: shares of answers and of copies, as fractions."""

from typing import Annotated, Any

from pydantic import Field, model_validator

from serving.setting_types import Group

Fraction = Annotated[float, Field(ge=0.0001, le=1)]


class SegmentOf(Group):
    """Requests of one kind."""

    by: Annotated[str, Field(pattern=r"^(principal|tenant|header:[a-z0-9-]{1,64})$")]
    """`principal`, `tenant`, or `header:NAME`, the name in lower case."""
    value: Annotated[str, Field(max_length=255)]
    """What it must be."""


class ShadowShare(Group):
    """A candidate that gets copies of what the stable version answered."""

    version: str
    """Its name."""
    share: Fraction = 1.0
    """Of the requests that fit."""
    budget: Annotated[float, Field(ge=0.0001, le=100)] | None = None
    """Model time of the copies, as a share of that of the stable version's answers; None: no limit."""
    segments: tuple[SegmentOf, ...] = ()
    """Only requests that fit one of these; empty: all."""

    @model_validator(mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        """A name alone is a copy of everything."""
        return {"version": value} if isinstance(value, str) else value


class CanaryShare(Group):
    """A version that answers a share of the requests."""

    version: str
    """Its name."""
    weight: Annotated[float, Field(ge=0, le=1)]
    """Its share; what is left answers the stable version."""
