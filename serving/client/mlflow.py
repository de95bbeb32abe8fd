"""Reads models from an MLflow registry, through the part of MLflow's REST API that it takes.

Read: registered models, their versions, aliases and tags; the run that made a version; the artifacts
that the MLflow server itself hands out (`mlflow-artifacts:`, its default). Only ONNX models with a
tensor signature can be served, so only these are taken. Whatever the server says is checked: sizes are
bounded, redirects are not followed, and a path never leaves the model's own artifacts.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any, Final, Self, TypeVar
from urllib.parse import quote, urlsplit

import httpx
import msgspec
import yaml

from serving.errors import ArtifactInvalid, NotReady, OrderRefused, ParameterInvalid
from serving.registry.entities import Lineage, Metric

Answer = TypeVar("Answer")

API: Final = "/api/2.0/mlflow"
ARTIFACTS: Final = "/api/2.0/mlflow-artifacts/artifacts"
TIMEOUT_S: Final = 30.0
MAX_DOCUMENT_BYTES: Final = 1024 * 1024
MAX_MODEL_BYTES: Final = 8 * 1024**3
PAGE: Final = 200

DATATYPES: Final = {
    "bool": "BOOL",
    "uint8": "UINT8",
    "uint16": "UINT16",
    "uint32": "UINT32",
    "uint64": "UINT64",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "float16": "FP16",
    "float32": "FP32",
    "float64": "FP64",
    "str": "BYTES",
    "object": "BYTES",
}
"""From the names of numpy, which MLflow writes, to those of the Open Inference Protocol."""


class _Tag(msgspec.Struct, frozen=True):
    key: str
    value: str = ""


class _Alias(msgspec.Struct, frozen=True):
    alias: str
    version: str


class MlflowVersion(msgspec.Struct, frozen=True):
    """A version as MLflow has it."""

    name: str
    version: str
    description: str = ""
    run_id: str = ""
    source: str = ""
    status: str = "READY"


class MlflowModel(msgspec.Struct, frozen=True):
    """A registered model as MLflow has it."""

    name: str
    description: str = ""
    tags: tuple[_Tag, ...] = ()
    aliases: tuple[_Alias, ...] = ()


class _ModelAnswer(msgspec.Struct, frozen=True):
    registered_model: MlflowModel


class _VersionsAnswer(msgspec.Struct, frozen=True):
    model_versions: tuple[MlflowVersion, ...] = ()
    next_page_token: str = ""


class _LocationAnswer(msgspec.Struct, frozen=True):
    artifact_uri: str


class _Measured(msgspec.Struct, frozen=True):
    key: str
    value: float


class _RunFacts(msgspec.Struct, frozen=True):
    params: tuple[_Tag, ...] = ()
    metrics: tuple[_Measured, ...] = ()
    tags: tuple[_Tag, ...] = ()


class _Run(msgspec.Struct, frozen=True):
    data: _RunFacts = _RunFacts()


class _RunAnswer(msgspec.Struct, frozen=True):
    run: _Run


class Described(msgspec.Struct, frozen=True):
    """What an MLmodel file says. file: of the network, beside it. definition: as in `model.yaml`,
    None where the model was logged without a tensor signature."""

    file: str
    definition: dict[str, Any] | None


class MlflowRegistry:
    """Raises OrderRefused for what the server refuses, NotReady when it does not answer."""

    def __init__(self, uri: str, *, token: str = "") -> None:
        """uri: of the tracking server. token: sent as a bearer token when there is one."""
        if urlsplit(uri).scheme not in ("http", "https"):
            raise ParameterInvalid(f"{uri[:200]!r} must be the http or https URL of a server")
        self._uri = uri.rstrip("/")
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._http = httpx.Client(headers=headers, timeout=TIMEOUT_S, follow_redirects=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: object, _trace: TracebackType | None
    ) -> None:
        self._http.close()

    def model(self, name: str) -> MlflowModel:
        return self._get("registered-models/get", _ModelAnswer, name=name).registered_model

    def versions(self, name: str) -> Iterator[MlflowVersion]:
        """All that are ready, in no particular order."""
        quoted = name.replace("'", "''")
        query = {"filter": f"name='{quoted}'", "max_results": str(PAGE)}
        while True:
            page = self._get("model-versions/search", _VersionsAnswer, **query)
            yield from (each for each in page.model_versions if each.status == "READY")
            if not page.next_page_token:
                return
            query["page_token"] = page.next_page_token

    def lineage(self, version: MlflowVersion) -> Lineage:
        """Parameters, metrics and code of the run that made it, as far as there is one."""
        parts = urlsplit(self._uri)
        shown = parts._replace(
            netloc=parts.netloc.rpartition("@")[2]
        ).geturl()  # No password in it.
        source = f"{shown}/#/models/{quote(version.name)}/versions/{version.version}"
        if not version.run_id:
            return Lineage(source_uri=source)
        data = self._get("runs/get", _RunAnswer, run_id=version.run_id).run.data
        tags = {tag.key: tag.value for tag in data.tags}
        return Lineage(
            code_revision=tags.get("mlflow.source.git.commit", ""),
            parameters={param.key: param.value for param in data.params},
            metrics=tuple(Metric(name=each.key, value=each.value) for each in data.metrics),
            provenance=f"MLflow run {version.run_id}",
            source_uri=source,
        )

    def described(self, version: MlflowVersion) -> Described:
        """Raises ArtifactInvalid for a model that cannot be served."""
        content = b"".join(self._artifact(version, "MLmodel", MAX_DOCUMENT_BYTES))
        return read_mlmodel(content, f"{version.name} {version.version}")

    def download(self, version: MlflowVersion, file: str, target: Path) -> str:
        """The network, written to `target`. Returns its SHA-256."""
        digest = hashlib.sha256()
        with target.open("xb") as written:
            for piece in self._artifact(version, file, MAX_MODEL_BYTES):
                digest.update(piece)
                written.write(piece)
        return digest.hexdigest()

    # -- inside ----------------------------------------------------------------------------------

    def _artifact(self, version: MlflowVersion, file: str, most_bytes: int) -> Iterator[bytes]:
        query = {"name": version.name, "version": version.version}
        place = self._get("model-versions/get-download-uri", _LocationAnswer, **query).artifact_uri
        parts = urlsplit(place)
        if parts.scheme != "mlflow-artifacts":
            raise ArtifactInvalid(
                f"{version.name} {version.version} lies at {place[:200]}, which the MLflow server "
                "does not hand out; download the model and add it with `serving model add`"
            )
        path = _within(f"{parts.path.strip('/')}/{file}")
        try:
            with self._http.stream("GET", f"{self._uri}{ARTIFACTS}/{quote(path)}") as answer:
                if not answer.is_success:
                    raise OrderRefused(f"MLflow answered {answer.status_code} for {path}")
                yield from _at_most(answer.iter_bytes(), most_bytes, path)
        except httpx.HTTPError as error:
            raise NotReady(f"{self._uri} does not answer: {error}") from error

    def _get(self, route: str, kind: type[Answer], **query: str) -> Answer:
        try:
            answer = self._http.get(f"{self._uri}{API}/{route}", params=query)
        except httpx.HTTPError as error:
            raise NotReady(f"{self._uri} does not answer: {error}") from error
        if not answer.is_success:
            raise OrderRefused(f"MLflow refused {route}: {_reason(answer)}")
        try:
            return msgspec.json.decode(answer.content, type=kind)
        except msgspec.DecodeError as error:
            raise OrderRefused(f"what {route} answered is not MLflow's: {error}") from error


def read_mlmodel(content: bytes, name: str) -> Described:
    """Raises ArtifactInvalid."""
    try:
        document = yaml.safe_load(content)
        flavor = document["flavors"].get("onnx")
        signature = document.get("signature") or {}
    except (yaml.YAMLError, UnicodeDecodeError, TypeError, KeyError, AttributeError) as error:
        raise ArtifactInvalid(f"the MLmodel file of {name} cannot be read") from error
    if not isinstance(flavor, dict) or not isinstance(flavor.get("data"), str):
        raise ArtifactInvalid(f"{name} is no ONNX model: only the flavor `onnx` can be served")
    definition = None
    if isinstance(signature, dict) and signature.get("inputs") and signature.get("outputs"):
        definition = {part: _tensors(signature[part], name) for part in ("inputs", "outputs")}
    return Described(_within(flavor["data"]), definition)


def _tensors(specification: object, name: str) -> list[dict[str, Any]]:
    try:
        listed = json.loads(str(specification))
        return [
            {
                "name": each["name"],
                "datatype": DATATYPES[each["tensor-spec"]["dtype"]],
                "shape": [int(size) for size in each["tensor-spec"]["shape"]],
            }
            for each in listed
        ]
    except (ValueError, TypeError, KeyError) as error:
        raise ArtifactInvalid(
            f"the signature of {name} does not name tensors with their types and shapes; say what it "
            "takes with --definition"
        ) from error


def _at_most(pieces: Iterator[bytes], most_bytes: int, path: str) -> Iterator[bytes]:
    received = 0
    for piece in pieces:
        received += len(piece)
        if received > most_bytes:
            raise ArtifactInvalid(f"{path} is larger than {most_bytes} bytes")
        yield piece


def _within(path: str) -> str:
    """The same path, if it leads nowhere else. Raises ArtifactInvalid."""
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or "\\" in path:
        raise ArtifactInvalid(f"{path[:200]!r} leads out of the model's artifacts")
    return str(PurePosixPath(path))


def _reason(answer: httpx.Response) -> str:
    try:
        found = json.loads(answer.content)
        return f"{found['message'][:200]} ({found['error_code']})"
    except (ValueError, TypeError, KeyError):
        return f"status {answer.status_code}"
