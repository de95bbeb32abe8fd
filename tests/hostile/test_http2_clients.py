"""The gRPC port as clients meet it that nobody here wrote: curl, nghttp, h2load, grpcio."""

import re
import shutil
import struct
import subprocess
from pathlib import Path
from typing import Final

import grpc  # type: ignore[import-untyped]  # it ships no types
import pytest

from serving.core.predictions import Fate
from serving.edge.grpc import inference_pb2
from tests.edge.grpc.wire import INFER, SERVICE, encoded, rows
from tests.edge.wire import Answer
from tests.hostile.http2_cases import Http2Case, asking

PATIENCE_S: Final = 30
MANY: Final = 2_000


def needed(program: str) -> str:
    """Where it is; skips the test where it is not."""
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"{program} is not installed")
    return found


def ran(*command: str) -> str:
    """What a program printed that must end well."""
    done = subprocess.run(  # noqa: S603 - programs found above
        command, capture_output=True, timeout=PATIENCE_S, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.decode("latin-1")


def curl(calls: Http2Case, folder: Path, *options: str, path: str = INFER) -> tuple[str, bytes]:
    """Heads with trailers, and the body, of what curl was answered."""
    (folder / "asked").write_bytes(asking(3.0))
    heads = ran(
        needed("curl"), "--http2-prior-knowledge", "--silent", "--dump-header", "-",
        "--output", str(folder / "answer"), "--header", "te: trailers",
        "--header", f"authorization: Bearer {calls.product.token}",
        *options, f"http://127.0.0.1:{calls.port}{path}",
    )  # fmt: skip
    answer = folder / "answer"
    return heads, answer.read_bytes() if answer.exists() else b""


def body_of(folder: Path) -> list[str]:
    kind = "content-type: application/grpc"
    return ["--header", kind, "--data-binary", f"@{folder / 'asked'}"]


def test_curl_gets_an_answer_with_its_trailers(calls: Http2Case, tmp_path: Path) -> None:
    """HTTP/2 200, the message, and grpc-status 0 behind it."""
    heads, body = curl(calls, tmp_path, *body_of(tmp_path))

    assert heads.startswith("HTTP/2 200")
    assert "grpc-status: 0" in heads
    (length,) = struct.unpack("!I", body[1:5])
    answer = inference_pb2.ModelInferResponse.FromString(body[5 : 5 + length])
    assert answer.outputs[0].contents.fp32_contents[0] == 6.0
    found = re.search(r"serving-prediction-id: (\S+)", heads)
    assert found is not None
    calls.ledger.answers.append(Answer(200, {"serving-prediction-id": found[1]}))


def test_curl_is_told_what_is_wrong(calls: Http2Case, tmp_path: Path) -> None:
    """405 for GET, 415 for JSON, and a grpc-status for a path that is no call."""
    assert curl(calls, tmp_path)[0].startswith("HTTP/2 405")
    as_json = ["--header", "content-type: application/json", "--data-binary", "{}"]
    assert curl(calls, tmp_path, *as_json)[0].startswith("HTTP/2 415")
    assert "grpc-status: 12" in curl(calls, tmp_path, *body_of(tmp_path), path="/no/such")[0]
    calls.forget_answers()


def test_curl_sends_a_large_body_within_the_windows(calls: Http2Case, tmp_path: Path) -> None:
    """15 MiB of zeros are no message that fits, which is told once they were taken, or before."""
    (tmp_path / "asked").write_bytes(struct.pack("!BI", 0, 15 << 20) + bytes(15 << 20))
    options = body_of(tmp_path)
    answer = tmp_path / "answer"
    heads = ran(
        needed("curl"), "--http2-prior-knowledge", "--silent", "--dump-header", "-",
        "--output", str(answer), "--header", "te: trailers",
        "--header", f"authorization: Bearer {calls.product.token}",
        *options, f"http://127.0.0.1:{calls.port}{INFER}",
    )  # fmt: skip

    assert "grpc-status: 3" in heads
    calls.forget_answers()


def test_nghttp_multiplexes(calls: Http2Case, tmp_path: Path) -> None:
    """Fifty calls at once on one connection of nghttp2, all with status 200."""
    (tmp_path / "asked").write_bytes(asking(3.0))
    printed = ran(
        needed("nghttp"), "--multiply=50", "--no-verify-peer", "--null-out", "--stat",
        f"--data={tmp_path / 'asked'}", "--header=:method: POST", "--header=te: trailers",
        "--header=content-type: application/grpc",
        f"--header=authorization: Bearer {calls.product.token}",
        f"http://127.0.0.1:{calls.port}{INFER}",
    )  # fmt: skip

    assert len(re.findall(rf"\s200\s+\S+\s+{re.escape(INFER)}", printed)) == 50
    calls.ledger.unacknowledged = range(50, 51)


@pytest.mark.parametrize(("clients", "streams"), [(1, 1), (4, 16), (1, 60)])
def test_h2load_is_answered_each_time(
    calls: Http2Case, tmp_path: Path, clients: int, streams: int
) -> None:
    """Every request of a load succeeds, and is a record."""
    (tmp_path / "asked").write_bytes(asking(3.0))
    count = MANY if streams > 1 else 200
    printed = ran(
        needed("h2load"), f"--requests={count}", f"--clients={clients}",
        f"--max-concurrent-streams={streams}", f"--data={tmp_path / 'asked'}",
        "--header=te: trailers", "--header=content-type: application/grpc",
        f"--header=authorization: Bearer {calls.product.token}",
        f"http://127.0.0.1:{calls.port}{INFER}",
    )  # fmt: skip

    assert f"{count} succeeded, 0 failed, 0 errored, 0 timeout" in printed
    assert f"status codes: {count} 2xx" in printed
    calls.ledger.unacknowledged = range(count, count + 1)
    assert {record.fate for record in calls.new_records()} == {Fate.OK}


@pytest.mark.parametrize("packing", [grpc.Compression.NoCompression, grpc.Compression.Gzip])
def test_grpcio_calls_all_at_once(calls: Http2Case, packing: grpc.Compression) -> None:
    """Two hundred futures on one channel, compressed or not: each gets the answer to its question."""
    token = (("authorization", f"Bearer {calls.product.token}"),)
    with grpc.insecure_channel(f"127.0.0.1:{calls.port}", compression=packing) as channel:
        ask = channel.unary_unary(INFER)
        asked = [ask.future(encoded(rows(float(-n))), metadata=token) for n in range(60)]
        for number, future in enumerate(asked):
            answer = inference_pb2.ModelInferResponse.FromString(future.result(PATIENCE_S))
            assert answer.outputs[0].contents.fp32_contents[0] == -2.0 * number
            told = dict(future.trailing_metadata()) | dict(future.initial_metadata())
            headers = {"serving-prediction-id": told["serving-prediction-id"]}
            calls.ledger.answers.append(Answer(200, headers))


def test_grpcio_cancels_and_goes_on(calls: Http2Case) -> None:
    """Futures that are cancelled are reset, and the channel stays as good as it was."""
    token = (("authorization", f"Bearer {calls.product.token}"),)
    with grpc.insecure_channel(f"127.0.0.1:{calls.port}") as channel:
        ask = channel.unary_unary(INFER)
        for _ in range(30):
            left = [ask.future(encoded(rows(1.0)), metadata=token) for _ in range(5)]
            for future in left:
                future.cancel()
        live = channel.unary_unary(f"{SERVICE}/ServerLive")
        assert live(b"", timeout=5) == b"\x08\x01"
    calls.ledger.unacknowledged = range(151)
    calls.forget_answers()
