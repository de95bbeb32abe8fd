"""What is done to the payloads of one model version before anything of them is written.

A request that names a data subject: all its tensors are sealed with that subject's key. Otherwise the
version's field policy alone decides, tensor by tensor. What is dropped or hashed here was never
written anywhere: the log is the only place that payloads go to.
"""

from collections.abc import Sequence

from serving.core.batches import Buffer
from serving.core.models import ModelVersion
from serving.predictionlog.format import Definition, Flag, TensorShape
from serving.predictionlog.payloads import (
    Payload,
    PayloadLimits,
    digests,
    hashed,
    place_of,
    sealed,
)
from serving.predictionlog.privacy.subjects import NOBODY, model_mark
from serving.predictionlog.records import Loggable
from serving.predictionlog.writing.subjectkeys import WorkerKeys


class Guard:
    """Of one model version."""

    def __init__(self, version: ModelVersion, keys: WorkerKeys, limits: PayloadLimits) -> None:
        self._model = version.model
        self._mark = model_mark(version.model)
        self._keys = keys
        self._limits = limits

    def payload(
        self, request: Loggable, *, subject: bytes, definition: Definition, number: int
    ) -> Payload:
        """subject: as the request names it, empty for none. number: of the definition."""
        tensors, contents = self._treated_tensors(request, definition)
        seals = bool(subject) or any(tensor.treatment == "encrypt" for tensor in tensors)
        if sum(map(len, contents)) > self._limits.max_bytes:
            flags, contents = int(Flag.DIGESTED), digests(contents)
            hidden = [seals] * len(contents)
        else:
            flags = 0
            hidden = [bool(subject) or tensor.treatment == "encrypt" for tensor in tensors]
        shown = [each for each, hides in zip(contents, hidden, strict=True) if not hides]
        if not seals:
            return Payload(flags, shown) if flags else self._limits.fit(shown)
        secret = [each for each, hides in zip(contents, hidden, strict=True) if hides]
        return Payload(
            flags | Flag.ENCRYPTED, (self._box(secret, request, subject, number), *shown)
        )

    def _box(
        self, contents: Sequence[Buffer], request: Loggable, subject: bytes, number: int
    ) -> bytes:
        tag = self._keys.secrets.tag(subject) if subject else NOBODY
        key = self._keys.key(tag, self._mark)
        place = place_of(sequence=request.sequence, time_ns=request.time_ns, definition=number)
        return sealed(contents, key, tag=tag, nonce=self._keys.nonce(), place=place)

    def _treated_tensors(
        self, request: Loggable, definition: Definition
    ) -> tuple[list[TensorShape], Sequence[Buffer]]:
        """What is left of the tensors, in order, and which ones these are."""
        shapes = (*definition.inputs, *definition.outputs)
        buffers = (*request.inputs, *request.outputs)
        kept = [
            (tensor, self._treated(buffer, tensor, request.rows))
            for tensor, buffer in zip(shapes, buffers, strict=True)
            if tensor.treatment != "drop"
        ]
        return [tensor for tensor, _ in kept], [content for _, content in kept]

    def _treated(self, buffer: Buffer, tensor: TensorShape, rows: int) -> Buffer:
        if tensor.treatment != "hash":
            return buffer
        key = self._keys.secrets.hashes
        return hashed(buffer, tensor, rows=rows, key=key, model=self._model)
