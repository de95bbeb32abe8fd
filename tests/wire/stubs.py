"""Makes the Python stubs of `serving/edge/grpc/inference.proto`: `python -m tests.wire.stubs`.

They get a descriptor pool of their own: clients of other makers describe the same package, and the
default pool takes it only once per process.
"""

from pathlib import Path
from typing import Final

import grpc_tools  # type: ignore[import-untyped]  # it ships no types
from grpc_tools import protoc

GRPC: Final = Path(__file__).resolve().parents[2] / "serving" / "edge" / "grpc"
STUBS: Final = ("inference_pb2.py", "inference_pb2.pyi")

_SHARED_POOL: Final = "_descriptor_pool.Default()"
_OWN_POOL: Final = "_descriptor_pool.DescriptorPool()"


def generate(folder: Path) -> None:
    """Writes the stubs into `folder`."""
    status = protoc.main([
        "protoc", f"--proto_path={GRPC}", f"--python_out={folder}", f"--pyi_out={folder}",
        "inference.proto",
    ])  # fmt: skip
    if status:
        raise SystemExit(status)
    stub = folder / STUBS[0]
    text = stub.read_text()
    if _SHARED_POOL not in text:
        raise SystemExit(f"protoc of grpcio-tools {grpc_tools.__file__} makes other stubs")
    stub.write_text(text.replace(_SHARED_POOL, _OWN_POOL))


if __name__ == "__main__":
    generate(GRPC)
