import asyncio
from collections.abc import Awaitable, Callable

import pytest

from serving.access.authorization import may
from serving.access.permissions import Door
from serving.core.principals import Action, Principal, Role
from serving.edge.http1.heads import parse_head
from serving.edge.routes import NOBODY, Headers, Reply, Request, Route, Router
from serving.errors import NotReady, ServingError, Unauthenticated
from serving.port_settings import HttpSettings
from tests.edge.wire import Answer, assert_problem, parse_answers, request, turn


class Asking:
    """A responder that keeps the answer, and lets the client go away."""

    def __init__(self) -> None:
        self.written = b""
        self.leave: Callable[[], object] = lambda: None

    def send(self, payload: bytes) -> None:
        self.written += payload

    def send_refusal(self, payload: bytes) -> None:
        self.send(payload)

    def peer(self) -> str:
        return "192.0.2.7"

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
def test_what_is_no_route_is_not_found(target: str) -> None:
    """Nothing but the exact path is a route; an encoded slash never makes another one."""
    answer = ask(Router(ROUTES), "GET", target).answer

    assert_problem(answer, 404, "not_found")


def test_encoded_slash_stays_in_its_segment() -> None:
    """`%2F` is a character of an argument, not a separator."""
    answer = ask(Router(ROUTES), "GET", "/things/..%2F..%2Fetc").answer

    assert b"'thing': '../../etc'" in answer.body


@pytest.mark.parametrize("method", ["POST", "TRACE", "CONNECT", "DELETE", "HEAD", "OPTIONS"])
def test_wrong_method_is_told_the_right_ones(method: str) -> None:
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


async def test_every_refusal_is_told_once_to_who_counts() -> None:
    """Whatever is answered with an error, at once or later, is counted once; answers are not."""
    counted: list[ServingError] = []
    routes = [Route("GET", "/fail", fail), Route("GET", "/later", fail_later), *ROUTES]
    router = Router(routes, refused=counted.append)

    for method, target in (("GET", "/nothing"), ("PUT", "/things"), ("GET", "/fail")):
        ask(router, method, target)
    ask(router, "GET", "/later")
    ask(router, "GET", "/things")
    await turn()

    codes = [error.code for error in counted]
    assert codes == ["not_found", "method_not_allowed", "internal", "internal"]


def stranger(_headers: Headers) -> Principal:
    raise Unauthenticated("who are you?")


@pytest.mark.parametrize("method", ["GET", "PUT", "HEAD", "OPTIONS", "PATCH"])
@pytest.mark.parametrize("target", ["/things", "/things/a", "/nothing", "/THINGS", "/things/", "/"])
def test_strangers_do_not_learn_what_is_there(method: str, target: str) -> None:
    """Who is not known is told so for every path and method, there or not."""
    permissions = {(route.method, route.path): Door.KNOWN for route in ROUTES}
    router = Router(ROUTES, identify=stranger, permissions=permissions)
    answer = ask(router, method, target).answer

    assert_problem(answer, 401, "unauthenticated")


@pytest.mark.parametrize(("method", "status"), [("GET", 200), ("POST", 405)])
def test_open_route_asks_nobody(method: str, status: int) -> None:
    """A route that says so is for everybody; which methods it takes is no secret either."""
    routes = [Route("GET", "/open", describe, is_open=True)]

    router = Router(routes, identify=stranger, permissions={("GET", "/open"): Door.OPEN})

    assert ask(router, method, "/open").answer.status == status


def test_route_is_told_who_asks() -> None:
    """What the door found out reaches the route; without a door it is nobody, who may nothing."""
    ada = Principal("ada", frozenset({Role.CALLER}))
    seen: list[Principal] = []

    def keep(asked: Request) -> Reply:
        seen.append(asked.principal)
        return Reply(204)

    routes = [Route("GET", "/", keep)]
    known = {("GET", "/"): Door.KNOWN}
    ask(Router(routes, identify=lambda _headers: ada, permissions=known), "GET", "/")
    ask(Router(routes), "GET", "/")

    assert seen == [ada, NOBODY]
    assert not [action for action in Action if may(NOBODY, action, "m")]


@pytest.mark.parametrize(
    "permissions",
    [None, {}, {("POST", "/"): Door.KNOWN}, {("GET", "/"): Door.OPEN}, {("GET", "/x"): Door.KNOWN}],
)
def test_az_01_router_is_not_built_over_a_route_without_a_fitting_permission(
    permissions: dict[tuple[str, str], Door] | None,
) -> None:
    """What the table of permissions does not have, or calls open when it is not, never serves."""
    routes = [Route("GET", "/", describe)]

    with pytest.raises(ValueError, match="This is a bug"):
        Router(routes, identify=stranger, permissions=permissions)


@pytest.mark.parametrize(("role", "status"), [(Role.CALLER, 403), (Role.OPERATOR, 200)])
def test_route_needs_its_permission(role: Role, status: int) -> None:
    """A known caller passes with a role that has the permission, and is told 403 otherwise."""
    ada = Principal("ada", frozenset({role}))
    routes = [Route("GET", "/", describe)]
    router = Router(
        routes,
        identify=lambda _headers: ada,
        permissions={("GET", "/"): Action.READ_STATUS},
    )

    assert ask(router, "GET", "/").answer.status == status


@pytest.mark.parametrize("query", ["api_key=x", "a=1&Access_Token=", "x=svk_1", "X-API-KEY=1"])
def test_az_11_credential_in_the_url_is_refused(query: str) -> None:
    """401 whoever asks, even with a good credential beside it."""
    ada = Principal("ada", frozenset(Role))
    router = Router(
        [Route("GET", "/", describe)],
        identify=lambda _headers: ada,
        permissions={("GET", "/"): Door.KNOWN},
    )

    assert_problem(ask(router, "GET", f"/?{query}").answer, 401, "unauthenticated")


def test_first_route_that_fits_is_taken() -> None:
    """A path with a name in it stands behind the exact one."""
    exact = Route("GET", "/things/all", lambda _request: Reply(200, b"all"))

    assert ask(Router([exact, *ROUTES]), "GET", "/things/all").answer.body == b"all"
