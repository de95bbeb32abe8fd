"""The backend test cases that ship with the `onnx` package, in one form: a model, inputs, outputs.

Single operators (made by the package's own generators, which need some seconds), the small networks
it keeps on disk, and its light copies of large networks, whose weights are constants.
"""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, ValueInfoProto, numpy_helper
from onnx.backend.test import loader

FOLDERS: Final = ("simple", "pytorch-operator", "pytorch-converted")
LIGHT: Final = Path(loader.DATA_DIR) / "light"

Values = Sequence[Any]
"""Arrays; lists and None where a value is a sequence or an absent optional."""


@dataclass(frozen=True, slots=True)
class Case:
    """One model and what it must answer. Tolerances are those of the ONNX backend test runner."""

    name: str
    kind: str
    model: ModelProto
    data_sets: tuple[tuple[Values, Values], ...]
    rtol: float = 1e-3
    atol: float = 1e-7

    @property
    def inputs(self) -> list[ValueInfoProto]:
        """The inputs that must be fed: an initializer of the same name is a default."""
        defaults = {each.name for each in self.model.graph.initializer}
        return [each for each in self.model.graph.input if each.name not in defaults]

    @property
    def outputs(self) -> list[ValueInfoProto]:
        return list(self.model.graph.output)


@cache
def all_cases() -> tuple[Case, ...]:
    """Every case with data, in the order of names; light networks last."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        small = [*_nodes(), *_folders()]
    return (*sorted(small, key=lambda case: (case.kind, case.name)), *_light_networks())


def sampled(cases: Sequence[Case], every: int) -> list[Case]:
    """One of `every` neighbours in the order of names, so of every family of operators."""
    return list(cases[::every])


def _nodes() -> Iterator[Case]:
    for each in loader.load_node_model_tests():
        assert each.model is not None
        data_sets = tuple(
            (_normal(inputs), _normal(outputs)) for inputs, outputs in each.data_sets or ()
        )
        yield Case(each.name, "node", each.model, data_sets, each.rtol, each.atol)


def _normal(values: Sequence[Any]) -> list[Any]:
    return [
        numpy_helper.to_array(value) if isinstance(value, TensorProto) else value
        for value in values
    ]


def _folders() -> Iterator[Case]:
    for kind in FOLDERS:
        for each in loader.load_model_tests(kind=kind):
            folder = Path(str(each.model_dir))
            model = onnx.load(folder / "model.onnx")
            data_sets = tuple(
                (_read(data, "input", model.graph.input), _read(data, "output", model.graph.output))
                for data in sorted(folder.glob("test_data_set_*"))
            )
            yield Case(each.name, kind, model, data_sets, each.rtol, each.atol)


def _read(folder: Path, kind: str, declared: Sequence[ValueInfoProto]) -> list[Any]:
    count = len(list(folder.glob(f"{kind}_*.pb")))
    return [
        _value((folder / f"{kind}_{index}.pb").read_bytes(), each)
        for index, each in zip(range(count), declared, strict=False)
    ]


def _value(content: bytes, declared: ValueInfoProto) -> Any:
    if declared.type.WhichOneof("value") != "tensor_type":
        return None
    tensor = TensorProto()
    tensor.ParseFromString(content)
    return numpy_helper.to_array(tensor)


def _light_networks() -> Iterator[Case]:
    for file in sorted(LIGHT.glob("*.onnx")):
        model = onnx.load(file)
        output = TensorProto()
        output.ParseFromString(file.with_name(f"{file.stem}_output_0.pb").read_bytes())
        case = Case(f"test_{file.stem}", "light", model, ())
        inputs = [_ramp(each) for each in case.inputs]
        yield Case(case.name, "light", model, ((inputs, [numpy_helper.to_array(output)]),))


def _ramp(declared: ValueInfoProto) -> Any:
    """What the package feeds its light networks."""
    shape = tuple(each.dim_value or 1 for each in declared.type.tensor_type.shape.dim)
    count = int(np.prod(shape))
    return (np.arange(count).reshape(shape) / count).astype(np.float32)
