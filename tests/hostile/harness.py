"""An instance in this process whose models are functions of the test, held at a gate when it wants."""

import hashlib
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from serving.artifacts.bundles import Bundle
from serving.core.models import ModelVersion
from serving.core.tensors import Array
from serving.engine_settings import InferenceSettings
from serving.inference.hosting import Session
from serving.inference.session import OnnxSession
from serving.registry.folder import load_catalogue
from tests.conformance.shelf import Shelf
from tests.hostile.callers import Caller
from tests.inference.runners import HeldRunner
from tests.places import InProcess

Model = Callable[[Sequence[Array]], list[Array]]


class FakeSession(HeldRunner):
    """A model that is a function, and a gate to hold it at."""

    providers: tuple[str, ...] = ("fake",)


class Harness:
    """An instance in this process to which models are added; their sessions by name."""

    def __init__(self, folder: Path, **groups: Any) -> None:
        self.place = InProcess(folder / "place", **groups)
        self.sessions: dict[str, FakeSession] = {}
        self._folder = folder
        self._functions: dict[str, Model] = {}
        self._stack = AsyncExitStack()

    async def start(self) -> None:
        await self.place.start()
        self.shelf = Shelf(self.place, load=self._load)

    async def aclose(self) -> None:
        for session in self.sessions.values():
            session.gate.open()
        await self._stack.aclose()
        await self.shelf.clear()
        await self.place.aclose()

    async def serve(self, **models: "Served") -> None:
        """Serves these models beside the usual ones."""
        home = self._folder / "shelf"
        for name, served in models.items():
            if served.function is not None:
                self._functions[name] = served.function
            served.write(home / name, name)
        catalogue = load_catalogue(home)
        failures = await self.shelf.fill([catalogue.entry(name, "1") for name in models])
        assert failures == {}

    async def callers(self, count: int) -> list[Caller]:
        place = self.place.place
        return [
            await self._stack.enter_async_context(Caller(place, f"caller-{index % 4}"))
            for index in range(count)
        ]

    async def caller(self) -> Caller:
        return (await self.callers(1))[0]

    async def is_ready(self, model: str) -> bool:
        async with self.place.place.client() as client:
            return (await client.get(f"/v2/models/{model}/ready")).is_success

    def _load(
        self, version: ModelVersion, bundle: Bundle, *, settings: InferenceSettings
    ) -> Session:
        function = self._functions.get(version.model)
        if function is None:
            return OnnxSession.load(version, bundle, settings=settings)
        self.sessions[version.model] = FakeSession(version, function)
        return self.sessions[version.model]


@dataclass(frozen=True, slots=True)
class Served:
    """A model of the test: x FP32 [-1, *columns] to y of the same form, by a function or a graph."""

    function: Model | None = None
    columns: tuple[int, ...] = (-1,)
    content: bytes = b"a function"
    batching: Any = None
    inputs: tuple[str, ...] = ("x",)
    outputs: tuple[str, ...] = ("y",)
    answers: str = "FP32"

    def write(self, home: Path, name: str) -> None:
        home.mkdir(parents=True)
        content = self.content + (name.encode() if self.function else b"")
        (home / "1.onnx").write_bytes(content)
        shape = [-1, *self.columns]
        made = {"description": "Made here.", "provenance": "a test"}
        version = {"version": "1", "file": "1.onnx", "sha256": hashlib.sha256(content).hexdigest()}
        fields = ("owner", "description", "task", "licence", "source")
        specification = {
            "model": name,
            **dict.fromkeys(fields, "test"),
            "inputs": [{"name": x, "datatype": "FP32", "shape": shape} for x in self.inputs],
            "outputs": [
                {"name": y, "datatype": self.answers, "shape": shape} for y in self.outputs
            ],
            "batching": self.batching or {"max_batch_size": 16},
            "versions": [version | made],
        }
        (home / "model.yaml").write_text(yaml.safe_dump(specification))
