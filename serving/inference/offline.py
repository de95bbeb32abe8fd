"""A model version run one request at a time, without a queue: for replays.

Rows are padded and cut as a replica does it, so that what differs is the version and not the way.
Whether padding shows in a model's answers is a replica's to try; where it does, its rows ran in their
own length, and a replay differs by as much as that.
"""

from collections.abc import Sequence
from typing import Self

from serving.artifacts.bundles import Bundle
from serving.core.models import ModelVersion
from serving.core.tensors import Array
from serving.engine_settings import InferenceSettings
from serving.inference.padding import Padder
from serving.inference.session import OnnxSession


class OfflineSession:
    """One version in this process."""

    def __init__(self, session: OnnxSession) -> None:
        self.version: ModelVersion = session.version
        self._session = session
        self._padder = Padder(self.version) if self.version.padding is not None else None

    @classmethod
    def load(cls, version: ModelVersion, bundle: Bundle, *, settings: InferenceSettings) -> Self:
        """Raises as `OnnxSession.load`."""
        return cls(OnnxSession.load(version, bundle, settings=settings))

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        """The answer to `inputs`, in the order of `version.inputs`, rows first. Raises ModelFailed."""
        if self._padder is None:
            return self._session.run(inputs)
        fit = self._padder.fit(tuple(array.shape[1:] for array in inputs))
        outputs = self._session.run(self._padder.merge([inputs], [fit]))
        return self._padder.cut(outputs, fit)
