import logging

import pytest

from serving.engine_settings import InferenceSettings
from serving.errors import ProviderUnavailable
from serving.inference.providers import (
    CPU,
    CUDA,
    CUDA_OPTIONS,
    TENSORRT,
    available_providers,
    check_providers,
    choose_providers,
)

EVERYTHING = (TENSORRT, CUDA, CPU)


def test_the_cpu_is_all_that_is_asked_for_on_cpu() -> None:
    """`device: cpu` asks for nothing else, whatever there is."""
    assert choose_providers(InferenceSettings(device="cpu"), EVERYTHING) == [CPU]


def test_cuda_comes_before_the_cpu() -> None:
    """With a GPU there, CUDA is first, with its own options, and TensorRT is left out unasked."""
    chosen = choose_providers(InferenceSettings(device="prefer_gpu"), EVERYTHING)

    assert chosen == [(CUDA, CUDA_OPTIONS), CPU]


def test_tensorrt_comes_first_when_asked_for() -> None:
    """TensorRT precedes CUDA, which takes the operators that it leaves."""
    chosen = choose_providers(InferenceSettings(device="require_gpu", tensorrt=True), EVERYTHING)

    assert chosen == [TENSORRT, (CUDA, CUDA_OPTIONS), CPU]


def test_a_preferred_gpu_may_be_absent() -> None:
    """Without one, `prefer_gpu` asks for the CPU."""
    assert choose_providers(InferenceSettings(device="prefer_gpu"), [CPU]) == [CPU]


def test_a_required_gpu_may_not_be_absent() -> None:
    """Without one, `require_gpu` is refused before anything is loaded."""
    with pytest.raises(ProviderUnavailable, match="require_gpu"):
        choose_providers(InferenceSettings(device="require_gpu"), [CPU])


def test_a_required_gpu_that_was_not_used_is_refused() -> None:
    """A session that fell back to the CPU in silence is found out by reading back."""
    with pytest.raises(ProviderUnavailable, match="model@1"):
        check_providers(InferenceSettings(device="require_gpu"), [CPU], key="model@1")


@pytest.mark.parametrize(
    ("device", "used", "warnings"),
    [("prefer_gpu", [CPU], 1), ("prefer_gpu", [CUDA, CPU], 0), ("cpu", [CPU], 0)],
    ids=["preferred-but-absent", "preferred-and-used", "not-wanted"],
)
def test_warns_once_when_a_preferred_gpu_is_not_used(
    device: str, used: list[str], warnings: int, caplog: pytest.LogCaptureFixture
) -> None:
    """`prefer_gpu` on the CPU is one warning per load; everything else is silent."""
    with caplog.at_level(logging.WARNING):
        check_providers(InferenceSettings.model_validate({"device": device}), used, key="model@1")

    assert len(caplog.records) == warnings


def test_the_cpu_is_always_there() -> None:
    """Every machine offers the CPU, last."""
    assert available_providers()[-1] == CPU
