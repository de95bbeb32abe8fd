"""Log lines: one JSON object per line on standard error, for people and machines alike.

Every line has `time` (UTC), `level`, `event`, `process`, and what the call named; give `trace_id` where
one is known (`for_trace`). Lines are safe to print and to parse whatever a caller sent: text is cut,
control characters and everything that could move a terminal's cursor or turn the direction of
writing are escaped, and values whose names promise a credential are masked. Payloads are never
logged; nothing here could tell one from a text.

The standard library's loggers (Ray, OpenTelemetry, asyncio) come out in the same form.
"""

import logging
import re
import sys
from collections.abc import Mapping
from typing import Any, BinaryIO, Final

import orjson
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

MAX_TEXT: Final = 2048
MAX_FIELDS: Final = 32
MAX_FRAMES: Final = 20
LEADING: Final = ("time", "level", "process", "event")
MASK: Final = "[masked]"

_LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
_CREDENTIAL: Final = re.compile(r"authorization|token|secret|password|credential|api[-_]?key", re.I)
# JSON escapes the control characters below U+0020 itself; these it leaves as they are.
_UNPRINTABLE: Final = re.compile(
    "[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def configure(*, process: str, level: str, output: BinaryIO | None = None) -> None:
    """Sets up logging for this process. Call it once, before anything logs.

    process: names the process in every line. level: as in `telemetry.log_level`. output: standard
    error when None.
    """
    stream = output if output is not None else sys.stderr.buffer
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        _Named(process),
    ]
    structlog.configure(
        processors=[*shared, _sanitized, _rendered],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=structlog.BytesLoggerFactory(stream),
        cache_logger_on_first_use=False,
    )
    handler = _LineHandler([*shared, _sanitized, _rendered], stream)
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(max(_LEVELS[level], logging.WARNING))
    # A collector that is gone is told once by `spans` and counted; the SDK would tell every second.
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)


def for_trace(logger: Any, trace_id: bytes) -> Any:
    """`logger` with the trace id bound, as hexadecimal, in the name that Grafana and others use."""
    return logger.bind(trace_id=trace_id.hex())


class _Named:
    """Adds the name of the process."""

    def __init__(self, process: str) -> None:
        self._process = process

    def __call__(self, _logger: WrappedLogger, _name: str, event: EventDict) -> EventDict:
        event["process"] = self._process
        return event


class _LineHandler(logging.Handler):
    """Records of the standard library's loggers, as the same lines."""

    def __init__(self, processors: list[Processor], stream: BinaryIO) -> None:
        super().__init__()
        self._processors = processors
        self._logger = structlog.BytesLogger(stream)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            event: Any = {"event": record.getMessage(), "logger": record.name}
            if record.exc_info:
                event["exc_info"] = record.exc_info
            for processor in self._processors:
                event = processor(self._logger, record.levelname.lower(), event)
            self._logger.msg(event)
        except Exception:  # noqa: BLE001 - the protocol of logging handlers: never raise
            self.handleError(record)


def _sanitized(_logger: WrappedLogger, _name: str, event: EventDict) -> EventDict:
    """Every value as something short, printable and free of credentials."""
    error = event.pop("exc_info", None)
    if error:
        event["exception"] = _described(error)
    ordered = {name: event.pop(name) for name in LEADING if name in event} | dict(event)
    kept = list(ordered.items())[:MAX_FIELDS]
    return {_printable(name): _value(name, value) for name, value in kept}


def _rendered(_logger: WrappedLogger, _name: str, event: EventDict) -> bytes:
    return orjson.dumps(event, option=orjson.OPT_NON_STR_KEYS)


def _value(name: str, value: object) -> object:
    if _CREDENTIAL.search(name):
        return MASK
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**63 else str(value)[:MAX_TEXT]
    if isinstance(value, list | tuple):
        return [_value(name, item) for item in value[:MAX_FIELDS]]
    if isinstance(value, Mapping):
        kept = list(value.items())[:MAX_FIELDS]
        return {_printable(str(key)): _value(str(key), item) for key, item in kept}
    return _printable(value if isinstance(value, str) else str(value))


def _printable(text: str) -> str:
    cut = text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}… ({len(text)} characters)"
    return _UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", cut)


def _described(error: object) -> dict[str, object]:
    """Type, message and where it was raised; no values of local variables."""
    if error is True:
        error = sys.exc_info()[1]
    if isinstance(error, tuple):
        error = error[1]
    if not isinstance(error, BaseException):
        return {"type": str(error)}
    frames = []
    trace = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        frames.append(f"{code.co_filename}:{trace.tb_lineno} {code.co_qualname}")
        trace = trace.tb_next
    described: dict[str, object] = {
        "type": type(error).__name__,
        "message": str(error),
        "frames": frames[-MAX_FRAMES:],
    }
    if error.__cause__ is not None:
        described["cause"] = repr(error.__cause__)
    return described
