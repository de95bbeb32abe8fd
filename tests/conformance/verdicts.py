"""What became of a test case, and the table of them all.

The product must answer what the case expects. It is excused only where ONNX Runtime itself, called
directly here, does not load or run the model, or gives the very answer that the product gave; and
where the protocol cannot carry a value, which the product must then say when it loads the model.
"""

import ctypes
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import ml_dtypes
import numpy as np
import onnxruntime  # type: ignore[import-untyped]  # it ships no types
from onnx import TensorProto
from onnxruntime import OrtValue

from serving.inference.session import RUNTIME_ERRORS
from tests.conformance.calls import Refused
from tests.conformance.cases import Case

BFLOAT16_RTOL: Final = 2**-6
"""Two units in the last place, as in the ONNX backend test runner."""

LOST_IN_ORT: Final[tuple[type[Exception], ...]] = (*RUNTIME_ERRORS, TypeError)


class Fate(StrEnum):
    PASSED = "passed"
    REFUSED = "refused at load: the protocol cannot carry it"
    NOT_RUN = "skipped: ONNX Runtime does not run it"
    RUNTIME_DIFFERS = "skipped: ONNX Runtime itself answers otherwise"
    FAILED = "FAILED"


@dataclass(frozen=True, slots=True)
class Verdict:
    case: Case
    fate: Fate
    reason: str = ""


def judge(case: Case, answers: Sequence[Any]) -> Verdict:
    """The verdict on what the product answered to every data set of a case."""
    for (inputs, expected), answer in zip(case.data_sets, answers, strict=True):
        if not isinstance(answer, Refused):
            difference = differs(case, answer, expected)
            if not difference:
                continue
            direct = run_directly(case, inputs)
            if isinstance(direct, list) and not differs(case, answer, direct):
                return Verdict(case, Fate.RUNTIME_DIFFERS, difference)
            return Verdict(case, Fate.FAILED, f"{difference}; directly: {str(direct)[:200]}")
        direct = run_directly(case, inputs)
        if answer.code != "model_error" or isinstance(direct, list):
            return Verdict(case, Fate.FAILED, f"{answer.code}: {answer.message}")
        return Verdict(case, Fate.NOT_RUN, direct)
    return Verdict(case, Fate.PASSED)


def differs(case: Case, outputs: Sequence[Any], expected: Sequence[Any]) -> str:
    """The first difference in words; empty when there is none."""
    if len(outputs) != len(expected):
        return f"{len(outputs)} outputs instead of {len(expected)}"
    for index, (output, wanted) in enumerate(zip(outputs, expected, strict=True)):
        try:
            _assert_similar(np.asarray(output), np.asarray(wanted), case)
        except AssertionError as error:
            text = " ".join(str(error).split())
            return f"output {index}: {text.partition('atol=1e-07 ')[2] or text}"[:80]
    return ""


def _assert_similar(output: Any, wanted: Any, case: Case) -> None:
    assert output.shape == wanted.shape, f"shape {output.shape} instead of {wanted.shape}"
    if wanted.dtype.kind in "OUST":
        assert output.astype(object).tolist() == wanted.astype(object).tolist(), "other strings"
        return
    assert output.dtype == wanted.dtype, f"{output.dtype} instead of {wanted.dtype}"
    rtol = case.rtol
    if output.dtype.name == "bfloat16":
        rtol = max(rtol, BFLOAT16_RTOL)
        output, wanted = output.astype(np.float32), wanted.astype(np.float32)
    np.testing.assert_allclose(output, wanted, rtol=rtol, atol=case.atol)


def run_directly(case: Case, inputs: Sequence[Any]) -> Any:
    """What ONNX Runtime answers without the product around it; why not, where it does not."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(
            case.model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        names = [each.name for each in case.inputs]
        feed = dict(zip(names, map(_to_value, inputs), strict=True))
        return [_from_value(value) for value in session.run_with_ort_values(None, feed)]
    except LOST_IN_ORT as error:
        return shortened(str(error))


def _to_value(value: Any) -> Any:
    array = np.asarray(value)
    if array.dtype == ml_dtypes.bfloat16:
        return OrtValue.ortvalue_from_numpy_with_onnx_type(
            array.view(np.uint16), TensorProto.BFLOAT16
        )
    return OrtValue.ortvalue_from_numpy(array.astype(object) if array.dtype.kind == "U" else array)


def _from_value(value: Any) -> Any:
    if value.data_type() != "tensor(bfloat16)":
        return value.numpy()
    content = ctypes.string_at(value.data_ptr(), value.tensor_size_in_bytes())
    return np.frombuffer(content, ml_dtypes.bfloat16).reshape(value.shape())


def shortened(text: str) -> str:
    """ONNX Runtime's reason without the places in its source and the names in the model."""
    text = " ".join(text.split())
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : (\w+) : ", r"\1: ", text)
    text = re.sub(r"/onnxruntime_src/.*?\w\(.*\) ", "", text)
    text = re.sub(r"Name:'[^']*'|\(\"[^\"]*\", (\w+), \"\", -1\).*", r"\1", text)
    return text[:110]


def table(verdicts: Iterable[Verdict]) -> str:
    """All verdicts: counted by kind and fate, then every case that did not pass, by reason."""
    counts: Counter[tuple[str, Fate]] = Counter()
    reasons: dict[tuple[Fate, str], list[str]] = defaultdict(list)
    for each in verdicts:
        counts[each.case.kind, each.fate] += 1
        if each.fate != Fate.PASSED:
            reasons[each.fate, each.reason].append(each.case.name)
    kinds = sorted({kind for kind, _ in counts})
    lines = [f"{'':52}{''.join(f'{kind:>19}' for kind in kinds)}"]
    lines += [f"{fate:52}{''.join(f'{counts[kind, fate]:>19}' for kind in kinds)}" for fate in Fate]
    for (fate, reason), names in sorted(reasons.items()):
        lines += ["", f"{fate} ({len(names)}): {reason}", *(f"    {name}" for name in names)]
    return "\n".join(lines)
