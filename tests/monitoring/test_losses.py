import math

import numpy as np
import pytest

from serving.core.tensors import Array
from serving.monitoring.losses import loss_of
from serving.monitoring.specification import LossName

VECTORS = np.array([[0.8, 0.2], [0.3, 0.7]], np.float32)
SINGLES = np.array([0.2, 0.7], np.float32)
TRUTH = np.array([0, 0])


@pytest.mark.parametrize(
    "answers", [VECTORS, SINGLES, SINGLES[:, None]], ids=["two", "one", "column"]
)
@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        ("zero_one", [0.0, 1.0]),
        ("brier", [0.04, 0.49]),
        ("log", [-math.log(0.8), -math.log(0.3)]),
    ],
)
def test_one_and_two_columns_of_probabilities_lose_the_same(
    answers: Array, loss: LossName, expected: list[float]
) -> None:
    """A probability of 1 and the pair of probabilities say the same, and score the same."""
    assert loss_of(loss, answers, TRUTH) == pytest.approx(expected, rel=1e-6)


def test_labels_are_right_or_wrong() -> None:
    """Numbers are compared as they are, and text with its bytes."""
    numbers = loss_of("zero_one", np.array([1, 2, 3]), np.array([1.0, 2.0, 4.0]))
    words = loss_of("zero_one", np.array([b"cat", b"dog"], object), np.array(["cat", "cow"]))

    assert numbers.tolist() == [0.0, 0.0, 1.0]
    assert words.tolist() == [0.0, 1.0]


def test_losses_of_many_classes_stay_bounded() -> None:
    """A certain mistake is 1 by Brier's score and finite by the logarithm."""
    certain = np.array([[0.0, 1.0, 0.0]])

    assert loss_of("brier", certain, np.array([0])).tolist() == [1.0]
    assert loss_of("log", certain, np.array([0])) == pytest.approx([-math.log(1e-15)])
