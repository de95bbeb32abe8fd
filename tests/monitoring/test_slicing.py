import json

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from serving.monitoring.slicing import Slicer
from serving.monitoring.specification import OPEN_VALUES, Slice

AGES = Slice(by="age", edges=(25.0, 60.0))


def rows_of(slicer: Slicer, **features: np.ndarray) -> dict[str, list[int]]:
    return {cut.name: np.flatnonzero(cut.rows).tolist() for cut in slicer.cuts(features)}


def test_edges_belong_to_the_slice_above() -> None:
    """A number is in exactly one slice; what is no number is in none."""
    ages = np.array([24.9, 25.0, 59.0, 60.0, np.nan])

    expected = {"age<25": [0], "25<=age<60": [1, 2], "age>=60": [3]}
    assert rows_of(Slicer([AGES]), age=ages) == expected


def test_values_are_numbers_text_and_flags() -> None:
    """A value is named as people write it, whatever the array's type; others are in no slice."""
    slicer = Slicer(
        [
            Slice(by="sex", values=(1, 2)),
            Slice(by="tier", values=("gold",)),
            Slice(by="new", values=(True,)),
        ]
    )
    features = {
        "sex": np.array([1.0, 2.0, 3.0], np.float32),
        "tier": np.array(["gold", "tin", "gold"], object),
        "new": np.array([True, False, True]),
    }

    expected = {"sex=1": [0], "sex=2": [1], "tier=gold": [0, 2], "new=true": [0, 2]}
    assert rows_of(slicer, **features) == expected


def test_an_open_slice_distinguishes_what_it_meets_first() -> None:
    """The first values keep their slices, later ones have none, and a restart remembers which."""
    slicer = Slicer([Slice(by="who")])
    first = rows_of(slicer, who=np.array([f"u{i:02}" for i in range(OPEN_VALUES - 1)]))
    resumed = Slicer([Slice(by="who")])
    resumed.resume(json.loads(json.dumps(slicer.seen())))
    later = rows_of(resumed, who=np.array(["x", "y", "u00"]))

    assert len(first) == OPEN_VALUES - 1
    assert later == {"who=x": [0], "who=u00": [2]}


def test_the_family_counts_every_slice_there_can_be() -> None:
    """Three between two edges, two values, twenty of an open one; protected ones apart."""
    cuts = [AGES, Slice(by="sex", values=(1, 2), protected=True), Slice(by="who")]
    slicer = Slicer(cuts)

    assert (slicer.family, slicer.family_of_protected) == (3 + 2 + OPEN_VALUES, 2)
    assert [slicer.feature_of(name) for name in ("25<=age<60", "sex=1", "who=x", "z")] == [
        "age",
        "sex",
        "who",
        "",
    ]
    assert (slicer.protects("sex=1"), slicer.protects("age<25")) == (True, False)


def test_a_feature_that_did_not_come_has_no_slice() -> None:
    """Records without the feature are in none of its slices."""
    assert rows_of(Slicer([AGES]), other=np.array([1])) == {}


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30))
def test_slices_between_edges_part_the_records(values: list[float]) -> None:
    """Every number is in exactly one of them."""
    found = rows_of(Slicer([AGES]), age=np.array(values))

    assert sorted(row for rows in found.values() for row in rows) == list(range(len(values)))
