import asyncio
from collections.abc import Awaitable, Callable

import pytest

from serving.edge.heads import parse_head
from serving.edge.routes import Reply, Request, Route, Router
from serving.errors import NotReady
from serving.settings import HttpSettings
from tests.edge.wire import Answer, assert_problem, parse_answers, request, turn


class Asking:
    """A responder that keeps the answer, and lets the client go away."""

    def __init__(self) -> None:
        self.written = b""
        self.leave: Callable[[], object] = lambda: None

    def send(self, payload: bytes) -> None:
        self.written += payload

    def watch(self, gone: Callable[[], object]) -> None:
        self.leave = gone

    @property
    def answer(self) -> Answer:
        (answer,) = parse_answers(self.written)
        return answer


def ask(router: Router, method: str, target: str, *, body: bytes = b"") -> Asking:
    asking = Asking()
    block = request(method, target, "X-Name: Value")
    router(parse_head(block, HttpSettings()), memoryview(body), asking)
    return asking


def describe(asked: Request) -> Reply:
    return Reply(200, repr((asked.path, asked.arguments, asked.query, asked.body)).encode())


ROUTES = [
    Route("GET", "/things", describe),
    Route("GET", "/things/{thing}", describe),
    Route("PUT", "/things/{thing}", describe),
    Route("GET", "/things/{thing}/parts/{part}", describe),
]


@pytest.mark.parametrize(
    ("method", "target", "expected"),
    [
        ("GET", "/things", ("/things", {}, {}, b"")),
        ("GET", "/things/a%20b?x=1&y=&x=2", ("/things/a%20b", {"thing": "a b"}, {"x": "2", "y": ""}, b"")),
        ("PUT", "/things/a", ("/things/a", {"thing": "a"}, {}, b"")),
        ("GET", "/things/a/parts/b", ("/things/a/parts/b", {"thing": "a", "part": "b"}, {}, b"")),
    ],
)  # fmt: skip
def test_route_gets_its_arguments(method: str, target: str, expected: object) -> None:
    """A path finds its route; parts in braces and the query arrive decoded."""
    asking = ask(Router(ROUTES), method, target)

    assert repr(expected).encode() == asking.answer.body


def test_route_gets_headers_and_body() -> None:
    """Header names are lower-case; the body is bytes of its own."""
    seen: list[Request] = []

    def keep(asked: Request) -> Reply:
        seen.append(asked)
        return Reply(204)

    answer = ask(Router([Route("PUT", "/", keep)]), "PUT", "/", body=b"abc").answer

    assert (answer.status, seen[0].headers[b"x-name"], seen[0].body) == (204, b"Value", b"abc")


@pytest.mark.parametrize(
    "target",
    [
        *("/", "/thing", "/things/", "//things", "/Things", "/things/a/parts", "/things%2Fa"),
        *("/things/a/parts/b/", "/things;x=1", "/%2e%2e/things", "/things%00", "/things\\"),
        *("/things/a%2Fparts%2Fb/x", "/%ef%bc%8e%ef%bc%8e/things", "/%c0%ae%c0%ae/things"),
    ],
)
def test_ht_12_what_is_no_route_is_not_found(target: str) -> None:
    """Nothing but the exact path is a route; an encoded slash never makes another one."""
    answer = ask(Router(ROUTES), "GET", target).answer

    assert_problem(answer, 404, "not_found")


def test_encoded_slash_stays_in_its_segment() -> None:
    """`%2F` is a character of an argument, not a separator."""
    answer = ask(Router(ROUTES), "GET", "/things/..%2F..%2Fetc").answer

    assert b"'thing': '../../etc'" in answer.body


@pytest.mark.parametrize("method", ["POST", "TRACE", "CONNECT", "DELETE", "HEAD", "OPTIONS"])
def test_ht_11_wrong_method_is_told_the_right_ones(method: str) -> None:
    """A path that exists under other methods answers 405 and names them."""
    answer = ask(Router(ROUTES), method, "/things/a").answer

    assert_problem(answer, 405, "method_not_allowed")
    assert answer.headers["allow"] == "GET, PUT"


def refuse(_request: Request) -> Reply:
    raise NotReady("not yet")


def fail(_request: Request) -> Reply:
    raise ZeroDivisionError("secret detail")


async def refuse_later(_request: Request) -> Reply:
    await asyncio.sleep(0)
    raise NotReady("not yet")


async def fail_later(_request: Request) -> Reply:
    await asyncio.sleep(0)
    raise ZeroDivisionError("secret detail")


async def give_up(_request: Request) -> Reply:
    raise asyncio.CancelledError


@pytest.mark.parametrize("function", [refuse, refuse_later])
async def test_refusal_of_a_route_becomes_a_problem(
    function: Callable[[Request], Reply | Awaitable[Reply]],
) -> None:
    """What a route refuses is answered with its code, now or later."""
    asking = ask(Router([Route("GET", "/", function)]), "GET", "/")
    await turn()

    assert_problem(asking.answer, 503, "not_ready")


@pytest.mark.parametrize("function", [fail, fail_later, give_up])
async def test_surprise_in_a_route_tells_no_detail(
    function: Callable[[Request], Reply | Awaitable[Reply]],
) -> None:
    """An unexpected failure answers 500 without saying what went wrong."""
    asking = ask(Router([Route("GET", "/", function)]), "GET", "/")
    await turn()

    assert_problem(asking.answer, 500, "internal")
    assert b"secret" not in asking.written


async def test_long_poll_answers_when_it_is_done() -> None:
    """A route may take its time; others are answered meanwhile."""
    news = asyncio.Event()

    async def wait(_request: Request) -> Reply:
        await news.wait()
        return Reply(200, b"news")

    router = Router([Route("GET", "/wait", wait), *ROUTES])
    asking = ask(router, "GET", "/wait")
    await turn()
    assert asking.written == b""
    assert ask(router, "GET", "/things").answer.status == 200

    news.set()
    await turn()

    assert asking.answer.body == b"news"


@pytest.mark.parametrize("turns", [0, 5], ids=["at once", "later"])
async def test_long_poll_ends_when_its_client_goes(turns: int) -> None:
    """A poll whose client has gone is cancelled, even before it could begin."""
    running = set(asyncio.all_tasks())
    asking = ask(Router([Route("GET", "/", lambda _request: forever())]), "GET", "/")
    await turn(turns)

    asking.leave()
    await turn()

    assert running == asyncio.all_tasks()


async def forever() -> Reply:
    await asyncio.Event().wait()
    return Reply(200)
