from pathlib import Path
from typing import Any, Final

import grpc  # type: ignore[import-untyped]  # it ships no types
import pytest
from grpc_reflection.v1alpha.reflection_pb2 import (  # type: ignore[import-untyped]
    ServerReflectionRequest,
    ServerReflectionResponse,
)

from serving.core.principals import Role
from serving.edge.grpc import inference_pb2
from serving.edge.grpc.server import SERVICES, GrpcServer
from serving.errors import AddressInUse, SettingInvalid
from serving.port_settings import GrpcSettings
from tests.edge.certificates import Authority
from tests.edge.grpc.wire import (
    INFER,
    SERVICE,
    Refusal,
    caller,
    encoded,
    refusal_of,
    rows,
    started,
)
from tests.places import InProcess, eventually

OPEN: Final = {f"{SERVICE}/ServerLive", f"{SERVICE}/ServerReady"}
"""Beside the health service, whose calls have tests of their own."""

REFLECTIONS: Final = [
    f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"
    for version in ("v1", "v1alpha")
]
CALLS: Final = [
    f"{SERVICE}/{call.name}"
    for call in inference_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods
]
MIB: Final = 1024 * 1024


async def counted(place: InProcess, code: str) -> float:
    return await place.place.metric("serving_refusals_total", code=code)


async def test_nothing_is_open_but_health(in_process: InProcess) -> None:
    """Without a token every call is refused alike, those that do not exist included."""
    closed = [*sorted({*CALLS, *REFLECTIONS} - OPEN), f"{SERVICE}/NoSuchCall", "/no.such/Call"]
    async with caller(in_process) as ada:
        refused = [await ada.refused(rows(1), path, metadata=()) for path in closed]
        open_calls = [len(await ada.call(path, metadata=())) for path in sorted(OPEN)]

    assert {(each.status, each.code) for each in refused} == {
        ("UNAUTHENTICATED", "unauthenticated")
    }
    assert len({each.text for each in refused}) == 1
    assert open_calls == [2, 2]
    assert await counted(in_process, "unauthenticated") == len(closed)


@pytest.mark.parametrize("values", [["Bearer x.y.z"], ["Basic YTpi"], ["", ""], ["GOOD", "GOOD"]])
async def test_a_wrong_token_gets_no_hint(in_process: InProcess, values: list[str]) -> None:
    """Whatever is wrong with a credential, even one that comes twice, the answer is the same."""
    async with caller(in_process) as ada:
        good = ada.metadata[0][1]
        metadata = tuple(("authorization", value.replace("GOOD", good)) for value in values)
        refused = await ada.refused(rows(1), metadata=metadata)
        missing = await ada.refused(rows(1), metadata=())

    assert (refused.status, refused.text) == ("UNAUTHENTICATED", missing.text)


def changed(**members: Any) -> bytes:
    message = rows(1)
    for name, value in members.items():
        setattr(message, name, value)
    return encoded(message)


def tensor(**members: Any) -> bytes:
    message = rows(1)
    for name, value in members.items():
        setattr(message.inputs[0], name, value)
    return encoded(message)


def without_contents() -> bytes:
    message = rows(1)
    message.inputs[0].ClearField("contents")
    return encoded(message)


def wanting(*outputs: str) -> bytes:
    message = rows(1)
    for output in outputs:
        message.outputs.add(name=output)
    return encoded(message)


REFUSED: Final = {
    "invalid_message": ("INVALID_ARGUMENT", b"\xff\xff"),
    "invalid_request": ("INVALID_ARGUMENT", wanting("z")),
    "invalid_shape": ("INVALID_ARGUMENT", encoded(rows())),
    "data_shape_mismatch": ("INVALID_ARGUMENT", without_contents()),
    "dtype_mismatch": ("INVALID_ARGUMENT", tensor(datatype="INT64")),
    "invalid_parameter": ("INVALID_ARGUMENT", encoded(rows(1, timeout=-1))),
    "model_not_found": ("NOT_FOUND", changed(model_name="tripler")),
    "forbidden": ("PERMISSION_DENIED", changed(model_version="2")),
    "deadline_exceeded": ("DEADLINE_EXCEEDED", encoded(rows(1, timeout=0))),
}


async def test_refusals_have_a_code_and_are_counted_once(in_process: InProcess) -> None:
    """Each mistake has its gRPC code, our code and a request id; none of them leaves a record."""
    async with caller(in_process) as ada:
        refused = {code: await ada.refused(message) for code, (_, message) in REFUSED.items()}

    assert {code: (it.status, it.code) for code, it in refused.items()} == {
        code: (status, code) for code, (status, _) in REFUSED.items()
    }
    assert all(each.request_id for each in refused.values())
    assert [await counted(in_process, code) for code in REFUSED] == [1] * len(REFUSED)
    assert in_process.place.records() == []


async def test_a_caller_over_its_limit_is_told_when_to_come_back(tmp_path: Path) -> None:
    """What HTTP answers with 429 is RESOURCE_EXHAUSTED here, with a RetryInfo."""
    async with (
        started(tmp_path, admission={"max_in_flight_per_caller": 1}) as place,
        caller(place) as ada,
    ):
        running = ada.call(INFER, encoded(rows(1e6, model="twin", timeout=20_000_000)))
        await eventually(lambda: place.worker.pipeline.admission.in_flight == 1)
        refused = await ada.refused(rows(1))
        await running

    assert (refused.status, refused.code) == ("RESOURCE_EXHAUSTED", "caller_limit")
    assert refused.retry_s is not None


@pytest.mark.parametrize("size", [1, 10], ids=["one_over", "ten_times"])
async def test_a_message_over_the_limit_is_refused(tmp_path: Path, size: int) -> None:
    """At the limit a message is read; over it the library refuses it and the port goes on."""
    async with started(tmp_path, grpc={"max_message_bytes": MIB}) as place, caller(place) as ada:
        at = await ada.refused(b"\xff" * MIB)
        over = await ada.refused(b"\xff" * (MIB + 1 if size == 1 else size * MIB))
        packed = await ada.refused(bytes(64 * MIB), compression=grpc.Compression.Gzip)
        after = await ada.infer(rows(1))

    assert at.code == "invalid_message"
    assert (over.status, packed.status) == ("RESOURCE_EXHAUSTED", "RESOURCE_EXHAUSTED")
    assert after.id == ""


async def test_metadata_over_the_limit_are_refused(in_process: InProcess) -> None:
    """The port says so and goes on."""
    async with caller(in_process) as ada:
        refused = await ada.refused(rows(1), metadata=(*ada.metadata, ("x", "y" * 64 * 1024)))
        after = await ada.infer(rows(1))

    assert refused.status == "RESOURCE_EXHAUSTED"
    assert after.model_name == "doubler"


@pytest.mark.parametrize("packing", [grpc.Compression.Gzip, grpc.Compression.Deflate])
async def test_compressed_messages_are_taken(in_process: InProcess, packing: Any) -> None:
    """A packed request is answered like a plain one."""
    async with caller(in_process) as ada:
        answer = await ada.infer(rows(1.5), compression=packing)

    assert list(answer.outputs[0].contents.fp32_contents) == [3.0, 0.0]


async def test_reflection_describes_what_is_served(in_process: InProcess) -> None:
    """Both names of the reflection service list our services and know their files."""
    asked = [
        ServerReflectionRequest(list_services=""),
        ServerReflectionRequest(file_containing_symbol="inference.GRPCInferenceService"),
    ]
    async with caller(in_process) as ada:
        for path in REFLECTIONS:
            stream = ada.channel.stream_stream(
                path,
                request_serializer=ServerReflectionRequest.SerializeToString,
                response_deserializer=ServerReflectionResponse.FromString,
            )(iter(asked), metadata=ada.metadata)
            listed, file = [answer async for answer in stream]
            names = {service.name for service in listed.list_services_response.service}
            assert names == set(SERVICES)
            (described,) = file.file_descriptor_response.file_descriptor_proto
            assert described == inference_pb2.DESCRIPTOR.serialized_pb


async def test_calls_for_facts_say_what_http_says(in_process: InProcess) -> None:
    """A model's metadata and the index come from the same facts on both wires."""
    request = inference_pb2.ModelMetadataRequest(name="doubler")
    async with caller(in_process, role=Role.OPERATOR) as boss:
        said = await boss.call(f"{SERVICE}/ModelMetadata", encoded(request))
        index = await boss.call(f"{SERVICE}/RepositoryIndex")
    async with in_process.place.client("boss", Role.OPERATOR) as client:
        model = (await client.get("/v2/models/doubler")).json()

    told = inference_pb2.ModelMetadataResponse.FromString(said)
    listed = inference_pb2.RepositoryIndexResponse.FromString(index).models
    assert (told.name, list(told.versions)) == (model["name"], model["versions"])
    assert [list(each.shape) for each in told.inputs] == [it["shape"] for it in model["inputs"]]
    assert [(each.name, each.version, each.state) for each in listed] == [
        ("doubler", "1", "READY"),
        ("doubler", "2", "READY"),
        ("twin", "1", "READY"),
    ]


async def test_a_token_without_the_model_learns_nothing_of_it(in_process: InProcess) -> None:
    """Facts of a candidate are an operator's: to a caller there is no such version."""
    request = inference_pb2.ModelMetadataRequest(name="doubler", version="2")
    async with caller(in_process) as ada:
        refused = await ada.refused(request, f"{SERVICE}/ModelMetadata")
        garbled = await ada.refused(b"\xff", f"{SERVICE}/ModelMetadata")

    assert (refused.status, refused.code) == ("NOT_FOUND", "model_not_found")
    assert garbled.code == "invalid_message"


@pytest.mark.parametrize("call", ["RepositoryModelLoad", "RepositoryModelUnload", "NoSuchCall"])
async def test_what_is_not_offered_is_unimplemented(in_process: InProcess, call: str) -> None:
    """Loading is for those who deploy; the answer says so, and is never a success."""
    async with caller(in_process, role=Role.OPERATOR) as boss:
        refused = await boss.refused(b"", f"{SERVICE}/{call}")

    assert (refused.status, refused.code) == ("UNIMPLEMENTED", "unsupported")


# -- TLS -------------------------------------------------------------------------------------------


async def answered(place: InProcess, credentials: Any) -> Refusal | int:
    """How a call over TLS ends: its refusal, or the length of the answer."""
    address = f"127.0.0.1:{place.settings.grpc.port}"
    authorization = place.place.authorization()["Authorization"]
    async with grpc.aio.secure_channel(address, credentials) as channel:
        call = channel.unary_unary(INFER)
        try:
            return len(
                await call(
                    encoded(rows(1)), metadata=(("authorization", authorization),), timeout=5
                )
            )
        except grpc.aio.AioRpcError as error:
            return refusal_of(error)


async def test_clients_show_certificates_where_an_authority_is_named(tmp_path: Path) -> None:
    """With TLS and a client authority: its clients are answered, others never reach a call."""
    authority, stranger = Authority(tmp_path), Authority(tmp_path, "stranger")
    certificate, key = authority.issue("server")
    client = [file.read_bytes() for file in reversed(authority.issue("client"))]
    unknown = [file.read_bytes() for file in reversed(stranger.issue("unknown"))]
    options = {"certificate": certificate, "key": key, "client_ca": authority.file}
    async with started(tmp_path / "instance", grpc=options) as place:
        ends = [
            await answered(place, grpc.ssl_channel_credentials(authority.certificate, *shown))
            for shown in (client, unknown, ())
        ]

    good, *bad = ends
    assert isinstance(good, int)
    assert [end.status for end in bad if isinstance(end, Refusal)] == ["UNAVAILABLE"] * 2


def another(place: InProcess, settings: GrpcSettings) -> GrpcServer:
    """A second port of the same worker."""
    worker = place.worker
    return GrpcServer.of(
        worker.pipeline,
        authenticator=worker.authenticator,
        readiness=worker,
        metrics=worker.metrics,
        now_s=worker.now_s,
        settings=settings,
    )


async def test_a_port_in_use_stops_the_start(in_process: InProcess) -> None:
    """The message names the setting. Workers of one product share theirs, so another address."""
    taken = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    port = taken.add_insecure_port("127.0.0.1:0")
    settings = in_process.settings.grpc.model_copy(update={"port": port})
    with pytest.raises(AddressInUse, match=f"grpc.port {port}"):
        await another(in_process, settings).listen()
    await taken.stop(None)


async def test_a_missing_certificate_stops_the_start(in_process: InProcess, tmp_path: Path) -> None:
    """The message names the setting and the file."""
    nowhere = {"certificate": tmp_path / "none.pem", "key": tmp_path / "none.key"}
    settings = in_process.settings.grpc.model_copy(update=nowhere)
    with pytest.raises(SettingInvalid, match=r"grpc: cannot read .*none.pem"):
        await another(in_process, settings).listen()
