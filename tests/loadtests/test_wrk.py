import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from loadtests import wrk
from loadtests.servers import Server, floor
from loadtests.wrk import Load, WrkFailed, parse, script

PRINTED = (
    "Running 2s test @ http://127.0.0.1:1/\n"
    "  1 threads and 64 connections\n"
    'wrk-outcome {"requests":61000,"seconds":2.001,"refused":3,"broken":2,"timeouts":1,'
    '"p50_ms":1.5,"p90_ms":2.5,"p99_ms":4.25,"p999_ms":8,"max_ms":9.125}\n'
)
NEEDS_WRK = pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with floor("edge", tmp_path) as server:
        yield server


def a_load(url: str, *, body: bytes = b"{}", connections: int = 2) -> Load:
    return Load(url=url, headers={"X-Quoted": 'a"b\\c'}, body=body, connections=connections)


def test_the_outcome_is_read_from_the_line_of_the_script() -> None:
    """wrk's own table is ignored; every failed request counts as an error, whatever its kind."""
    outcome = parse(PRINTED, cpu_s=0.5)

    assert (outcome.requests, outcome.seconds, outcome.p99_ms, outcome.cpu_s) == (
        61000,
        2.001,
        4.25,
        0.5,
    )
    assert outcome.errors == 6


@pytest.mark.parametrize(
    "text",
    ["", PRINTED.replace("wrk-outcome", "other"), PRINTED.replace("61000", "-nan"), PRINTED * 2],
    ids=["nothing", "no-line", "no-number", "two-lines"],
)
def test_an_unreadable_outcome_is_refused(text: str) -> None:
    """Nothing is guessed: without exactly one readable line there is no outcome."""
    with pytest.raises(WrkFailed, match="wrk printed"):
        parse(text)


def test_the_script_holds_no_byte_that_lua_could_misread() -> None:
    """Body and headers are written as decimal escapes, quotes and line ends too."""
    lines = script(a_load("http://unused", body=b'"\n\\\x00\xff')).splitlines()

    assert 'wrk.body = "\\034\\010\\092\\000\\255"' in lines


def test_a_missing_wrk_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without wrk the message says how to install it."""
    monkeypatch.setenv("PATH", "/nonexistent")

    with pytest.raises(WrkFailed, match="apt-get install wrk"):
        wrk.find()


@NEEDS_WRK
def test_wrk_reports_what_it_measured(server: Server, tmp_path: Path) -> None:
    """A run against a real server counts requests and its own CPU time, and leaves no script."""
    load = a_load(server.url_of("any"), body=bytes(range(256)))

    outcome = wrk.run(load, seconds=1, folder=tmp_path)

    assert outcome.errors == 0
    assert outcome.requests > 100
    assert 0 < outcome.p50_ms <= outcome.p99_ms <= outcome.max_ms
    assert outcome.cpu_s > 0
    assert list(tmp_path.glob("*.lua")) == []
