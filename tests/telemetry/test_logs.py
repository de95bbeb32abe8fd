"""Log lines: one JSON object each, whatever is logged, and nothing that should not be there."""

import io
import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog
from hypothesis import HealthCheck, given
from hypothesis import settings as profile
from hypothesis import strategies as st

from serving.telemetry import logs

Lines = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def output() -> Iterator[io.BytesIO]:
    """Where this process logs for the length of a test."""
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    stream = io.BytesIO()
    logs.configure(process="gateway-0", level="info", output=stream)
    yield stream
    root.handlers, root.level = handlers, level
    logging.getLogger("opentelemetry").setLevel(logging.NOTSET)
    structlog.reset_defaults()


@pytest.fixture
def lines(output: io.BytesIO) -> Lines:
    return lambda: [json.loads(line) for line in output.getvalue().split(b"\n")[:-1]]


def test_a_line_names_time_level_process_and_event(lines: Lines) -> None:
    """These come first, then what the call named."""
    structlog.get_logger().warning("replica lost", replica="r1", rows=3)

    (line,) = lines()

    assert list(line) == ["time", "level", "process", "event", "replica", "rows"]
    assert (line["level"], line["process"], line["event"]) == (
        "warning",
        "gateway-0",
        "replica lost",
    )
    assert line["time"].endswith("Z")


def test_the_level_filters(lines: Lines) -> None:
    """Below the configured level nothing is written."""
    structlog.get_logger().debug("details")

    assert lines() == []


def test_a_trace_id_is_bound(lines: Lines) -> None:
    """Lines of a traced request carry its trace id in hexadecimal."""
    logs.for_trace(structlog.get_logger(), b"\xab" * 16).info("slow")

    assert lines()[0]["trace_id"] == "ab" * 16


@given(
    st.dictionaries(st.text(), st.text() | st.binary() | st.integers() | st.floats(), max_size=5)
)
@profile(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_ob_05_any_field_gives_one_printable_line(
    output: io.BytesIO, fields: dict[str, object]
) -> None:
    """Control characters, escapes and odd types in names and values stay inside one line of JSON."""
    output.seek(0)
    output.truncate()

    structlog.get_logger().info(
        "seen", values=fields, **{f"x{key}": v for key, v in fields.items()}
    )

    text = output.getvalue().decode()
    assert text.count("\n") == 1
    assert all(
        character.isprintable() or character in " \n\xa0" or ord(character) > 0x9F
        for character in text
    )
    assert json.loads(text)["event"] == "seen"


@pytest.mark.parametrize(
    "hostile", ["\n{}", "\x1b[31m", "\x00", "\x9b31m", "\u202e", "\u2028", "\ud800"]
)
def test_ob_05_nothing_reaches_a_terminal_raw(output: io.BytesIO, hostile: str) -> None:
    """Line ends, escape sequences, NUL and reversed writing are escaped, in the event too."""
    structlog.get_logger().info(f"model {hostile}", name=hostile)

    text = output.getvalue().decode().removesuffix("\n")

    assert hostile not in text
    assert text.isprintable()


def test_ob_05_long_fields_are_cut(lines: Lines, output: io.BytesIO) -> None:
    """A megabyte of text, and a hundred fields, leave one short line."""
    structlog.get_logger().info("a" * 1_000_000, **{f"f{n}": "b" * 10_000 for n in range(100)})

    (line,) = lines()
    assert line["event"].endswith("… (1000000 characters)")
    assert len(line) == 32
    assert len(output.getvalue()) < 100_000


def test_ob_06_credentials_are_masked(output: io.BytesIO) -> None:
    """A value whose name promises a credential is never written, at any depth."""
    canary = "canary-7f3a"
    structlog.get_logger().info(
        "request",
        authorization=canary,
        access_token=canary,
        headers={"Authorization": canary, "X-API-Key": [canary]},
        apikey=canary,
    )

    assert canary.encode() not in output.getvalue()


def test_exceptions_tell_type_message_and_place(lines: Lines) -> None:
    """The cause is told too; values of local variables are not."""
    try:
        fail("canary-7f3a")
    except ValueError:
        structlog.get_logger().exception("failed")

    (line,) = lines()
    assert (line["exception"]["type"], line["exception"]["message"]) == ("ValueError", "outer\n")
    assert line["exception"]["cause"] == "KeyError('inner')"
    assert line["exception"]["frames"][-1].endswith(" fail")
    assert "canary" not in json.dumps(line)


def fail(_local: str) -> None:
    raise ValueError("outer\n") from KeyError("inner")


def test_the_standard_library_logs_in_the_same_form(lines: Lines) -> None:
    """Warnings of other libraries become lines; their chatter and the exporter's do not."""
    logging.getLogger("ray").warning("worker %s left", "w1")
    logging.getLogger("ray").info("chatter")
    logging.getLogger("opentelemetry.exporter").error("export failed")

    (line,) = lines()
    assert (line["event"], line["logger"], line["process"]) == (
        "worker w1 left",
        "ray",
        "gateway-0",
    )
