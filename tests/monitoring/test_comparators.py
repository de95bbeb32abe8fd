import math
from collections.abc import Sequence

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from serving.core.tensors import DTYPES, Array, TensorSpecification
from serving.monitoring.comparators import (
    Comparator,
    DistributionDistance,
    EmbeddingCosine,
    LabelFlip,
    ProbabilityShift,
    Rank,
    RowComparator,
    Tolerance,
    TopK,
    default_for,
)

ROW_COMPARATORS: Sequence[RowComparator] = (
    Tolerance(),
    LabelFlip(),
    LabelFlip(threshold=0.3),
    ProbabilityShift(),
    TopK(k=2),
    Rank(),
    EmbeddingCosine(),
)
MATRICES = hnp.arrays(
    np.float32, (4, 3), elements=st.floats(-100, 100, width=32) | st.just(math.nan)
)


def name_of(value: object) -> str:
    threshold = getattr(value, "threshold", None)
    return type(value).__name__ + ("" if threshold is None else f"-{threshold}")


def text(*values: bytes) -> Array:
    return np.array(values, object)


@pytest.mark.parametrize("comparator", ROW_COMPARATORS, ids=name_of)
@given(rows=MATRICES)
def test_equal_answers_agree(comparator: RowComparator, rows: Array) -> None:
    """Whatever the comparator, an answer agrees with itself at score 0."""
    found = comparator.compare(rows, rows.copy())

    assert not found.disagrees.any()
    assert found.score == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("comparator", ROW_COMPARATORS, ids=name_of)
@given(before=MATRICES, after=MATRICES)
def test_scores_lie_between_zero_and_one(
    comparator: RowComparator, before: Array, after: Array
) -> None:
    """One flag and one score for each row, whatever the answers."""
    found = comparator.compare(before, after)

    assert found.disagrees.shape == found.score.shape == (4,)
    assert ((found.score >= 0.0) & (found.score <= 1.0)).all()


@pytest.mark.parametrize("comparator", ROW_COMPARATORS, ids=name_of)
def test_another_shape_is_another_answer(comparator: RowComparator) -> None:
    """Rows of another length, and text beside numbers, disagree in every row with score 1."""
    rows = np.zeros((2, 3), np.float32)
    for other in (np.zeros((2, 4), np.float32), text(b"a", b"b").reshape(2, 1)):
        found = comparator.compare(rows, other)
        assert found.disagrees.tolist() == [True, True]
        assert found.score.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("comparator", ROW_COMPARATORS, ids=name_of)
def test_no_rows_give_no_rows(comparator: RowComparator) -> None:
    """An empty batch is compared without an error."""
    rows = np.zeros((0, 3), np.float32)

    assert comparator.compare(rows, rows).disagrees.shape == (0,)


def test_tolerance_is_absolute_plus_relative() -> None:
    """An element may differ by the absolute amount and a share of the primary's."""
    before = np.array([[1.0, 100.0], [1.0, 100.0], [math.nan, 0.0], [math.inf, 0.0]])
    after = np.array([[1.09, 100.0], [1.2, 102.0], [math.nan, 0.0], [5.0, 0.0]])
    found = Tolerance(absolute=0.1, relative=0.01).compare(before, after)

    assert found.disagrees.tolist() == [False, True, False, True]
    assert found.score.tolist() == [0.0, 1.0, 0.0, 0.5]


def test_labels_flip_by_value_largest_element_or_threshold() -> None:
    """Whole numbers and text by equality, vectors by their largest, scores by their side."""
    labels = LabelFlip().compare(np.array([1, 2]), np.array([1, 3]))
    words = LabelFlip().compare(text(b"cat", b"dog"), text(b"cat", b"cow"))
    vectors = LabelFlip().compare(
        np.array([[0.6, 0.4], [0.9, 0.1]]), np.array([[0.4, 0.6], [0.8, 0.2]])
    )
    single = LabelFlip().compare(np.array([0.4, 0.6]), np.array([0.5, 0.7]))
    second = LabelFlip(threshold=0.3, column=1).compare(
        np.array([[0.9, 0.1], [0.6, 0.4]]), np.array([[0.8, 0.2], [0.75, 0.25]])
    )

    assert labels.disagrees.tolist() == [False, True]
    assert words.disagrees.tolist() == [False, True]
    assert vectors.disagrees.tolist() == [True, False]
    assert single.disagrees.tolist() == [True, False]
    assert second.disagrees.tolist() == [False, True]


def test_probabilities_shift_by_total_variation() -> None:
    """Half the sum of differences of a vector; the difference of a single probability."""
    vector = ProbabilityShift(0.05).compare(
        np.array([[0.5, 0.5], [0.5, 0.5]]), np.array([[0.54, 0.46], [0.6, 0.4]])
    )
    single = ProbabilityShift(0.05).compare(np.array([0.5]), np.array([0.6]))

    assert vector.score == pytest.approx([0.04, 0.1])
    assert vector.disagrees.tolist() == [False, True]
    assert single.score == pytest.approx([0.1])


def test_top_k_compares_sets_not_orders() -> None:
    """The two largest in another order agree; with one of two replaced, half is lost."""
    before = np.array([[3.0, 2.0, 1.0, 0.0]] * 2)
    after = np.array([[2.0, 3.0, 1.0, 0.0], [3.0, 1.0, 2.0, 0.0]])
    strict = TopK(k=2).compare(before, after)
    lenient = TopK(k=2, overlap=0.5).compare(before, after)

    assert strict.disagrees.tolist() == [False, True]
    assert strict.score.tolist() == [0.0, 0.5]
    assert not lenient.disagrees.any()


def test_rank_is_spearmans_correlation() -> None:
    """The order turned round is correlation -1; two neighbours swapped among five are .9."""
    before = np.array([[1.0, 2.0, 3.0, 4.0, 5.0]] * 2)
    after = np.array([[5.0, 4.0, 3.0, 2.0, 1.0], [2.0, 1.0, 3.0, 4.0, 5.0]])
    found = Rank(agreement=0.95).compare(before, after)

    assert found.score == pytest.approx([1.0, 0.05])
    assert found.disagrees.tolist() == [True, True]


def test_embeddings_are_compared_by_angle() -> None:
    """Length does not matter, direction does; zeros are like zeros only; NaN is like nothing."""
    before = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 0.0], [0.0, 0.0], [math.nan, 1.0]])
    after = np.array([[7.0, 0.0], [0.0, 1.0], [0.0, 0.0], [1.0, 0.0], [2.0, 1.0]])
    found = EmbeddingCosine().compare(before, after)

    assert found.disagrees.tolist() == [False, True, False, True, True]
    assert found.score.tolist() == [0.0, 0.5, 0.0, 0.5, 1.0]


def test_half_precision_answers_are_numbers() -> None:
    """BF16, which numpy does not know, is compared by its value."""
    one = np.array([0x3F80, 0x4000], "<u2").view(DTYPES["BF16"])
    other = np.array([0x3F80, 0x3F80], "<u2").view(DTYPES["BF16"])

    assert Tolerance().compare(one, other).disagrees.tolist() == [False, True]


def test_bins_are_closed_below() -> None:
    """An edge belongs to the bin above it; what is no number falls into the last one."""
    comparator = DistributionDistance(edges=(0.0, 1.0), column=1)
    rows = np.array([[9.0, -1.0], [9.0, 0.0], [9.0, 1.0], [9.0, math.nan]])

    assert comparator.bins(rows).tolist() == [0, 1, 2, 2]


@pytest.mark.parametrize(
    ("declared", "expected"),
    [
        (TensorSpecification("label", "INT64", (-1,)), LabelFlip()),
        (TensorSpecification("words", "BYTES", (-1, -1)), LabelFlip()),
        (TensorSpecification("probabilities", "FP32", (-1, 2)), ProbabilityShift()),
        (
            TensorSpecification("out", "FP32", (-1, 4), "Confidence of each turn"),
            ProbabilityShift(),
        ),
        (TensorSpecification("out", "FP32", (-1, 214), "Confidence per kind"), TopK()),
        (TensorSpecification("last_hidden_state", "FP32", (-1, -1, 8)), EmbeddingCosine()),
        (TensorSpecification("features", "FP16", (-1, 384)), EmbeddingCosine()),
        (TensorSpecification("price", "FP64", (-1, 1), "Euros"), Tolerance()),
    ],
    ids=lambda value: value.name if isinstance(value, TensorSpecification) else name_of(value),
)
def test_the_declaration_chooses_the_comparator(
    declared: TensorSpecification, expected: RowComparator
) -> None:
    """Datatype first, then what name and meaning say, then the number of elements."""
    assert default_for(declared) == expected


@pytest.mark.parametrize(
    "comparator", [*ROW_COMPARATORS, DistributionDistance(edges=(0.5,))], ids=name_of
)
def test_comparators_are_json(comparator: Comparator) -> None:
    """Each is written with its type and read back as it was."""
    assert msgspec.json.decode(msgspec.json.encode(comparator), type=Comparator) == comparator
