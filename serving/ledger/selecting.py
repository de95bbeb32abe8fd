"""Which records of the log the monitor decodes: pairs of the models that are compared, a share of them.

Everything else passes by after a look at its fixed part, or at no more than its definition's number.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from serving.ledger.pairs import Subject
from serving.ledger.sampling import Sampling
from serving.predictionlog.format import Definition, Flag
from serving.predictionlog.records import Fixed


@dataclass(slots=True)
class PairSelection:
    """Fits `decoding.Selection`. taken, skipped: copies by model, since `rates` asked."""

    revision: int = 0
    samplings: dict[str, Sampling] = field(default_factory=dict)
    skipped: dict[str, int] = field(default_factory=dict)
    """Copies that were passed by, by model, since the start."""
    _taken: dict[str, int] = field(default_factory=dict)
    _primaries: dict[str, str] = field(default_factory=dict)
    _candidates: dict[str, frozenset[str]] = field(default_factory=dict)

    def follow(self, subjects: Mapping[str, Subject]) -> None:
        """From now on these models, with a share that goes on as it was."""
        self._primaries = {model: each.primary for model, each in subjects.items()}
        self._candidates = {
            model: frozenset(candidate.version for candidate in each.candidates)
            for model, each in subjects.items()
        }
        self.samplings = {model: self.samplings.get(model) or Sampling() for model in subjects}
        self.revision += 1

    def wants(self, definition: Definition) -> bool:
        model, version = definition.model, definition.version
        return model in self._primaries and (
            version == self._primaries[model] or version in self._candidates[model]
        )

    def takes(self, log_id: str, fixed: Fixed, definition: Definition) -> bool:
        model = definition.model
        sampling = self.samplings[model]
        sampling.saw(log_id, fixed.sequence)
        is_primary = definition.version == self._primaries[model]
        if fixed.flags & Flag.PART or is_primary == bool(fixed.shadow_of):
            return False
        is_taken = sampling.takes(log_id, fixed.shadow_of or fixed.sequence)
        if not is_primary:
            counts = self._taken if is_taken else self.skipped
            counts[model] = counts.get(model, 0) + 1
        return is_taken

    def adapt(self, elapsed_s: float, *, most_per_s: float) -> None:
        """Fits each model's share to what was taken since the last time."""
        for model, sampling in self.samplings.items():
            sampling.adapt(self._taken.get(model, 0) / elapsed_s, most_per_s=most_per_s)
        self._taken.clear()


@dataclass(slots=True)
class OnlyThese:
    """Fits `decoding.Selection`: records by their ids, and nothing else."""

    identifiers: set[str]
    revision: int = 0

    def wants(self, definition: Definition) -> bool:
        del definition
        return True

    def takes(self, log_id: str, fixed: Fixed, definition: Definition) -> bool:
        del definition
        return f"{log_id}-{fixed.sequence:x}" in self.identifiers
