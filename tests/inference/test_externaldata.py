"""AR-07 to AR-09: weights in other files stay inside the artifact."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from serving.inference.externaldata import check_external_data
from serving.inference.reports import Rejected
from tests.specimens import MODEL, content_of, graph_of, lay_out, look

WEIGHTS = "weights.bin"
EIGHT = np.array([3, 5], dtype=np.float32).tobytes()


def tensor(location: str = WEIGHTS, name: str = "weights", **fields: str) -> Any:
    """Two numbers in another file."""
    made = TensorProto(
        name=name,
        data_type=TensorProto.FLOAT,
        dims=[2],
        data_location=TensorProto.EXTERNAL,
    )
    for key, value in {"location": location, **fields}.items():
        made.external_data.add(key=key, value=value)
    return made


def model_with(*tensors: Any) -> bytes:
    nodes = [helper.make_node("Add", ["input", tensors[0].name], ["output"])]
    return content_of(graph_of(nodes, initializers=tensors))


def test_weights_in_a_file_of_the_artifact_are_used(tmp_path: Path) -> None:
    """A model with external weights passes, and its answers come from them."""
    report = look(tmp_path, {MODEL: model_with(tensor()), WEIGHTS: EIGHT})
    assert (report.code, report.golden[0].answers[0].shape) == ("", (1, 2))


@pytest.mark.parametrize(
    "location", ["../outside.bin", "/etc/hostname", "sub/../../outside.bin", "a\\b", "C:x", ""]
)
def test_ar_07_a_location_that_leaves_the_artifact_is_refused(
    location: str, tmp_path: Path
) -> None:
    """Neither `..` nor an absolute or foreign path is looked at."""
    (tmp_path / "outside.bin").write_bytes(EIGHT)
    report = look(tmp_path, {MODEL: model_with(tensor(location))})
    assert report.code == "external_data"


@pytest.mark.parametrize("kind", ["symlink", "hardlink", "folder link", "fifo"])
def test_ar_07_links_are_refused_wherever_they_lead(kind: str, tmp_path: Path) -> None:
    """A name inside the artifact that is another file's is refused; ONNX Runtime loads hard links."""
    folder = lay_out(tmp_path, {MODEL: b""})
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / WEIGHTS).write_bytes(EIGHT)
    location = WEIGHTS
    if kind == "symlink":
        (folder / WEIGHTS).symlink_to(outside / WEIGHTS)
    elif kind == "hardlink":
        (folder / WEIGHTS).hardlink_to(outside / WEIGHTS)
    elif kind == "fifo":
        os.mkfifo(folder / WEIGHTS)
    else:
        (folder / "sub").symlink_to(outside)
        location = f"sub/{WEIGHTS}"
    with pytest.raises(Rejected) as refused:
        check_external_data(folder, [tensor(location)], MODEL)
    assert refused.value.code == "external_data"


@pytest.mark.parametrize(
    "fields",
    [
        {"offset": "-1"},
        {"offset": "9"},
        {"length": "-8"},
        {"length": "9"},
        {"offset": "4", "length": "8"},
        {"length": "eight"},
        {"offset": "0x0"},
        {"offset": "٣"},
        {"offset": "9" * 40},
        {"basepath": "/"},
        {"__class__": "x"},
    ],
    ids=str,
)
def test_ar_08_ranges_and_fields_are_what_they_may_be(
    fields: dict[str, str], tmp_path: Path
) -> None:
    """Offsets and lengths are whole numbers inside the file, and there are no other fields."""
    report = look(tmp_path, {MODEL: model_with(tensor(**fields)), WEIGHTS: EIGHT})
    assert report.code == "external_data"


def test_ar_08_two_tensors_do_not_share_bytes(tmp_path: Path) -> None:
    """Overlapping ranges are refused."""
    tensors = (tensor(offset="0", length="8"), tensor(name="more", offset="4", length="8"))
    report = look(tmp_path, {MODEL: model_with(*tensors), WEIGHTS: EIGHT * 2})
    assert (report.code, "shares bytes" in report.reason) == ("external_data", True)


@pytest.mark.parametrize("base", ["", ".", "relative"])
def test_ar_09_without_an_absolute_folder_there_is_no_containment(base: str) -> None:
    """An empty base directory would void every check, so it is refused itself."""
    with pytest.raises(Rejected, match="absolute"):
        check_external_data(Path(base), [tensor()], MODEL)
