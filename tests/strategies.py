"""All Hypothesis strategies of the suite, by what they draw."""

import itertools
import json
import math
from dataclasses import dataclass
from typing import Any, Final

from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from serving.core.batches import (
    BatchAnswer,
    BatchPart,
    Buffer,
    RowBatch,
    RowFailure,
    SpanLink,
    TensorBlock,
)
from serving.core.elements import join_elements
from serving.core.models import Digest
from serving.core.tensors import DTYPES, MAX_RANK, Array

# -- frames ----------------------------------------------------------------------------------------

U32: Final = st.integers(0, 2**32 - 1)
U64: Final = st.integers(0, 2**64 - 1)
EXTREMES: Final = st.sampled_from([0, 1, 2**8, 2**16 - 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1])


@st.composite
def row_shapes(draw: st.DrawFn) -> tuple[int, ...]:
    """Shapes without rows, of any rank the format has, of at most 64 elements; some are empty."""
    rank = draw(st.integers(0, MAX_RANK))
    shape: list[int] = []
    for _ in range(rank):
        room = 64 // max(math.prod(shape), 1)
        shape.append(draw(st.integers(0, min(room, 4))))
    return tuple(shape)


@st.composite
def tensor_blocks(draw: st.DrawFn, rows: int) -> TensorBlock:
    """A tensor of `rows` rows of any datatype, its rows in one buffer or in several."""
    datatype = draw(st.sampled_from(list(DTYPES)))
    shape = draw(row_shapes())
    whole = draw(raw_rows(datatype, shape, rows))
    edges = TensorBlock(datatype, shape, (whole,)).row_edges(rows)
    cuts = sorted({0, rows, *draw(st.lists(st.integers(0, rows), max_size=3))})
    buffers: list[Buffer] = [
        whole[edges[start] : edges[stop]] for start, stop in itertools.pairwise(cuts)
    ]
    return TensorBlock(datatype, shape, buffers or [b""])


@st.composite
def raw_rows(draw: st.DrawFn, datatype: str, shape: tuple[int, ...], rows: int) -> bytes:
    """The raw form of any tensor of this shape; bytes of BOOL are whatever comes."""
    count = rows * math.prod(shape)
    if datatype == "BYTES":
        elements = st.lists(st.binary(max_size=6), min_size=min(count, 64), max_size=min(count, 64))
        return join_elements((draw(elements) * count)[:count] if count else [])
    size = count * DTYPES[datatype].itemsize
    return draw(st.binary(min_size=size, max_size=size))


@st.composite
def row_batches(draw: st.DrawFn) -> RowBatch:
    """What a gateway may send."""
    rows = draw(st.integers(1, 6))
    link = st.builds(
        SpanLink,
        row=st.integers(0, rows - 1),
        trace_id=st.binary(min_size=16, max_size=16),
        span_id=st.binary(min_size=8, max_size=8),
    )
    return RowBatch(
        digest=Digest(draw(st.binary(min_size=32, max_size=32)).hex()),
        rows=rows,
        tensors=tuple(draw(st.lists(tensor_blocks(rows), max_size=4))),
        budget_us=draw(U32),
        links=tuple(draw(st.lists(link, max_size=3))),
        sent_us=draw(U32),
    )


@st.composite
def batch_answers(draw: st.DrawFn) -> BatchAnswer:
    """What a replica may answer: rows in parts, some of them failed."""
    counts = draw(st.lists(st.integers(1, 3), min_size=1, max_size=4))
    rows = sum(counts)
    parts = [
        BatchPart(count, draw(U64), draw(U32), draw(U32), draw(U32), draw(U32)) for count in counts
    ]
    failures = st.dictionaries(st.integers(0, rows - 1), st.sampled_from(RowFailure))
    return BatchAnswer(
        rows=rows,
        outputs=tuple(draw(st.lists(tensor_blocks(rows), max_size=3))),
        parts=tuple(parts),
        failures=draw(failures),
    )


@st.composite
def pieces(draw: st.DrawFn, stream: bytes) -> list[bytes]:
    """`stream`, cut anywhere into non-empty pieces."""
    inner = st.integers(1, max(len(stream) - 1, 1))
    cuts = sorted({0, len(stream), *draw(st.lists(inner, max_size=12))})
    return [stream[a:b] for a, b in itertools.pairwise(cuts)]


# -- tensors ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Tensor:
    """An array with the protocol's name of its datatype."""

    datatype: str
    array: Array


def datatypes() -> st.SearchStrategy[str]:
    return st.sampled_from(sorted(DTYPES))


@st.composite
def tensors(
    draw: st.DrawFn, datatype: st.SearchStrategy[str] | None = None, *, finite: bool = True
) -> Tensor:
    """Any tensor of one to four dimensions, none of them zero."""
    name = draw(datatypes() if datatype is None else datatype)
    shape = draw(hnp.array_shapes(min_dims=1, max_dims=4, max_side=4))
    dtype = DTYPES[name]
    if name == "BYTES":
        # UTF-8: what is not is refused, because neither JSON nor an ONNX model could say it.
        texts = draw(hnp.arrays(object, shape, elements=st.text(max_size=5).map(str.encode)))
        return Tensor(name, texts)
    if name == "BF16":
        bits = st.integers(0, 2**16 - 1).filter(lambda n: not finite or n & 0x7F80 != 0x7F80)
        return Tensor(name, draw(hnp.arrays("<u2", shape, elements=bits)).view(dtype))
    elements = hnp.from_dtype(dtype, allow_nan=not finite, allow_infinity=not finite)
    return Tensor(name, draw(hnp.arrays(dtype, shape, elements=elements)))


# -- HTTP ------------------------------------------------------------------------------------------

PATHS: Final = st.sampled_from(["/", "/a", "/a/b", "/a%2Fb", "/a?b=c", "/v2/models/m/infer"])
TOKENS: Final = st.text("abcXYZ019-", min_size=1, max_size=12)


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """A valid request: its bytes, and what an application should see of it.

    last: the server closes after its answer.
    """

    raw: bytes
    method: str
    path: str
    body: bytes
    last: bool


def segmentations(data: bytes) -> st.SearchStrategy[list[bytes]]:
    """`data` in pieces; an empty piece is a pause between two others."""

    def cut(places: list[int]) -> list[bytes]:
        edges = [0, *sorted(places), len(data)]
        return [data[start:end] for start, end in itertools.pairwise(edges)]

    return st.lists(st.integers(0, len(data)), max_size=40).map(cut)


@st.composite
def chunked(draw: st.DrawFn, content: bytes) -> bytes:
    """A chunked encoding of `content`: any cuts, sizes written in any way, extensions, trailers."""
    pieces = [piece for piece in draw(segmentations(content)) if piece]
    encoded = b""
    for piece in pieces:
        size = draw(st.sampled_from(["%x", "%X", "%04x"])) % len(piece)
        encoded += size.encode() + draw(_extensions()) + b"\r\n" + piece + b"\r\n"
    trailers = draw(st.lists(st.builds(b"%b: %b\r\n".__mod__, _pairs()), max_size=2))
    return encoded + b"0" + draw(_extensions()) + b"\r\n" + b"".join(trailers) + b"\r\n"


@st.composite
def http_requests(draw: st.DrawFn) -> HttpRequest:
    """A valid request with any framing of its body, maybe behind empty lines."""
    method, path = draw(st.sampled_from(["GET", "POST", "PUT"])), draw(PATHS)
    body = draw(st.one_of(st.just(b""), st.binary(max_size=60)))
    framing = draw(st.sampled_from(["sized", "chunked"]))
    headers = [("Host", "here"), *draw(st.lists(_headers(), max_size=3))]
    last = draw(st.sampled_from([False, False, False, True]))
    if last:
        headers.append(("Connection", "close"))
    if framing == "chunked":
        headers.append(("Transfer-Encoding", "chunked"))
    elif body or draw(st.booleans()):
        headers.append(("Content-Length", str(len(body))))
    lines = [f"{method} {path} HTTP/1.1", *(f"{k}: {v}" for k, v in draw(st.permutations(headers)))]
    head = draw(st.sampled_from(["", "", "\r\n", "\r\n\r\n"])) + "\r\n".join(lines) + "\r\n\r\n"
    coded = draw(chunked(body)) if framing == "chunked" else body
    return HttpRequest(head.encode() + coded, method, path.partition("?")[0], body, last)


def heads() -> st.SearchStrategy[bytes]:
    """Request heads, most of them valid."""
    junk = st.binary(max_size=40).map(lambda line: line.replace(b"\r\n", b""))
    line = st.one_of(
        st.sampled_from([b"GET / HTTP/1.1", b"POST /a HTTP/1.0", b"HEAD /b HTTP/1.1"]),
        st.builds(b"%b %b HTTP/1.1".__mod__, st.tuples(TOKENS.map(str.encode), junk)),
    )
    header = st.one_of(
        st.builds(b"%b: %b".__mod__, _pairs()),
        st.sampled_from([b"Host: here", b"Connection: close", b"Content-Length: 3", b"Expect: x"]),
        junk,
    )
    headers = st.lists(header, max_size=5)
    return st.builds(
        lambda first, rest: b"\r\n".join([first, b"Host: here", *rest]) + b"\r\n\r\n", line, headers
    )


def http_streams() -> st.SearchStrategy[list[bytes]]:
    """Whatever may arrive on a connection: requests, pieces of requests and junk, in segments."""
    fragment = st.one_of(
        http_requests().map(lambda drawn: drawn.raw),
        heads(),
        st.binary(max_size=30),
        st.sampled_from(
            [b"\r\n", b"\n", b"0\r\n\r\n", b"5\r\nhello\r\n", b"Content-Length: 5\r\n", b" "]
        ),
    )
    return st.lists(fragment, max_size=5).map(b"".join).flatmap(segmentations)


def _headers() -> st.SearchStrategy[tuple[str, str]]:
    return st.tuples(TOKENS.map("X-{}".format), st.text("abc, ;=019", max_size=12))


def _pairs() -> st.SearchStrategy[tuple[bytes, bytes]]:
    return _headers().map(lambda pair: (pair[0].encode(), pair[1].encode()))


def _extensions() -> st.SearchStrategy[bytes]:
    return st.sampled_from([b"", b"", b"", b";a", b";a=b", b';a="b c"', b";a;b=1"])


# -- JSON ------------------------------------------------------------------------------------------


def json_values() -> st.SearchStrategy[Any]:
    """Any JSON document of moderate size."""
    scalars = st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=8)
    )
    return st.recursive(
        scalars,
        lambda inner: (
            st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
        ),
        max_leaves=12,
    )


def inference_messages() -> st.SearchStrategy[bytes]:
    """Bodies that look like inference requests, most of them wrong somewhere."""
    shape = st.one_of(st.lists(st.integers(-1, 4), max_size=3), json_values())
    data = st.one_of(
        st.lists(st.one_of(st.integers(-5, 300), st.floats(width=32)), max_size=6),
        st.lists(st.text(max_size=4), max_size=6),
        json_values(),
    )
    sizes = st.fixed_dictionaries({"binary_data_size": st.integers(-4, 40)})
    tensor = st.fixed_dictionaries(
        {"name": st.sampled_from(["x", "y"]), "datatype": datatypes(), "shape": shape},
        optional={"data": data, "parameters": st.one_of(sizes, json_values())},
    )
    timeouts = st.fixed_dictionaries({"timeout": st.one_of(st.integers(), json_values())})
    forms = st.fixed_dictionaries(
        {}, optional={"binary_data": st.booleans(), "classification": st.integers(-1, 9)}
    )
    output = st.fixed_dictionaries(
        {"name": st.sampled_from(["x", "x", "z"])}, optional={"parameters": forms}
    )
    message = st.fixed_dictionaries(
        {"inputs": st.one_of(st.lists(tensor, max_size=3), json_values())},
        optional={
            "id": st.one_of(st.text(max_size=8), json_values()),
            "parameters": st.one_of(timeouts, json_values()),
            "outputs": st.one_of(st.lists(output, max_size=3), json_values()),
        },
    )
    return st.one_of(message, json_values()).map(lambda value: json.dumps(value).encode())


# -- batching --------------------------------------------------------------------------------------

COLUMNS: Final = st.integers(1, 3)
"""Row shapes that never share a batch."""

arrivals: Final = st.lists(st.tuples(st.integers(1, 9), COLUMNS), min_size=1, max_size=12)
"""Frames in order of arrival, as (rows, columns)."""

queue_steps: Final = st.lists(
    st.one_of(
        st.tuples(st.just("arrive"), st.integers(1, 5), COLUMNS, st.booleans()),
        st.tuples(
            st.sampled_from(["leave", "turn", "answer", "lose", "hand back", "open", "pass time"]),
            st.integers(0, 30),
            st.just(1),
            st.just(False),
        ),
    ),
    max_size=60,
)
"""What can happen to a queue: (what, how many rows or which one, columns, whether one is NaN)."""
