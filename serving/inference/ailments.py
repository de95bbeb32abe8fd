"""What a failed run says about the device: nothing, that its memory is short, or that it is lost.

ONNX Runtime has no codes for either; its words, and those of CUDA in them, are all there is. A device
is lost when every later run on it fails in the same way (CUDA calls such errors sticky): an illegal
address, a failed launch, an assertion on the device, a reset. What is not recognized is a failure of
the model, as before.
"""

import re
from enum import Enum, auto
from typing import Final


class Ailment(Enum):
    """What is wrong with the device."""

    NO_MEMORY = auto()
    LOST = auto()


_LOST: Final = re.compile(
    r"cuda (?:failure|error):? ?(?:46|214|700|702|704|708|710|713|714|715|716|717|718|719|999)\b"
    r"|illegal memory access|unspecified launch failure|device-side assert|misaligned address"
    r"|device reset|devicereset|cuda_error_(?:illegal_address|launch_failed|assert)",
    re.IGNORECASE,
)
_NO_MEMORY: Final = re.compile(
    r"out of memory|failed to allocate memory|bad_alloc|cuda (?:failure|error):? ?2\b"
    r"|cublas_status_alloc_failed|cudnn_status_alloc_failed|available memory of [0-9]+ is smaller",
    re.IGNORECASE,
)


def ailment_of(error: BaseException | None) -> Ailment | None:
    """What the runtime's exception says of the device; None when nothing is known to be wrong."""
    if error is None:
        return None
    text = f"{type(error).__name__}: {error}"
    if _LOST.search(text):
        return Ailment.LOST
    if isinstance(error, MemoryError) or _NO_MEMORY.search(text):
        return Ailment.NO_MEMORY
    return None
