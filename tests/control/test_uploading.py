"""AR-03, AR-04, AR-24, AR-25: from an upload to a version, and what an inspection does to one."""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from onnx import helper

from serving.app.directory import DataDirectory
from serving.app.registry_parts import RegistryParts
from serving.artifacts.manifest import Requirement
from serving.control.inspecting import Inspector
from serving.control.inspections import INSPECTOR, Inspections, current_runtime
from serving.control.releases import manifest_of
from serving.control.uploading import UploadView
from serving.core.actors import Actor
from serving.core.calls import Call
from serving.core.clock import ManualClock, SystemClock
from serving.core.principals import Role
from serving.errors import (
    AlreadyThere,
    ArtifactUnsupported,
    BodyTooLarge,
    Forbidden,
    ModelNotFound,
    NotFound,
    Overloaded,
    ParameterInvalid,
    PathUnsafe,
    TransitionRefused,
)
from serving.governance.entities import EvidenceOrder
from serving.governance.verdictbook import NothingCompared
from serving.registry.entities import RegisteredVersion
from serving.settings import Settings
from serving.storage.worker import Worker
from tests.inference import graphs
from tests.places import eventually
from tests.registries import person
from tests.specimens import content_of, graph_of

ADA = person("ada")
BOB = person("bob")
EVE = person("eve", Role.CALLER)
FOREIGNER = person("zoe", tenant="elsewhere")
GOOD = {"model.onnx": graphs.doubling()}
WITH_WEIGHTS = {"model.onnx": graphs.outside_weights("weights.bin"), "weights.bin": bytes(8)}


class Counter:
    """The upload desk of an installation in a folder, with one model of tier `minimal`."""

    def __init__(self, folder: Path, **artifacts: Any) -> None:
        self.clock = ManualClock()
        self.settings = Settings.model_validate(
            {"data_dir": folder, "deployments": (), "artifacts": artifacts}
        )
        self.directory = DataDirectory.at(folder)
        self.parts = RegistryParts.open(
            self.settings, self.directory, live=NothingCompared(), clock=self.clock
        )
        self.tell("registry", "register_model", ADA, body=_model("fraud", "minimal"))

    def tell(self, desk: str, name: str, actor: Actor, *, body: Any = None, **where: str) -> Any:
        content = body if isinstance(body, bytes) else msgspec.json.encode(body)
        query = {key: where.pop(key) for key in ("offset",) if key in where}
        call = Call(actor=actor, arguments=where, body=content, query=query)
        return msgspec.json.decode(self.parts.desks[desk].carry_out(name, call).content)

    def open(
        self, files: dict[str, bytes], *, actor: Actor = ADA, version: str = "1", **more: Any
    ) -> UploadView:
        order = {"model": "fraud", "version": version, "files": _declared(files), **more}
        return msgspec.convert(self.tell("uploads", "open_upload", actor, body=order), UploadView)

    def send(self, files: dict[str, bytes], *, version: str = "1", **more: Any) -> UploadView:
        """All of it, and finished."""
        view = self.open(files, version=version, **more)
        for path, content in files.items():
            self.tell("uploads", "add_piece", ADA, body=content, upload=view.id, file=path)
        done = self.tell("uploads", "finish_upload", ADA, upload=view.id)
        return msgspec.convert(done, UploadView)

    def look(self, view: UploadView, actor: Actor = ADA) -> UploadView:
        call = Call(actor=actor, arguments={"upload": view.id})
        answer = self.parts.desks["uploads"].ask("upload", call)
        return msgspec.json.decode(answer.content, type=UploadView)

    def version(self, version: str = "1") -> RegisteredVersion:
        registry = self.parts.admitted.registry
        return self.parts.database.read(lambda c: registry.version(c, "fraud", version, actor=ADA))

    @contextlib.asynccontextmanager
    async def inspecting(self, *, delay_s: float = 3600.0) -> AsyncIterator[Worker]:
        """Inspections go on as long as this is open."""
        worker = Worker(SystemClock())
        inspections = Inspections(
            lambda: self.parts.admitted,
            Inspector(self.directory.inspections, self.settings.artifacts),
            worker,
            delay_s=delay_s,
            clock=SystemClock(),
        )
        running = asyncio.create_task(inspections.run())
        try:
            yield worker
        finally:
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running
            worker.close()


def _model(name: str, tier: str) -> dict[str, Any]:
    return {"name": name, "facts": {"owner": "ada", "risk_tier": tier}}


def _declared(files: dict[str, bytes]) -> list[dict[str, Any]]:
    return [
        {"path": path, "sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
        for path, content in files.items()
    ]


async def test_what_is_uploaded_becomes_a_validated_version(tmp_path: Path) -> None:
    """The version has its sender as author, what was found as its inspection, and signed evidence."""
    counter = Counter(tmp_path)
    view = counter.send(WITH_WEIGHTS)
    assert view.stage == "inspecting"
    async with counter.inspecting():
        await eventually(lambda: counter.look(view).stage == "validated")
    version = counter.version()
    assert (version.author, version.state.value, version.digest) == (
        "ada",
        "validated",
        view.digest,
    )
    assert version.definition.inputs[0].shape == (-1, 2)
    assert version.runtime.name == "onnxruntime"
    manifest = manifest_of(version, Requirement("minimal", 1, ("approver",)), now_ns=1)
    assert (manifest.digest, manifest.entry) == (view.digest, "model.onnx")
    store = counter.parts.admitted.store
    assert {b"".join(store.stream(each)) for each in store.digests()} >= set(WITH_WEIGHTS.values())
    book = counter.parts.admitted.book
    evidence = counter.parts.database.read(lambda c: book.listed(c, "fraud", "1", actor=INSPECTOR))
    assert [(each.kind.value, each.outcome) for each in evidence] == [("validation", "pass")]
    assert evidence[0].content["golden"]


async def test_a_bad_artifact_becomes_a_rejected_version_and_is_not_kept(tmp_path: Path) -> None:
    """The reason stands in the registry and at the upload; the bytes are gone."""
    counter = Counter(tmp_path)
    view = counter.send({"model.onnx": GOOD["model.onnx"][:-10]})
    async with counter.inspecting():
        await eventually(lambda: counter.look(view).stage == "rejected")
    assert counter.look(view).code == "invalid_model"
    assert counter.version().state.value == "rejected"
    assert "invalid_model" in counter.version().reason
    assert not counter.parts.admitted.store.digests()


@pytest.mark.parametrize(
    "path",
    [
        "../model.onnx",
        "/etc/model.onnx",
        "C:model.onnx",
        "a\\model.onnx",
        "a\0.onnx",
        "x" * 300 + ".onnx",
        "a/../model.onnx",
        "./model.onnx",
    ],
)
def test_ar_04_unsafe_paths_are_refused_before_anything_is_written(
    path: str, tmp_path: Path
) -> None:
    """A name that could leave the artifact, or that some system cannot hold, opens no upload."""
    counter = Counter(tmp_path)
    with pytest.raises(PathUnsafe):
        counter.open({path: b"x"})
    assert not counter.directory.uploads.exists()


def test_ar_04_names_that_are_one_on_some_systems_are_refused(tmp_path: Path) -> None:
    """Neither case nor Unicode form tells two files apart; nor are there more than a thousand."""
    counter = Counter(tmp_path)
    for pair in (("Model.onnx", "model.onnx"), ("\u00e9.bin", "e\u0301.bin")):
        with pytest.raises(PathUnsafe, match="one name"):
            counter.open(dict.fromkeys(pair, b"x"))
    with pytest.raises(PathUnsafe, match="1000"):
        counter.open({f"{index}.bin": b"x" for index in range(1001)})


def test_ar_03_texts_are_data_and_hold_no_control_characters(tmp_path: Path) -> None:
    """Template text in a name is kept as it is; a line break or an escape in one is refused."""
    counter = Counter(tmp_path)
    for name in ("x\ny", "x\x1b[2J", "x\u202e"):
        definition = {"inputs": [_tensor(name)], "outputs": [_tensor("output")]}
        with pytest.raises(ParameterInvalid, match="control character"):
            counter.open(GOOD, definition=definition)
    definition = {"inputs": [_tensor("{{7*7}}")], "outputs": [_tensor("!!python/name:os")]}
    assert counter.open(GOOD, definition=definition).stage == "receiving"


def _tensor(name: str) -> dict[str, Any]:
    return {"name": name, "datatype": "FP32", "shape": [-1, 2]}


def test_what_no_artifact_may_be_is_refused_at_once(tmp_path: Path) -> None:
    """One model file, of a size that is permitted, and no more uploads than permitted."""
    counter = Counter(tmp_path, max_upload_bytes=10_000, max_uploads=1)
    with pytest.raises(ArtifactUnsupported, match="exactly one"):
        counter.open({"model.zip": b"PK"})
    with pytest.raises(ArtifactUnsupported, match="exactly one"):
        counter.open({"a.onnx": b"x", "b.onnx": b"x"})
    with pytest.raises(BodyTooLarge, match="10000"):
        counter.open({"a.onnx": bytes(10_001)})
    counter.open(GOOD)
    with pytest.raises(Overloaded, match="max_uploads"):
        counter.open(GOOD, version="2")


def test_who_may_not_register_uploads_nothing_and_sees_no_others_upload(tmp_path: Path) -> None:
    """Rights are those of registering the version; an upload is its sender's own."""
    counter = Counter(tmp_path)
    with pytest.raises((Forbidden, ModelNotFound)):
        counter.open(GOOD, actor=EVE)
    view = counter.open(GOOD)
    for other in (BOB, FOREIGNER):
        with pytest.raises(NotFound):
            counter.look(view, other)
        with pytest.raises(NotFound):
            counter.tell("uploads", "drop_upload", other, upload=view.id)


def test_ar_24_of_one_version_there_is_one_upload_at_a_time(tmp_path: Path) -> None:
    """Another person's, or one of other files, is a conflict; the same one goes on where it was."""
    counter = Counter(tmp_path)
    view = counter.open(GOOD)
    piece = GOOD["model.onnx"][:64]
    counter.tell("uploads", "add_piece", ADA, body=piece, upload=view.id, file="model.onnx")
    with pytest.raises(AlreadyThere, match="under way"):
        counter.open(GOOD, actor=BOB)
    with pytest.raises(AlreadyThere, match="under way"):
        counter.open({"model.onnx": b"other"})
    again = counter.open(GOOD)
    assert (again.id, again.files[0].received) == (view.id, 64)
    with pytest.raises(NotFound):
        counter.version()


def test_an_upload_that_nobody_goes_on_with_is_given_up(tmp_path: Path) -> None:
    """After its time the next one finds the place free."""
    counter = Counter(tmp_path, upload_ttl_s=100)
    view = counter.open(GOOD)
    counter.clock.advance(101)
    counter.open(GOOD, actor=BOB)
    with pytest.raises(NotFound):
        counter.look(view)


async def test_ar_24_an_upload_that_waited_when_control_ended_is_inspected_later(
    tmp_path: Path,
) -> None:
    """What is finished is inspected by whoever starts next, and a second version is refused."""
    view = Counter(tmp_path).send(GOOD)
    later = Counter.__new__(Counter)
    later.clock, later.directory = ManualClock(), DataDirectory.at(tmp_path)
    later.settings = Settings.model_validate({"data_dir": tmp_path, "deployments": ()})
    later.parts = RegistryParts.open(
        later.settings, later.directory, live=NothingCompared(), clock=later.clock
    )
    async with later.inspecting():
        await eventually(lambda: later.look(view).stage == "validated")
    with pytest.raises(AlreadyThere):
        later.open(GOOD)


async def test_ar_25_changed_answers_after_another_runtime_block_promotion(tmp_path: Path) -> None:
    """Golden vectors of an earlier runtime are answered again; what differs blocks, and is named."""
    counter = Counter(tmp_path)
    view = counter.send(GOOD)
    async with counter.inspecting():
        await eventually(lambda: counter.look(view).stage == "validated")
    tripled = content_of(
        graph_of([helper.make_node("Sum", ["input", "input", "input"], ["output"])])
    )
    other = counter.send({"model.onnx": tripled}, version="2")
    async with counter.inspecting():
        await eventually(lambda: counter.look(other).stage == "validated")
    recorded = dict(counter.version("2").inspection or {}) | {"runtime": "onnxruntime 0.9"}
    _pretend_recorded(counter, recorded)
    async with counter.inspecting(delay_s=0.01):
        await eventually(lambda: _outcomes(counter)[-1] == "fail")
    with pytest.raises(TransitionRefused, match=r"answers_changed.*drawn: output 'output' was"):
        counter.tell(
            "registry",
            "change_state",
            person("carol", Role.APPROVER),
            body={"step": "approve", "reason": "please"},
            model="fraud",
            version="1",
        )


def _pretend_recorded(counter: Counter, content: dict[str, Any]) -> None:
    """As if this had been found with an earlier runtime, before everything else."""
    order = EvidenceOrder(
        kind="validation",
        model="fraud",
        version="1",
        digest=counter.version().digest,
        outcome="pass",
        content={**content, "definition": None},
    )
    assert content["runtime"] != current_runtime()
    book, database = counter.parts.admitted.book, counter.parts.database
    counter.clock.step_wall(-3600)
    database.run(lambda c: book.record(c, order, actor=INSPECTOR))
    counter.clock.step_wall(7200)
    database.run(lambda c: book.record(c, order, actor=INSPECTOR))
    counter.clock.step_wall(1)


def _outcomes(counter: Counter) -> list[str]:
    book = counter.parts.admitted.book
    found = counter.parts.database.read(lambda c: book.listed(c, "fraud", "1", actor=INSPECTOR))
    return [each.outcome for each in sorted(found, key=lambda each: each.at_ns)]
