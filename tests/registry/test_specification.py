import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from serving.core.models import Caching, ModelVersion, Padding
from serving.core.tensors import TensorSpecification
from serving.errors import SpecificationInvalid
from serving.registry.specification import model_version, read_specification

SPECIFICATION: dict[str, Any] = {
    "model": "reader",
    **dict.fromkeys(("owner", "description", "task", "licence", "source"), "somebody"),
    "inputs": [
        {"name": "tokens", "datatype": "INT64", "shape": [-1, -1]},
        {"name": "text", "datatype": "BYTES", "shape": [-1, -1]},
        {"name": "page", "datatype": "FP32", "shape": [-1, -1, -1]},
    ],
    "outputs": [{"name": "states", "datatype": "FP32", "shape": [-1, -1, 4]}],
    "batching": {
        "padding": {
            "buckets": [16, 32],
            "inputs": {"tokens": 3},
            "outputs": ["states"],
            "mask": {"name": "mask", "datatype": "INT32"},
        }
    },
    "versions": [
        {
            "version": "1",
            "file": "1.onnx",
            "sha256": "ab" * 32,
            "description": "The first.",
            "provenance": "Written by hand.",
        }
    ],
}
PLAIN: dict[str, Any] = {**SPECIFICATION, "batching": {}}


def read(folder: Path, specification: dict[str, Any]) -> ModelVersion:
    """The version that this specification makes."""
    file = folder / "reader" / "model.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(yaml.safe_dump(specification))
    found = read_specification(file)
    return model_version(found, found.versions[0])


def changed(path: str, value: object) -> dict[str, Any]:
    """The good specification with one field replaced."""
    specification = copy.deepcopy(SPECIFICATION)
    *parents, last = [int(key) if key.isdigit() else key for key in path.split(".")]
    part: Any = specification
    for key in parents:
        part = part[key]
    part[last] = value
    return specification


def test_padding_reaches_the_data_plane(tmp_path: Path) -> None:
    """Buckets, pad values, what is cut and the mask arrive as the replica wants them."""
    version = read(tmp_path, SPECIFICATION)

    mask = TensorSpecification("mask", "INT32", (-1, -1))
    assert version.padding == Padding((16, 32), (("tokens", 3),), ("states",), mask)
    assert version.fed == (*version.inputs, mask)
    assert version.batched


@pytest.mark.parametrize(
    ("shapes", "extra", "batched"),
    [
        ([[-1, 2], [-1]], {}, True),
        ([[1, 2], [-1]], {}, False),
        ([[-1, 2], []], {}, False),
        ([[-1, 2], [0]], {}, False),
        ([[-1, 2], [-1]], {"batched": False}, False),
    ],
    ids=["rows", "fixed-batch", "scalar", "empty", "said"],
)
def test_shapes_say_whether_rows_are_counted(
    tmp_path: Path, shapes: list[list[int]], extra: dict[str, Any], batched: bool
) -> None:
    """Only where every tensor's first dimension varies are there rows; then tensors know it, too."""
    inputs = [{"name": "a", "datatype": "FP32", "shape": shapes[0]}]
    outputs = [{"name": "b", "datatype": "FP32", "shape": shapes[1]}]

    version = read(tmp_path, {**PLAIN, "inputs": inputs, "outputs": outputs, **extra})

    assert version.batched is batched
    assert [each.batched for each in (*version.inputs, *version.outputs)] == [batched] * 2
    assert version.inputs[0].row_shape == tuple(shapes[0][1:] if batched else shapes[0])


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("batching.padding.buckets", [32, 16], "must ascend"),
        ("batching.padding.buckets", [], "buckets"),
        ("batching.padding.buckets", [0], "buckets"),
        ("batching.padding.buckets", list(range(1, 20)), "at most 16"),
        ("batching.padding.inputs", {}, "inputs"),
        ("batching.padding.inputs", {"nobody": 0}, "'nobody' must be one of the inputs"),
        ("batching.padding.inputs", {"page": 0}, "exactly one dimension"),
        ("batching.padding.inputs", {"text": 0}, "holds no numbers"),
        ("batching.padding.outputs", ["tokens"], "must be one of the outputs"),
        ("batching.padding.mask", {"name": "tokens"}, "give it a pad value"),
        ("batching.padding.mask", {"name": "m", "datatype": "INT3"}, "must be one of"),
        ("batched", False, "there are no rows to pad"),
        ("outputs.0.shape", [4], "there are no rows to pad"),
    ],
)
def test_padding_that_makes_no_sense_is_refused(
    tmp_path: Path, path: str, value: object, words: str
) -> None:
    """What cannot be padded, or not as described, is named when the file is read."""
    with pytest.raises(SpecificationInvalid, match=words):
        read(tmp_path, changed(path, value))


def test_batched_against_its_shapes_is_refused(tmp_path: Path) -> None:
    """Nobody can say that rows are counted where a shape says otherwise."""
    outputs = [{"name": "b", "datatype": "FP32", "shape": [3]}]

    with pytest.raises(SpecificationInvalid, match="does not count rows"):
        read(tmp_path, {**PLAIN, "outputs": outputs, "batched": True})


def test_a_cache_is_off_until_it_is_asked_for(tmp_path: Path) -> None:
    """Only the version's own definition makes workers remember its answers, and says how many."""
    cached = {**PLAIN, "cache": {"max_bytes": 4096, "ttl_s": 60}}

    assert read(tmp_path / "a", PLAIN).cache is None
    assert read(tmp_path / "b", cached).cache == Caching(max_bytes=4096, ttl_s=60.0)


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ({"cache": {"max_bytes": 10, "ttl_s": 60}}, "cache.max_bytes"),
        ({"cache": {"max_bytes": 4096, "ttl_s": 0}}, "cache.ttl_s"),
        ({"cache": {"max_bytes": 4096}}, "cache.ttl_s"),
        (
            {
                "cache": {"max_bytes": 4096, "ttl_s": 1},
                "recording": {"fields": {"states": "encrypt"}},
            },
            "may not be remembered",
        ),
    ],
    ids=["small", "no time", "for ever", "not to be recorded"],
)
def test_a_cache_that_makes_no_sense_is_refused(
    tmp_path: Path, extra: dict[str, Any], words: str
) -> None:
    """A cache has a size and a time, and none of what may not be recorded as it is."""
    with pytest.raises(SpecificationInvalid, match=words):
        read(tmp_path, {**PLAIN, **extra})
