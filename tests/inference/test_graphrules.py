"""AR-01, AR-02, AR-10, AR-11, AR-14, AR-15: what a model may be, before anything runs it."""

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime  # type: ignore[import-untyped]  # it ships no types
import pytest
from onnx import helper

from serving.inference.graphrules import MAX_MODEL_BYTES, MAX_NODES, read_model
from serving.inference.reports import MAX_REPORT_BYTES, Rejected
from tests.inference import graphs
from tests.specimens import MODEL, content_of, graph_of, look, plain


class Trap:
    """Runs code of its own wherever it is unpickled."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return pytest.fail, ("unpickled",)


def _zip_with_pickle() -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Trap()))
    return content.getvalue()


def _object_array() -> bytes:
    content = io.BytesIO()
    np.save(content, np.array([Trap()], dtype=object), allow_pickle=True)
    return content.getvalue()


FOREIGN = {
    "pickle": pickle.dumps(Trap()),
    "pickle_0": pickle.dumps(Trap(), protocol=0),
    "joblib": b"x\x9c" + pickle.dumps(Trap()),
    "pt": _zip_with_pickle(),
    "npy": _object_array(),
    "h5": b"\x89HDF\r\n\x1a\n" + bytes(100),
    "so": b"\x7fELF" + bytes(100),
}


@pytest.fixture
def _no_unpickling(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        pytest.fail("something was unpickled")

    for name in ("load", "loads", "Unpickler", "_Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)


@pytest.mark.usefixtures("_no_unpickling")
@pytest.mark.parametrize("kind", FOREIGN)
def test_ar_01_what_is_no_onnx_model_is_told_by_its_bytes(kind: str, tmp_path: Path) -> None:
    """A file that is called model.onnx and is a pickle, array, archive or library is refused."""
    report = look(tmp_path, {MODEL: FOREIGN[kind]})
    assert report.code == "unsupported_artifact"


@pytest.mark.parametrize("name", ["ops.so", "model.py", "weights.pth", "README.txt"])
def test_ar_02_a_file_that_the_model_does_not_name_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing comes along with a model but the weights it refers to; no library is registered."""
    monkeypatch.setattr(
        onnxruntime.SessionOptions, "register_custom_ops_library", lambda *_: pytest.fail(name)
    )
    report = look(tmp_path, {MODEL: graphs.doubling(), name: b"\x7fELF"})
    assert (report.code, name in report.reason) == ("unknown_file", True)


def test_ar_02_a_custom_operator_needs_its_domain_permitted(tmp_path: Path) -> None:
    """A domain beyond ONNX's own is refused; permitted, it is the runtime that does not know it."""
    node = helper.make_node("Steal", ["input"], ["output"], domain="com.example")
    files = {MODEL: content_of(graph_of([node], domains=("com.example",)))}
    assert look(tmp_path / "a", files).code == "custom_operator"
    assert look(tmp_path / "b", files, domains=("com.example",)).code == "invalid_model"


@pytest.mark.parametrize("path", ["/etc/passwd", "../../secret", "blob.bin"])
def test_ar_10_compiled_blobs_are_refused(path: str, tmp_path: Path) -> None:
    """An EPContext node, which names a file of its own, is never loaded."""
    node = helper.make_node(
        "EPContext", ["input"], ["output"], domain="com.microsoft", ep_cache_context=path
    )
    files = {MODEL: content_of(graph_of([node], domains=("com.microsoft",)))}
    assert look(tmp_path, files, domains=("com.microsoft",)).code == "forbidden_node"


def test_ar_11_names_and_texts_of_any_size_and_content_are_data(tmp_path: Path) -> None:
    """Paths, markup and 50 MB of text in a model change nothing, and the report stays small."""
    node = helper.make_node("Add", ["input", "input"], ["output"], name="<script>../../etc/x")
    model = graph_of([node])
    model.doc_string = "<b>" + "x" * 50_000_000
    model.metadata_props.add(key="../../../etc/passwd", value="{{7*7}}\n")
    report = look(tmp_path, {MODEL: content_of(model)})
    assert (report.code, len(plain(report)) < MAX_REPORT_BYTES) == ("", True)


def test_ar_14_a_million_nodes_are_refused_before_they_are_loaded(tmp_path: Path) -> None:
    """A graph has at most `MAX_NODES` nodes, wherever they are."""
    content = graphs.doubling()
    node = helper.make_node("Identity", ["input"], ["x"]).SerializeToString()
    entry = b"\x0a" + bytes([len(node)]) + node
    graph = entry * (MAX_NODES + 1)
    model = b"\x3a" + _varint(len(graph)) + graph
    report = look(tmp_path, {MODEL: content + model})
    assert (report.code, f"{MAX_NODES}" in report.reason) == ("invalid_model", True)


@pytest.mark.parametrize("depth", [200, 10_000])
def test_ar_14_subgraphs_nested_too_deep_are_refused(depth: int, tmp_path: Path) -> None:
    """No depth of nesting exhausts a stack of ours."""
    inner = b""
    for _ in range(depth):
        # graph.node.attribute.g: each the only content of the one around it
        for tag in (b"\x32", b"\x2a", b"\x0a"):
            inner = tag + _varint(len(inner)) + inner
    report = look(tmp_path, {MODEL: graphs.doubling() + b"\x3a" + _varint(len(inner)) + inner})
    assert report.code in ("invalid_model", "unsupported_artifact")


def test_ar_15_damaged_models_are_refused_as_such(tmp_path: Path) -> None:
    """Empty, truncated, of an unknown opset, cyclic, and without a graph: `invalid_model`."""
    whole = graphs.doubling()
    nodes = [
        helper.make_node("Add", ["input", "b"], ["a"]),
        helper.make_node("Add", ["input", "a"], ["b"]),
        helper.make_node("Add", ["a", "b"], ["output"]),
    ]
    node = helper.make_node("Add", ["input", "input"], ["output"])
    damaged = {
        "empty": b"",
        "truncated": whole[:-15],
        "opset": content_of(graph_of([node], opset=9_999)),
        "cyclic": content_of(graph_of(nodes)),
        "nothing": b"\x08\x09",
    }
    codes = {
        name: look(tmp_path / name, {MODEL: content}).code for name, content in damaged.items()
    }
    assert codes == dict.fromkeys(damaged, "invalid_model")


def test_ar_15_a_model_file_of_two_gibibytes_is_not_even_read(tmp_path: Path) -> None:
    """What protobuf cannot hold is refused by its size."""
    file = tmp_path / MODEL
    with file.open("wb") as content:
        content.truncate(MAX_MODEL_BYTES + 1)
    with pytest.raises(Rejected, match="2147483648"):
        read_model(file)


def _varint(number: int) -> bytes:
    parts = []
    while number > 127:
        parts.append(number & 127 | 128)
        number >>= 7
    return bytes([*parts, number])
