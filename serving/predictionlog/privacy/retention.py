"""How long records are kept: rules, without a hand on any file.

A model's owner may say so (`recording.retention_days` in its specification), the operator may say
otherwise (`ledger.keep_days`, by model, `*` for the rest). Where nobody says anything records are
kept for ever. Nothing is deleted before `privacy.min_retention_days`, and nothing that is on hold.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from serving.core.models import ModelVersion
from serving.predictionlog.privacy.holds import Hold, blocking

_DAY_NS: Final = 86_400 * 1_000_000_000


@dataclass(frozen=True, slots=True)
class RetentionRules:
    """What may be deleted. configured, declared: model to days."""

    configured: Mapping[str, float] = field(default_factory=dict)
    declared: Mapping[str, float] = field(default_factory=dict)
    min_days: float = 0.0
    holds: Collection[Hold] = ()

    def kept_days(self, model: str) -> float | None:
        """How long a record of the model is kept; None: for ever."""
        wanted = self.configured.get(model, self.declared.get(model, self.configured.get("*")))
        return None if wanted is None else max(wanted, self.min_days)

    def hold_on(self, models: Collection[str], subjects: Collection[str] = ()) -> Hold | None:
        """Why records of these models, or of these subjects (tags), must stay; None: nothing says so."""
        return blocking(self.holds, models=models, subjects=subjects)

    def deletable(
        self, model: str, *, latest_ns: int, now_ns: int, subjects: Collection[str] = ()
    ) -> bool:
        """Whether records of `model`, the youngest from `latest_ns`, may all go.

        subjects: the tags that occur in them.
        """
        days = self.kept_days(model)
        if days is None or now_ns - latest_ns < days * _DAY_NS:
            return False
        return self.hold_on([model], subjects) is None


def declared_days(versions: Iterable[ModelVersion]) -> dict[str, float]:
    """What the models' owners say; where versions differ, the longest, and for ever if one says
    nothing."""
    found: dict[str, list[int | None]] = {}
    for version in versions:
        found.setdefault(version.model, []).append(version.recording.retention_days)
    return {
        model: float(max(day for day in days if day is not None))
        for model, days in found.items()
        if None not in days
    }
