"""Which execution providers a session asks ONNX Runtime for, and whether it got them.

ONNX Runtime falls back to the CPU in silence: a missing library, a missing driver or a provider
that the build lacks all end in a slow session that looks healthy. So the list is always explicit,
what the session really uses is read back, and `require_gpu` refuses anything less than a GPU.

The GPU build of ONNX Runtime lists CUDA on machines without any. Asking for it there prints native
errors on every load, so CUDA is asked for only where the driver can be loaded.
"""

import contextlib
import ctypes
import io
import logging
from collections.abc import Sequence
from typing import Any, Final

import onnxruntime  # type: ignore[import-untyped]  # it ships no types; Any stops in this package

from serving.engine_settings import InferenceSettings
from serving.errors import ProviderUnavailable

CPU: Final = "CPUExecutionProvider"
CUDA: Final = "CUDAExecutionProvider"
TENSORRT: Final = "TensorrtExecutionProvider"

CUDA_OPTIONS: Final = {
    # The default searches exhaustively at every new shape: published 634 ms against 1.9 ms.
    "cudnn_conv_algo_search": "HEURISTIC",
    # The default doubles the arena and never gives back; model versions share the device.
    "arena_extend_strategy": "kSameAsRequested",
}
DRIVER: Final = "libcuda.so.1"

Provider = str | tuple[str, dict[str, Any]]

_log = logging.getLogger(__name__)


def available_providers() -> tuple[str, ...]:
    """What this build and this machine offer together, best first."""
    offered = tuple(onnxruntime.get_available_providers())
    return offered if _driver_present() else tuple(p for p in offered if p not in (TENSORRT, CUDA))


def choose_providers(settings: InferenceSettings, available: Sequence[str]) -> list[Provider]:
    """The explicit list, in order of preference; the CPU always closes it.

    Raises ProviderUnavailable when a GPU is required and `available` holds no provider for one.
    """
    chosen: list[Provider] = []
    if settings.device != "cpu":
        if settings.tensorrt and TENSORRT in available:
            chosen.append(TENSORRT)
        if CUDA in available:
            chosen.append((CUDA, dict(CUDA_OPTIONS)))
    if settings.device == "require_gpu" and not chosen:
        raise ProviderUnavailable(
            "inference.device is require_gpu, but ONNX Runtime finds no GPU here; it offers "
            f"{', '.join(available)}. Install the extra `gpu` and a driver, or choose prefer_gpu"
        )
    return [*chosen, CPU]


def check_providers(settings: InferenceSettings, used: Sequence[str], *, key: str) -> None:
    """Compares what a session uses with what was wanted: refuses, or warns once per load.

    Raises ProviderUnavailable when a GPU is required and the session runs on the CPU.
    """
    on_gpu = CUDA in used or TENSORRT in used
    if settings.device == "require_gpu" and not on_gpu:
        raise ProviderUnavailable(
            f"inference.device is require_gpu, but {key} was loaded on {', '.join(used)}: the GPU "
            "libraries or the driver are missing or of another version"
        )
    if settings.device == "prefer_gpu" and not on_gpu:
        _log.warning("%s runs on the CPU: inference.device is prefer_gpu and no GPU answered", key)


def preload_libraries() -> None:
    """Loads the CUDA and cuDNN libraries that the extra `gpu` installed beside this package.

    Without it ONNX Runtime looks for them on the system path only.
    """
    said = io.StringIO()
    with contextlib.redirect_stdout(said):  # it reports failures by printing
        onnxruntime.preload_dlls(directory="")
    if said.getvalue():
        _log.warning("GPU libraries: %s", said.getvalue().strip())


def _driver_present() -> bool:
    try:
        ctypes.CDLL(DRIVER)
    except OSError:
        return False
    return True
