from pathlib import Path

from loadtests import grpc_load
from loadtests.payloads import a_row
from loadtests.servers import floor


def a_load(address: str, *, seconds: float = 0.3) -> grpc_load.GrpcLoad:
    """Eight callers with no token."""
    message = grpc_load.message("bench-m1", a_row())
    return grpc_load.GrpcLoad(address, (), message, callers=8, seconds=seconds)


def test_the_floor_is_measured(tmp_path: Path) -> None:
    """The fixed answer is an answer, and a run counts calls, times and CPU, and no errors."""
    with floor("grpc", tmp_path) as server:
        load = a_load(server.grpc_address)
        outputs = grpc_load.ask(load)
        outcome = grpc_load.run(load)

    assert outputs.shape == (8,)
    assert outcome.requests > 0
    assert outcome.errors == 0
    assert 0 < outcome.p50_ms <= outcome.p99_ms <= outcome.max_ms
    assert outcome.cpu_s > 0


def test_calls_that_fail_are_counted(tmp_path: Path) -> None:
    """A server that is gone is not measured as a fast one."""
    with floor("grpc", tmp_path) as server:
        address = server.grpc_address

    outcome = grpc_load.run(a_load(address))

    assert outcome.requests == 0
    assert outcome.errors > 0
