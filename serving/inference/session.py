"""One model version loaded in ONNX Runtime, ready to be run by one thread.

Guarantees:

- What runs is what was approved: it is loaded from bytes, which are hashed and compared with the
  version's digest. Weights in other files come from memory too; those that the artifact does not hold
  are refused, because no digest covers them.
- Nothing runs on a device that nobody asked for (`providers`), and nothing switches devices later:
  ONNX Runtime's own fallback is off.
- Every failure of ONNX Runtime arrives as `ModelFailed` (a run) or `ArtifactInvalid` (a load), with
  its cause chained. The message for the caller holds no text of the runtime, which can quote values
  and paths.
- `terminate`, from any other thread, ends the run in progress, and only that one: each run has
  `RunOptions` of its own (0.25 microseconds each). It works between two operators of a graph, so a
  single operator that never returns is not reached.

One run at a time: a session has one owner thread, which also keeps `terminate` unambiguous. Threads
of ONNX Runtime never spin: on a small machine that burns a core for nothing.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import PurePosixPath
from typing import Any, Final, Self

import onnxruntime  # type: ignore[import-untyped]  # it ships no types; Any stops in this package
from onnxruntime.capi import (  # type: ignore[import-untyped]  # the only home of its exceptions
    onnxruntime_pybind11_state as native,
)

from serving.artifacts.bundles import Bundle
from serving.core.models import ModelVersion
from serving.core.tensors import Array
from serving.engine_settings import InferenceSettings
from serving.errors import ArtifactInvalid, ModelFailed
from serving.inference import providers
from serving.inference.signature import check_signature
from serving.inference.values import Execution, converting, holds_bits, run_values

RUNTIME_ERRORS: Final[tuple[type[Exception], ...]] = (
    native.DeviceReset,
    native.EPFail,
    native.EngineError,
    native.Fail,
    native.InvalidArgument,
    native.InvalidGraph,
    native.InvalidProtobuf,
    native.ModelLoadCanceled,
    native.ModelLoaded,
    native.ModelRequiresCompilation,
    native.NoModel,
    native.NoSuchFile,
    native.NotFound,
    native.NotImplemented,
    native.RuntimeException,
    RuntimeError,
    ValueError,
    MemoryError,
)
"""All that ONNX Runtime raises: its own classes share no root, its binding adds the last three."""

NO_FOLDER: Final = "/nonexistent"
FATAL: Final = 4
"""ONNX Runtime's log level: everything below reaches us as an exception with the same text."""


class OnnxSession:
    """Fits `running.Runner`. Built by `load`."""

    def __init__(
        self, version: ModelVersion, session: Any, execute: Execution, *, threads: int
    ) -> None:
        self.version = version
        self.providers: tuple[str, ...] = tuple(session.get_providers())
        self.runs_on_caller = threads == 1 and self.providers == (providers.CPU,)
        self._input_names = [tensor.name for tensor in version.fed]
        self._execute = converting(version, execute)
        self._running: Any = None

    @classmethod
    def load(cls, version: ModelVersion, bundle: Bundle, *, settings: InferenceSettings) -> Self:
        """The session of `version`, from the bytes of `bundle`, which need not be kept.

        Raises ArtifactInvalid (another digest, no ONNX model, not what the specification says) and
        ProviderUnavailable (a GPU is required and absent).
        """
        _check_digest(version, bundle)
        wanted = providers.choose_providers(settings, providers.available_providers())
        if wanted != [providers.CPU]:
            providers.preload_libraries()
        try:
            session = onnxruntime.InferenceSession(
                bundle.files[bundle.entry],
                _session_options(settings, bundle),
                providers=wanted,
                enable_fallback=0,
            )
        except RUNTIME_ERRORS as error:
            raise ArtifactInvalid(f"{version.key} cannot be loaded: {error}") from error
        used = session.get_providers()
        providers.check_providers(settings, used, key=version.key)
        check_signature(version, inputs=session.get_inputs(), outputs=session.get_outputs())
        names = [tensor.name for tensor in version.outputs]
        execute: Execution
        if holds_bits(version):
            execute = partial(run_values, session, names)
        elif used == [providers.CPU]:
            execute = partial(session.run, names)
        else:
            execute = partial(run_bound, session, names)
        return cls(version, session, execute, threads=settings.threads)

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        """The model's answer, arrays in the order of `version.outputs`.

        inputs: in the order of `version.fed`, C-contiguous, same number of rows each, one for a
        version that is not batched; not modified, not kept. Raises ModelFailed, also when `terminate` ended the run.
        """
        options = self._running = onnxruntime.RunOptions()
        try:
            return self._execute(dict(zip(self._input_names, inputs, strict=True)), options)
        except RUNTIME_ERRORS as error:
            how = "was stopped before it ended" if options.terminate else "failed"
            raise ModelFailed(f"the run of {self.version.key} {how}") from error
        finally:
            self._running = None

    def terminate(self) -> None:
        """Makes the run in progress fail soon; does nothing when there is none."""
        running = self._running
        if running is not None:
            running.terminate = True


def run_bound(
    session: Any, names: Sequence[str], feed: Mapping[str, Array], options: Any
) -> list[Array]:
    """A run with bound buffers: one copy to the device before, one back after.

    For devices other than the CPU, where it saves a copy per tensor; on the CPU it gains nothing.
    """
    binding = session.io_binding()
    for name, array in feed.items():
        binding.bind_cpu_input(name, array)
    for name in names:
        binding.bind_output(name)
    session.run_with_iobinding(binding, options)
    outputs: list[Array] = binding.copy_outputs_to_cpu()
    return outputs


def _check_digest(version: ModelVersion, bundle: Bundle) -> None:
    digest = bundle.digest
    if digest != version.digest:
        raise ArtifactInvalid(
            f"{version.key}: the artifact has the SHA-256 {digest}, not {version.digest}"
        )


def _beside(bundle: Bundle) -> dict[str, bytes]:
    """The other files by the names that the graph calls them: relative to its own folder."""
    home = PurePosixPath(bundle.entry).parent
    return {
        str(PurePosixPath(path).relative_to(home)): content
        for path, content in bundle.external.items()
        if PurePosixPath(path).is_relative_to(home)
    }


def _session_options(settings: InferenceSettings, bundle: Bundle) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = settings.threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = FATAL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    # A model loaded from bytes would look for external weights in the working directory.
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", NO_FOLDER
    )
    beside = _beside(bundle)
    if beside:
        options.add_external_initializers_from_files_in_memory(
            list(beside), list(beside.values()), [len(content) for content in beside.values()]
        )
    return options
