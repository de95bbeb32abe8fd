"""How two answers of one output are compared, row by row.

Each comparator is a part of the specification (`{"type": "label_flip"}`) and says of every row whether
the answers disagree, and how far apart they are as a score from 0 (same) to 1. Where shapes or kinds
of the two answers differ, every row disagrees with score 1. NaN is like NaN only; where elements are
ordered, it is the last and in no top k unless too few are left.
"""

from dataclasses import dataclass
from typing import Annotated, Final

import numpy as np
from msgspec import Meta, Struct
from numpy.typing import NDArray

from serving.core.tensors import Array, TensorSpecification, numbers
from serving.monitoring.distributions import Statistic

Flags = NDArray[np.bool_]
Floats = NDArray[np.float64]
Share = Annotated[float, Meta(ge=0.0, le=1.0)]
Index = Annotated[int, Meta(ge=0)]

TOPS_FROM: Final = 20
"""A vector of so many confidences is compared by its largest ones rather than by its largest one."""
EMBEDDING_FROM: Final = 64


@dataclass(frozen=True, slots=True)
class Agreement:
    """disagrees, score: one element for each row; score within 0..1."""

    disagrees: Flags
    score: Floats


class Tolerance(Struct, frozen=True, tag="tolerance", forbid_unknown_fields=True):
    """A row disagrees if an element differs by more than `absolute + relative * |primary|`.

    The score is the share of the row's elements that do. Text and whole numbers must be equal
    unless `absolute` is at least 1.
    """

    absolute: Annotated[float, Meta(ge=0.0)] = 1e-6
    relative: Annotated[float, Meta(ge=0.0)] = 0.01

    def compare(self, primary: Array, candidate: Array) -> Agreement:
        pair = matrices(primary, candidate)
        if pair is None:
            return nothing_alike(len(primary))
        before, after = pair
        text = before.dtype == object
        beyond = np.asarray(before != after) if text else self._beyond(before, after)
        return Agreement(np.asarray(beyond.any(axis=1)), row_means(beyond))

    def _beyond(self, before: Array, after: Array) -> Flags:
        a, b = before.astype(np.float64), after.astype(np.float64)
        with np.errstate(invalid="ignore", over="ignore"):
            near = np.abs(b - a) <= self.absolute + self.relative * np.abs(a)
        same = (a == b) | (np.isnan(a) & np.isnan(b))
        return np.asarray(~(same | (near & np.isfinite(a))))


class LabelFlip(Struct, frozen=True, tag="label_flip", forbid_unknown_fields=True):
    """A row disagrees if it decides otherwise; the score is 0 or 1.

    With `threshold`: element `column` is on the other side of it (at least: selected). Without:
    whole numbers, booleans and text must be equal; of floating-point vectors the largest element
    must be the same one, and a single number on the same side of 0.5.
    """

    threshold: float | None = None
    column: Index = 0

    def compare(self, primary: Array, candidate: Array) -> Agreement:
        pair = matrices(primary, candidate)
        if pair is None:
            return nothing_alike(len(primary))
        before, after = self.decisions(pair[0]), self.decisions(pair[1])
        flips = (before != after).any(axis=1)
        return Agreement(flips, flips.astype(np.float64))

    def decisions(self, rows: Array) -> Array:
        """What each row of a matrix decides; shape (rows, decisions)."""
        if rows.dtype == object or (rows.dtype.kind != "f" and self.threshold is None):
            return rows
        if self.threshold is None and rows.shape[1] > 1:
            return np.asarray(rows.argmax(axis=1)[:, None])
        threshold = 0.5 if self.threshold is None else self.threshold
        return np.asarray(column_of(rows, self.column).astype(np.float64) >= threshold)[:, None]


class ProbabilityShift(Struct, frozen=True, tag="probability_shift", forbid_unknown_fields=True):
    """A row disagrees if its probabilities moved by more than `shift`.

    Moved is total variation, half the sum of absolute differences, for a vector, and the absolute
    difference for a single probability. It is the score too; beyond 1 it counts as 1.
    """

    shift: Share = 0.05

    def compare(self, primary: Array, candidate: Array) -> Agreement:
        pair = floats(primary, candidate)
        if pair is None:
            return nothing_alike(len(primary))
        before, after = pair
        with np.errstate(invalid="ignore"):
            moved = np.abs(after - before).sum(axis=1)
        apart = moved / (2 if before.shape[1] > 1 else 1)
        apart = np.where(identical(before, after), 0.0, apart)
        score = np.where(np.isnan(apart), 1.0, np.minimum(apart, 1.0))
        return Agreement(np.asarray(score > self.shift), score)


class TopK(Struct, frozen=True, tag="top_k", forbid_unknown_fields=True):
    """A row disagrees if fewer than `overlap` of its k largest elements are among the other's.

    The score is the share of them that are not. Of equal elements the first ones count.
    """

    k: Annotated[int, Meta(ge=1)] = 5
    overlap: Share = 1.0

    def compare(self, primary: Array, candidate: Array) -> Agreement:
        pair = floats(primary, candidate)
        if pair is None:
            return nothing_alike(len(primary))
        first, second = (self._tops(rows) for rows in pair)
        k = max(min(self.k, pair[0].shape[1]), 1)
        lost = 1.0 - (first & second).sum(axis=1) / k
        return Agreement(lost > 1.0 - self.overlap + 1e-12, lost)

    def _tops(self, rows: Floats) -> Flags:
        places = np.argsort(-rows, axis=1, kind="stable")[:, : self.k]
        chosen = np.zeros(rows.shape, bool)
        np.put_along_axis(chosen, places, values=True, axis=1)
        return chosen


class Rank(Struct, frozen=True, tag="rank", forbid_unknown_fields=True):
    """A row disagrees if the order of its elements correlates by less than `agreement`.

    Spearman's correlation, of equal elements the first ranks first; the score is (1 - it) / 2.
    """

    agreement: Annotated[float, Meta(ge=-1.0, le=1.0)] = 0.9

    def compare(self, primary: Array, candidate: Array) -> Agreement:
        pair = floats(primary, candidate)
        if pair is None:
            return nothing_alike(len(primary))
        before, after = (_ranks(rows) for rows in pair)
        n = before.shape[1]
        squares = ((before - after) ** 2).sum(axis=1)
        rho = 1.0 - 6.0 * squares / (n * (n * n - 1)) if n > 1 else np.ones(len(before))
        return Agreement(np.asarray(rho < self.agreement - 1e-12), (1.0 - rho) / 2.0)


class EmbeddingCosine(Struct, frozen=True, tag="embedding_cosine", forbid_unknown_fields=True):
    """A row disagrees if the cosine distance, 1 - cosine, of the flattened rows exceeds `distance`.

    The score is half of it. A vector of zeros is at distance 0 from zeros and 1 from all others.
    """

    distance: Annotated[float, Meta(ge=0.0, le=2.0)] = 0.05

    def compare(self, primary: Array, candidate: Array) -> Agreement:
        pair = floats(primary, candidate)
        if pair is None:
            return nothing_alike(len(primary))
        a, b = pair
        norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            cosine = (a * b).sum(axis=1) / norms
        apart = np.where(norms == 0, 1.0, 1.0 - np.clip(cosine, -1.0, 1.0))
        apart = np.where(identical(a, b), 0.0, np.where(np.isnan(apart), 2.0, apart))
        return Agreement(apart > self.distance, apart / 2.0)


class DistributionDistance(
    Struct, frozen=True, tag="distribution", forbid_unknown_fields=True, kw_only=True
):
    """How far the distributions of element `column` over fixed bins lie apart, not row by row.

    edges: ascending; the bins are (-inf, e0), [e0, e1), ..., [en, inf). statistic: `js` is the
    Jensen-Shannon distance (root, base 2), `psi` the population stability index with half a count in
    each bin, `w1` the Wasserstein distance in bins divided by the number of bins less one.
    limit: what the distance may be.
    """

    edges: Annotated[tuple[float, ...], Meta(min_length=1, max_length=100)]
    statistic: Statistic = "js"
    column: Index = 0
    limit: Annotated[float, Meta(ge=0.0)] = 0.1

    def bins(self, output: Array) -> NDArray[np.int64]:
        """The bin of each row; a value that is no number falls into the last."""
        rows = numbers(output).reshape(len(output), -1).astype(np.float64)
        return np.searchsorted(np.asarray(self.edges), column_of(rows, self.column), side="right")


RowComparator = Tolerance | LabelFlip | ProbabilityShift | TopK | Rank | EmbeddingCosine
Comparator = RowComparator | DistributionDistance


def default_for(declared: TensorSpecification) -> RowComparator:
    """Chosen from datatype, shape, name and meaning, in this order of rules.

    Whole numbers, booleans and text: flips. Probabilities, confidences and scores, by name or
    meaning: the top five of 20 elements or more, else their shift. Embeddings and hidden states, by
    name or meaning, and vectors of 64 numbers or more: cosine distance. All else: 1 % tolerance.
    """
    if declared.datatype not in {"FP16", "FP32", "FP64", "BF16"}:
        return LabelFlip()
    words = f"{declared.name} {declared.meaning}".lower()
    elements = declared.row_elements or EMBEDDING_FROM
    if any(word in words for word in ("prob", "confidence", "softmax")):
        return TopK() if elements >= TOPS_FROM else ProbabilityShift()
    named = any(word in words for word in ("embedding", "hidden", "vector"))
    return EmbeddingCosine() if named or elements >= EMBEDDING_FROM else Tolerance()


def matrices(primary: Array, candidate: Array) -> tuple[Array, Array] | None:
    """Both as (rows, elements); None where shape or kind tells them apart already."""
    before, after = numbers(primary), numbers(candidate)
    alike = before.shape == after.shape and (before.dtype == object) == (after.dtype == object)
    if not alike or "V" in (before.dtype.kind, after.dtype.kind):
        return None
    elements = int(np.prod(before.shape[1:], dtype=np.int64))
    return before.reshape(len(before), elements), after.reshape(len(after), elements)


def floats(primary: Array, candidate: Array) -> tuple[Floats, Floats] | None:
    """`matrices` as float64; None for text as well."""
    pair = matrices(primary, candidate)
    if pair is None or pair[0].dtype == object:
        return None
    return pair[0].astype(np.float64), pair[1].astype(np.float64)


def column_of(rows: Array, column: int) -> Array:
    """One element of each row; the last one where a row has fewer."""
    return rows[:, min(column, rows.shape[1] - 1)]


def nothing_alike(rows: int) -> Agreement:
    return Agreement(np.ones(rows, bool), np.ones(rows))


def row_means(flags: Flags) -> Floats:
    """Zero for rows without elements."""
    return np.asarray(flags.sum(axis=1) / max(flags.shape[1], 1))


def identical(before: Floats, after: Floats) -> Flags:
    """Rows whose elements are equal, or NaN on both sides."""
    same = (before == after) | (np.isnan(before) & np.isnan(after))
    return np.asarray(same.all(axis=1))


def _ranks(rows: Floats) -> Floats:
    order = np.argsort(rows, axis=1, kind="stable")
    ranks = np.empty(rows.shape)
    np.put_along_axis(ranks, order, np.arange(rows.shape[1], dtype=np.float64)[None, :], axis=1)
    return ranks
