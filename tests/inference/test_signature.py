from dataclasses import dataclass, replace

import pytest

from serving.core.models import Padding
from serving.core.tensors import DTYPES, TensorSpecification
from serving.errors import ArtifactInvalid
from serving.inference.signature import DATATYPES, check_signature
from tests.inference import graphs


@dataclass
class Described:
    """What ONNX Runtime says about an input or output."""

    name: str
    type: str
    shape: list[int | str | None]


FLOATS = "tensor(float)"
VERSION = graphs.version_of(
    b"",
    inputs=[TensorSpecification("input", "FP32", (-1, 2))],
    outputs=[TensorSpecification("output", "FP32", (-1, 3))],
)
INPUT = Described("input", FLOATS, ["rows", 2])
OUTPUT = Described("output", FLOATS, [None, 3])


def test_accepts_what_was_declared() -> None:
    """Equal names, datatypes and dimensions pass, whatever the free dimension is called."""
    check_signature(VERSION, inputs=[INPUT], outputs=[OUTPUT])


def test_accepts_a_declaration_narrower_than_the_model() -> None:
    """A dimension that the model leaves free may be declared fixed."""
    check_signature(VERSION, inputs=[Described("input", FLOATS, ["rows", "any"])], outputs=[OUTPUT])


def test_accepts_an_output_of_unknown_rank() -> None:
    """An output whose rank ONNX Runtime does not know is left to the check of each answer."""
    check_signature(VERSION, inputs=[INPUT], outputs=[Described("output", FLOATS, [])])


@pytest.mark.parametrize(
    ("node", "difference"),
    [
        (Described("other", FLOATS, ["rows", 2]), "the model has no input 'input'"),
        (Described("other", FLOATS, ["rows", 2]), "input 'other' is not declared"),
        (
            Described("input", "tensor(double)", ["rows", 2]),
            "is FP64 in the model, FP32 in the specification",
        ),
        (
            Described("input", "tensor(float8e4m3fn)", ["rows", 2]),
            "is a tensor(float8e4m3fn), which is not served",
        ),
        (Described("input", FLOATS, ["rows"]), "has rank 1 in the model, 2 in the specification"),
        (Described("input", FLOATS, []), "has no dimension that counts rows"),
        (Described("input", FLOATS, [3, 2]), "has its rows fixed at 3"),
        (Described("input", FLOATS, ["rows", 5]), "has dimension 1 fixed at 5, declared as 2"),
        (Described("input", "seq(tensor(float))", []), "is a sequence, not a tensor"),
        (Described("input", "optional(tensor(float))", []), "is an optional value, not a tensor"),
    ],
    ids=lambda value: value.replace(" ", "-") if isinstance(value, str) else "",
)
def test_names_the_difference(node: Described, difference: str) -> None:
    """A model that differs from its specification is refused with the difference in words."""
    with pytest.raises(ArtifactInvalid) as refusal:
        check_signature(VERSION, inputs=[node], outputs=[OUTPUT])

    assert difference in refusal.value.message


def test_names_every_difference_at_once() -> None:
    """Differences of inputs and outputs come in one refusal."""
    with pytest.raises(ArtifactInvalid) as refusal:
        check_signature(
            VERSION,
            inputs=[Described("input", FLOATS, [1, 9])],
            outputs=[Described("output", "tensor(int64)", [None, 3])],
        )

    assert refusal.value.message.count(";") == 2


def test_knows_every_datatype_that_is_served() -> None:
    """Each datatype of the protocol with a numpy form has a name in ONNX Runtime."""

    assert set(DATATYPES.values()) == set(DTYPES)


@pytest.mark.parametrize(
    ("shape", "declared", "difference"),
    [
        ([2, 3], (2, 3), ""),
        ([], (), ""),
        ([2, "any"], (2, 7), ""),
        ([2, 3], (-1, 3), "has dimension 0 fixed at 2, declared as -1"),
        ([2], (2, 1), "has rank 1 in the model, 2 in the specification"),
    ],
    ids=["fixed", "scalar", "narrower", "open", "rank"],
)
def test_whole_tensors_are_compared_in_every_dimension(
    shape: list[int | str | None], declared: tuple[int, ...], difference: str
) -> None:
    """A version that is not batched may have a fixed batch or no dimension, if it says so."""
    tensor = TensorSpecification("input", "FP32", declared, batched=False)
    version = replace(VERSION, inputs=(tensor,), outputs=(), batched=False)
    node = Described("input", FLOATS, shape)

    if not difference:
        check_signature(version, inputs=[node], outputs=[])
        return
    with pytest.raises(ArtifactInvalid) as refusal:
        check_signature(version, inputs=[node], outputs=[])
    assert difference in refusal.value.message


def test_a_batch_that_is_fixed_names_the_way_out() -> None:
    """Whoever declares rows of a model without them is told how it can be served."""
    with pytest.raises(ArtifactInvalid, match="batched: false"):
        check_signature(VERSION, inputs=[Described("input", FLOATS, [1, 2])], outputs=[OUTPUT])


def test_a_made_mask_must_be_an_input_of_the_model() -> None:
    """The mask that callers do not send is compared like what they send."""
    mask = TensorSpecification("mask", "INT64", (-1, -1))
    version = replace(VERSION, padding=Padding((4,), (), (), mask))

    with pytest.raises(ArtifactInvalid, match="the model has no input 'mask'"):
        check_signature(version, inputs=[INPUT], outputs=[OUTPUT])
