"""Scripts in the model folders, loaded as modules: the folders are no packages."""

import importlib.util
from pathlib import Path
from types import ModuleType

from serving.engine_settings import InferenceSettings
from serving.errors import ArtifactMissing
from serving.inference.session import OnnxSession
from serving.registry.folder import DEFAULT_MODELS_DIR, load_catalogue
from tests.releases import bundle_of

MODELS = sorted(load_catalogue(DEFAULT_MODELS_DIR).models())


def prepare_script(model: str) -> ModuleType:
    """The module `prepare.py` of that model."""
    path = DEFAULT_MODELS_DIR / model / "prepare.py"
    specification = importlib.util.spec_from_file_location(
        f"prepare_{model.replace('-', '_')}", path
    )
    if specification is None or specification.loader is None:
        raise FileNotFoundError(path)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def session_of(model: str, version: str = "1") -> OnnxSession | None:
    """The model on the CPU, or None when its artifact is not on this machine."""
    try:
        entry = load_catalogue(DEFAULT_MODELS_DIR).entry(model, version)
    except ArtifactMissing:
        return None
    if entry.version.stages:
        raise ValueError(f"{model} is an ensemble: it has no session of its own")
    return OnnxSession.load(
        entry.version, bundle_of(entry.artifact), settings=InferenceSettings(device="cpu")
    )


def samples(model: str) -> Path:
    return DEFAULT_MODELS_DIR / model / "samples"
