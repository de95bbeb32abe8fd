"""The trial of neighbours, held against the operators of the `onnx` package instead of our own graphs."""

from collections import Counter
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
from onnx import ModelProto, ValueInfoProto

from serving.core.tensors import Array, TensorSpecification
from serving.engine_settings import InferenceSettings
from serving.errors import ArtifactInvalid, ModelFailed, OutputInvalid
from serving.inference.dependence import find_dependence
from serving.inference.merging import check_outputs
from serving.inference.session import OnnxSession
from tests.conformance.cases import Case, all_cases, sampled
from tests.conformance.specifications import DATATYPES, unservable
from tests.conformance.verdicts import differs
from tests.inference.graphs import version_of, write
from tests.releases import bundle_of

EVERY: Final = {"all": 1, "sample": 4}
_BF16: Final = "BF16"


@pytest.mark.timeout(300)
def test_rows_that_share_a_batch_are_answered_as_alone(
    tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    """Every model whose tensors begin with the same number is offered as one that counts rows.

    It is refused, or runs every row alone, or gives each row of the case's own data the same answer
    alone and together.
    """
    cases = [case for case in all_cases() if case.kind != "light" and _rows(case) > 1]
    found = Counter(
        _offer(tmp_path, case)
        for case in sampled(cases, EVERY[pytestconfig.getoption("--onnx-models")])
    )

    wrong = [fate for fate in found if fate.startswith("wrong")]
    assert wrong == []
    assert found["alone"] > 5
    assert found["shared"] > 50


def _rows(case: Case) -> int:
    """The first dimension that all tensors of a case have in common; 0 where there is none."""
    if unservable(case) or _BF16 in {_datatype(each) for each in (*case.inputs, *case.outputs)}:
        return 0
    inputs, outputs = case.data_sets[0]
    values = [*inputs, *outputs]
    if len(values) != len(case.inputs) + len(case.outputs):
        return 0
    firsts = {np.shape(value)[:1] for value in values}
    return int(firsts.pop()[0]) if len(firsts) == 1 and () not in firsts else 0


def _offer(folder: Path, case: Case) -> str:
    """What becomes of the model when its first dimension is declared to count rows."""
    inputs, outputs = case.data_sets[0]
    content = _open(case.model).SerializeToString()
    version = version_of(
        content,
        inputs=[_counting(*each) for each in zip(case.inputs, inputs, strict=True)],
        outputs=[_counting(*each) for each in zip(case.outputs, outputs, strict=True)],
    )
    artifact = write(folder, content)
    try:
        session = OnnxSession.load(
            version, bundle_of(artifact), settings=InferenceSettings(device="cpu")
        )
        if find_dependence(session.run, version):
            return "alone"
    except (ArtifactInvalid, OutputInvalid):
        return "refused"
    rows = [_in_form(value) for value in inputs]
    try:
        alone = [session.run([each[i : i + 1] for each in rows]) for i in range(_rows(case))]
        together = session.run(rows)
        check_outputs(together, version=version, rows=_rows(case))
    except (ModelFailed, OutputInvalid):
        return "fails closed"
    wanted = [np.concatenate(column) for column in zip(*alone, strict=True)]
    return "shared" if not differs(case, together, wanted) else f"wrong: {case.name}"


def _open(model: ModelProto) -> ModelProto:
    """A copy whose inputs and outputs have as many rows as anybody likes."""
    copy = ModelProto()
    copy.CopyFrom(model)
    copy.graph.ClearField("value_info")
    for each in (*copy.graph.input, *copy.graph.output):
        if each.type.tensor_type.shape.dim:
            each.type.tensor_type.shape.dim[0].dim_param = "rows"
    return copy


def _counting(declared: ValueInfoProto, value: Any) -> TensorSpecification:
    return TensorSpecification(declared.name, _datatype(declared), (-1, *np.shape(value)[1:]))


def _datatype(declared: ValueInfoProto) -> str:
    return DATATYPES.get(declared.type.tensor_type.elem_type, "")


def _in_form(value: Any) -> Array:
    """A value as the replica holds it."""
    array = np.asarray(value)
    if array.dtype.kind not in "OUST":
        return array
    texts = np.empty(array.shape, object)
    texts.ravel()[:] = [str(each).encode() for each in array.ravel()]
    return texts
