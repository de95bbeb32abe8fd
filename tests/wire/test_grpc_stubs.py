"""The stubs are those of the proto text, and its fields are those of other makers' clients."""

import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any, Final

import pytest
from google.protobuf.descriptor_pb2 import (  # type: ignore[import-untyped]  # it ships no types
    DescriptorProto,
    FileDescriptorProto,
)

from serving.edge.grpc import inference_pb2
from tests.wire.stubs import GRPC, STUBS, generate

# Each client describes the package anew, and a process can hold only one of them.
DESCRIBE: Final = """
import importlib, json, sys
print(json.dumps([
    importlib.import_module(name).DESCRIPTOR.serialized_pb.hex() for name in sys.argv[1:]
]))
"""
CLIENTS: Final = {
    "tritonclient": ["tritonclient.grpc.service_pb2", "tritonclient.grpc.model_config_pb2"],
    "kserve": ["kserve.protocol.grpc.grpc_predict_v2_pb2"],
}

Field = tuple[int, int, str, int]


def fields_of(messages: list[DescriptorProto], prefix: str = "") -> dict[str, Field]:
    """Number, type, type name and label of every field, by the names of message and field."""
    found: dict[str, Field] = {}
    for message in messages:
        name = f"{prefix}{message.name}"
        for field in message.field:
            key = f"{name}.{field.name}"
            found[key] = (field.number, field.type, field.type_name, field.label)
        found |= fields_of(message.nested_type, f"{name}.")
    return found


@cache
def described_by(client: str) -> list[FileDescriptorProto]:
    done = subprocess.run(  # noqa: S603 - our own words
        [sys.executable, "-W", "ignore", "-c", DESCRIBE, *CLIENTS[client]],
        capture_output=True,
        text=True,
        check=True,
    )
    return [FileDescriptorProto.FromString(bytes.fromhex(it)) for it in json.loads(done.stdout)]


def calls_of(file: FileDescriptorProto) -> dict[str, tuple[str, str, bool, bool]]:
    """Messages and directions of every call, by its name."""
    return {
        call.name: (call.input_type, call.output_type, call.client_streaming, call.server_streaming)
        for service in file.service
        for call in service.method
    }


def ours() -> Any:
    return FileDescriptorProto.FromString(inference_pb2.DESCRIPTOR.serialized_pb)


def test_stubs_are_those_of_the_proto_text(tmp_path: Path) -> None:
    """Generating them again changes nothing: `python -m tests.wire.stubs` was not forgotten."""
    generate(tmp_path)

    stale = [name for name in STUBS if (tmp_path / name).read_text() != (GRPC / name).read_text()]
    assert stale == []


@pytest.mark.parametrize("client", CLIENTS)
def test_fields_are_those_of_other_makers(client: str) -> None:
    """Every field that a client knows, and we do, has its number and its type."""
    theirs: dict[str, Field] = {}
    for file in described_by(client):
        theirs |= fields_of(file.message_type)
    own = fields_of(ours().message_type)
    shared = own.keys() & theirs.keys()

    assert {key: own[key] for key in shared} == {key: theirs[key] for key in shared}
    assert {key for key in shared if key.startswith("ModelInfer")}


@pytest.mark.parametrize("client", CLIENTS)
def test_calls_are_those_of_other_makers(client: str) -> None:
    """Calls that both know have the same messages and stream in the same directions."""
    described = described_by(client)
    theirs = {name: call for file in described for name, call in calls_of(file).items()}
    own = calls_of(ours())

    shared = own.keys() & theirs.keys()
    assert [own[name] for name in shared] == [theirs[name] for name in shared]
    assert {"ServerLive", "ServerReady", "ModelReady", "ModelMetadata", "ModelInfer"} <= shared
