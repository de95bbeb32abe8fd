"""Notifications: signed, retried, bounded, and never sent where they could do harm."""

import asyncio
import base64
import hashlib
import hmac
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from serving.core.calls import Call
from serving.errors import NotFound, ParameterInvalid, SeparationBroken
from serving.governance.addresses import Destination
from serving.governance.delivery import Deliveries
from serving.governance.sending import Message, send
from serving.governance.webhooks import Webhook
from serving.governance_settings import WebhookSettings
from serving.storage.worker import Worker
from tests.governance.offices import AUTHOR, GRACE, IVAN, Office
from tests.governance.receivers import Receiver, answering, dripping, flooding, hanging, receiving

LOCAL = WebhookSettings(allow=("127.0.0.0/8", "::1/128"), plain_text=True, timeout_s=20.0)
HASTY = LOCAL.model_copy(update={"timeout_s": 0.5})
STRICT = WebhookSettings(plain_text=True)
MESSAGE = Message("m-1", 1_700_000_000, b"{}")
SECRET = b"k" * 32


def url_of(receiver: Receiver, host: str = "127.0.0.1") -> str:
    return f"http://{host}:{receiver.port}/hook?x=1"


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/",
        "http://127.0.0.1./",
        "https://[::1]/",
        "https://[::]/",
        "https://0.0.0.0/",
        "https://10.0.0.1/",
        "https://172.16.3.4/",
        "https://192.168.1.1/",
        "https://100.64.0.1/",
        "https://169.254.169.254/latest/meta-data",
        "https://[fe80::1]/",
        "https://[fd00::1]/",
        "https://[ff02::1]/",
        "https://224.0.0.1/",
        "https://255.255.255.255/",
        "https://[::ffff:127.0.0.1]/",
        "https://[::ffff:7f00:1]/",
        "https://[::127.0.0.1]/",
        "https://[64:ff9b::7f00:1]/",
        "https://[2002:7f00:1::]/",
        "https://2130706433/",
        "https://0x7f000001/",
        "https://0x7f.1/",
        "https://017700000001/",
        "https://127.1/",
        "https://127.0.0.1.%31/",
        "gopher://example.com/",
        "file:///etc/passwd",
        "ftp://example.com/",
        "unix:///run/x.sock",
        "//example.com/",
        "example.com",
        "",
        "https://",
        "https://user@example.com/",
        "https://user:word@example.com/",
        "https://example.com/#fragment",
        "https://example.com:99999/",
        "https://exa mple.com/",
        "https://example.com/\r\nHost: other",
        "https://ex\u00e4mple.com/",
        "https://example.com\\@127.0.0.1/",
    ],
)
async def test_rg_09_url_that_must_not_be_called_is_refused(url: str) -> None:
    """When it is added, and again when something would be sent there."""
    with pytest.raises(ParameterInvalid):
        Destination.of(url, STRICT)

    assert not (await send(url, MESSAGE, secret=SECRET, settings=STRICT)).delivered


def test_http_takes_a_setting() -> None:
    """What is sent in plain text can be read on the way."""
    with pytest.raises(ParameterInvalid, match="https"):
        Destination.of("http://example.com/", WebhookSettings())

    assert Destination.of("https://example.com/a?b", WebhookSettings()).target == "/a?b"


async def test_rg_09_name_of_a_loopback_address_is_refused() -> None:
    """A name is judged by the addresses that it has when it is called: the listener sees nothing."""
    async with receiving(answering("200 OK")) as receiver:
        url = url_of(receiver, "localhost")
        Destination.of(url, STRICT)

        sent = await send(url, MESSAGE, secret=SECRET, settings=STRICT)

    assert (sent.delivered, receiver.connections) == (False, 0)
    assert "loopback" in sent.outcome


async def test_rg_09_name_that_changes_its_mind_gains_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One bad address among good ones spoils them, and the one that was judged is the one called."""
    asked: list[str] = []
    answers = [["203.0.113.9", "127.0.0.1"], ["127.0.0.2"], ["127.0.0.1"]]

    async def resolve(host: str, port: int, **_: Any) -> list[Any]:
        asked.append(host)
        return [(0, 0, 0, "", (each, port)) for each in answers.pop(0)]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolve)
    async with receiving(answering("200 OK"), host="127.0.0.2") as receiver:
        url = url_of(receiver, "hooks.example.com")
        mixed = await send(url, MESSAGE, secret=SECRET, settings=STRICT)
        pinned = await send(url, MESSAGE, secret=SECRET, settings=LOCAL)

    assert (mixed.delivered, pinned.delivered) == (False, True)
    assert asked == ["hooks.example.com"] * 2
    assert receiver.header("host") == f"hooks.example.com:{receiver.port}"


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "307 Temporary", "308 Permanent"])
async def test_rg_09_redirect_is_not_followed(status: str) -> None:
    """Wherever it leads: the other listener sees nothing."""
    async with receiving(answering("200 OK")) as inner:
        location = f"Location: {url_of(inner)}"
        async with receiving(answering(status, location)) as outer:
            sent = await send(url_of(outer), MESSAGE, secret=SECRET, settings=LOCAL)

    assert sent.outcome == f"redirect refused ({status.split(maxsplit=1)[0]})"
    assert (outer.connections, inner.connections) == (1, 0)


async def test_private_host_is_called_where_a_setting_names_it() -> None:
    """A network, or a host by its name."""
    named = WebhookSettings(allow=("localhost",), plain_text=True)
    async with receiving(answering("204 No Content")) as receiver:
        sent = await send(url_of(receiver, "localhost"), MESSAGE, secret=SECRET, settings=named)

    assert (sent.delivered, sent.outcome) == (True, "answered 204")


@pytest.mark.parametrize("behaviour", [hanging, dripping], ids=["hangs", "one byte at a time"])
async def test_rg_10_slow_target_costs_a_bounded_time(behaviour: Any) -> None:
    """The whole try has one limit, whatever the other side does with it."""
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    async with receiving(behaviour) as receiver:
        sent = await send(url_of(receiver), MESSAGE, secret=SECRET, settings=HASTY)

    assert (sent.delivered, sent.outcome) == (False, "not answered within 0.5 s")
    assert loop.time() - began_s < 5


async def test_rg_10_endless_answer_costs_bounded_memory() -> None:
    """The status is what matters; a gigabyte behind it is not read."""
    tracemalloc.start()
    async with receiving(flooding) as receiver:
        sent = await send(url_of(receiver), MESSAGE, secret=SECRET, settings=LOCAL)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert (sent.delivered, sent.outcome) == (True, "answered 200")
    assert peak_bytes < 16 * 1024 * 1024


class Post:
    """An office with one webhook, and the deliveries of its control process."""

    def __init__(self, folder: Path, receiver: Receiver) -> None:
        self.office = Office(folder, webhooks=LOCAL)
        self.worker = Worker(self.office.clock)
        made = self.office.order(
            "add_webhook", dict[str, Any], actor=IVAN, body={"url": url_of(receiver)}
        )
        self.webhook: str = made["webhook"]["id"]
        self.secret = base64.b64decode(made["secret"].removeprefix("whsec_"))
        self.deliveries = Deliveries(
            self.office.database,
            self.worker,
            settings=LOCAL,
            secret=self.office.secret,
            clock=self.office.clock,
        )

    def listed(self) -> Webhook:
        answer = self.office.desk.ask("webhooks", Call(actor=IVAN))
        found = json.loads(answer.content)["webhooks"]
        return Webhook(**{**found[0], "events": tuple(found[0]["events"])})


async def test_decision_is_told_signed_and_once(tmp_path: Path) -> None:
    """Opened, agreed, approved: three messages, each verified with the secret as it was shown."""
    async with receiving(answering("200 OK")) as receiver:
        post = Post(tmp_path, receiver)
        post.office.validate()
        request = post.office.open()
        post.office.decide(request, GRACE)
        first = await post.deliveries.turn()
        again = await post.deliveries.turn()
    post.worker.close()

    bodies = sorted((json.loads(body) for body in receiver.bodies), key=lambda b: b["at_ns"])
    assert (first, again) == (3, 0)
    assert {body["event"] for body in bodies} == {
        "governance:request:opened",
        "governance:approval:given",
        "governance:request:approved",
    }
    assert bodies[-1]["facts"]["request"]["digest"] == request.digest
    for at, body in enumerate(receiver.bodies):
        signed = ".".join(
            [receiver.header("webhook-id", at), receiver.header("webhook-timestamp", at), ""]
        )
        expected = hmac.new(post.secret, signed.encode() + body, hashlib.sha256).digest()
        given = receiver.header("webhook-signature", at).removeprefix("v1,")
        assert base64.b64decode(given) == expected
    assert (post.listed().waiting, post.listed().last) == (0, "answered 200")


async def test_failed_delivery_comes_again_with_pauses_and_is_given_up(tmp_path: Path) -> None:
    """With the same id each time; the pauses double; a receiver that never answers is left alone."""
    async with receiving(answering("500 Oops")) as receiver:
        post = Post(tmp_path, receiver)
        post.office.order("test_webhook", dict[str, Any], actor=IVAN, webhook=post.webhook)
        tries = []
        for _ in range(LOCAL.attempts + 2):
            tries.append(await post.deliveries.turn())
            early = await post.deliveries.turn()
            post.office.clock.advance(2000)
            assert early == 0
    post.worker.close()

    assert tries == [1] * LOCAL.attempts + [0, 0]
    assert len({receiver.header("webhook-id", at) for at in range(LOCAL.attempts)}) == 1
    assert (post.listed().failed, post.listed().last) == (1, "answered 500")
    assert post.deliveries.counts == {"delivered": 0, "retried": 7, "given_up": 1}


async def test_refused_decision_tells_of_the_refusal_only(tmp_path: Path) -> None:
    """What was rolled back tells nobody; who tried what does."""
    async with receiving(answering("200 OK")) as receiver:
        post = Post(tmp_path, receiver)
        post.office.validate()
        request = post.office.open()
        await post.deliveries.turn()
        with pytest.raises(SeparationBroken):
            post.office.decide(request, AUTHOR)
        await post.deliveries.turn()
    post.worker.close()

    last = json.loads(receiver.bodies[-1])
    assert len(receiver.bodies) == 2
    assert last["event"] == "governance:approval:refused"
    assert last["facts"]["code"] == "separation_of_duties"


def test_webhook_is_known_by_its_events_and_gone_when_removed(tmp_path: Path) -> None:
    """An event that nobody is told of is refused; what waits goes with its webhook."""
    office = Office(tmp_path, webhooks=LOCAL)
    body = {"url": "http://127.0.0.1:1/", "events": ["governance:override:*"]}
    made = office.order("add_webhook", dict[str, Any], actor=IVAN, body=body, key="k")
    webhook = made["webhook"]["id"]
    office.order("test_webhook", dict[str, Any], actor=IVAN, webhook=webhook)

    for wrong in ("access:key:made", "nothing", "x*"):
        with pytest.raises(ParameterInvalid, match="no event"):
            office.order("add_webhook", dict[str, Any], actor=IVAN, body=body | {"events": [wrong]})
    office.order("remove_webhook", dict[str, Any], actor=IVAN, webhook=webhook)

    with pytest.raises(NotFound):
        office.order("remove_webhook", dict[str, Any], actor=IVAN, webhook=webhook)
    assert office.events()[:2] == ["governance:webhook:removed", "governance:webhook:added"]
    with office.database.reading() as connection:
        stored = connection.execute(text("SELECT count(*) FROM operations")).scalar_one()
        waiting = connection.execute(text("SELECT count(*) FROM webhook_deliveries")).scalar_one()
    assert (stored, waiting) == (0, 0)
