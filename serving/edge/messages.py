"""The inference request as JSON: its members, and the rules that a decoder of JSON does not check.

msgspec reads a message in one pass and takes the last of two members with one name, passes over
members that it does not know and does not look into their strings. So what a message says beside
its tensors' data is read a second time when, and only when, it holds a string that is not accounted
for: then there is something in it that was not read, or was read twice.
"""

import itertools
import json
import re
from collections.abc import Callable
from typing import Any, Final, TypeVar

import msgspec

from serving.errors import (
    DuplicateKey,
    JsonInvalid,
    JsonTooDeep,
    NonFiniteLiteral,
    RequestInvalid,
    ShapeInvalid,
)

MAX_DEPTH: Final = 64
MAX_KEYS: Final = 10_000
MAX_STRING_BYTES: Final = 1024 * 1024
MAX_ASIDE_BYTES: Final = 2 * 1024 * 1024
"""What a message may say beside its tensors' data."""

_IN_A_SHAPE: Final = re.compile(r"\$\.inputs\[\d+\]\.shape")
_NON_FINITE: Final = re.compile(rb"[\[,:]\s*-?(?:NaN|Infinity)\b")

Message = TypeVar("Message")
Parameters = dict[str, bool | int | float | str | None]


class InputMessage(msgspec.Struct, gc=False):
    name: str
    shape: list[int]
    datatype: str
    data: msgspec.Raw = msgspec.Raw()
    parameters: Parameters | None = None


class OutputMessage(msgspec.Struct, gc=False):
    name: str
    parameters: Parameters | None = None


class RequestMessage(msgspec.Struct, gc=False):
    inputs: list[InputMessage]
    id: str = ""
    parameters: Parameters | None = None
    outputs: list[OutputMessage] | None = None


class _InputOutline(msgspec.Struct, gc=False):
    name: msgspec.Raw
    data: msgspec.Raw = msgspec.Raw()


class _Outline(msgspec.Struct, gc=False):
    inputs: list[_InputOutline]


_decode = msgspec.json.Decoder(RequestMessage).decode
_decode_outline = msgspec.json.Decoder(_Outline).decode


def parse(part: bytes) -> RequestMessage:
    """Reads a message; `check_members` is still to be done.

    Raises a RequestInvalid; before anything is made of it when too much is said.
    """
    if len(part) > MAX_ASIDE_BYTES:
        outline = _checked(_decode_outline, part)
        if len(part) - sum(len(tensor.data) for tensor in outline.inputs) > MAX_ASIDE_BYTES:
            raise RequestInvalid(f"at most {MAX_ASIDE_BYTES} bytes may stand beside the data")
    return _checked(_decode, part)


def _checked(decode: Callable[[bytes], Message], part: bytes) -> Message:
    try:
        return decode(part)
    except RecursionError as error:
        raise JsonTooDeep("the JSON is nested too deeply") from error
    except msgspec.ValidationError as error:
        if _IN_A_SHAPE.search(str(error)):
            raise ShapeInvalid(f"not a shape: {str(error)[:160]}") from error
        raise RequestInvalid(f"not an inference request: {str(error)[:160]}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        if _NON_FINITE.search(part):
            raise NonFiniteLiteral("JSON has no NaN and no Infinity; send binary data") from error
        raise JsonInvalid("the body is not valid JSON") from error


def is_plain(part: bytes, message: RequestMessage) -> bool:
    """Whether `part` is `message` and nothing else, where its tensors' data are numbers in JSON.

    For messages without parameters and outputs: then the quotes in it are easily counted.
    """
    return part.count(b'"') == 12 * len(message.inputs) + (6 if message.id else 2)


def check_members(part: bytes, message: RequestMessage) -> bool:
    """Whether `message` is all that `part` says; if not, what else it says was found harmless.

    Raises DuplicateKey, JsonInvalid, JsonTooDeep or RequestInvalid.
    """
    data = [bytes(tensor.data) for tensor in message.inputs if tensor.data]
    marks = part.count(b'"') - sum(raw.count(b'"') for raw in data)
    aside_bytes = len(part) - sum(map(len, data))
    small = marks <= 2 * MAX_KEYS and aside_bytes <= MAX_STRING_BYTES
    if small and marks == 2 * _strings(message):
        return True
    # An equal piece elsewhere is as good: what is cut out is a whole value, or inside a string.
    for raw in data:
        part = part.replace(raw, b"0", 1)
    _read_strictly(part)
    return False


def _strings(message: RequestMessage) -> int:
    """How many strings, keys included, a message with these members has at least."""
    count = 1 + _strings_in(message.parameters)
    if message.id:
        count += 2
    for tensor in message.inputs:
        count += 5 + _strings_in(tensor.parameters) + bool(tensor.data)
    if message.outputs is not None:
        count += 1 + sum(2 + _strings_in(output.parameters) for output in message.outputs)
    return count


def _strings_in(parameters: Parameters | None) -> int:
    if parameters is None:
        return 0
    return 1 + len(parameters) + sum(isinstance(value, str) for value in parameters.values())


def _read_strictly(text: bytes) -> None:
    """Every member of every object, whoever reads it, within the limits above."""
    keys = 0

    def only_once(pairs: list[tuple[str, Any]]) -> list[Any]:
        nonlocal keys
        keys += len(pairs)
        if keys > MAX_KEYS:
            raise RequestInvalid(f"a message has at most {MAX_KEYS} members")
        if len({name for name, _ in pairs}) < len(pairs):
            raise DuplicateKey("an object has two members of one name")
        return list(itertools.chain.from_iterable(pairs))

    try:
        level = [json.loads(text, object_pairs_hook=only_once, parse_int=str, parse_float=str)]
    except RecursionError as error:
        raise JsonTooDeep("the JSON is nested too deeply") from error
    except ValueError as error:
        raise JsonInvalid("the body is not valid JSON") from error
    _check_depth(level)


def _check_depth(level: list[Any]) -> None:
    """level: values of one depth. Raises JsonTooDeep, or RequestInvalid for too long a string."""
    depth = 0
    while level:
        if any(isinstance(it, str) and len(it.encode()) > MAX_STRING_BYTES for it in level):
            raise RequestInvalid(f"a string has at most {MAX_STRING_BYTES} bytes")
        containers = [it for it in level if isinstance(it, list)]
        if containers and depth == MAX_DEPTH:
            raise JsonTooDeep(f"the JSON is nested more than {MAX_DEPTH} levels deep")
        depth += 1
        level = list(itertools.chain.from_iterable(containers))
