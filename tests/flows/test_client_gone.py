import asyncio
import json
from urllib.parse import urlsplit

from serving.core.predictions import Fate, PredictionRecord
from tests.catalogue import SLOW
from tests.places import Place, a_row, eventually


def ended(place: Place, subject: str) -> list[PredictionRecord]:
    return [record for record in place.records() if record.principal == subject]


async def ask_and_leave(place: Place, subject: str) -> None:
    """Sends a whole request and closes the connection instead of waiting for the answer."""
    body = json.dumps(a_row(SLOW, timeout=20_000_000)).encode()
    authorization = place.authorization(subject)["Authorization"]
    address = urlsplit(place.url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    writer.write(
        f"POST /v2/models/twin/infer HTTP/1.1\r\nHost: here\r\nAuthorization: {authorization}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        + body
    )
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    assert await reader.read() == b""


async def test_client_that_left_is_recorded_as_gone(place: Place) -> None:
    """A request whose caller hung up ends with exactly one record, which says so."""
    await ask_and_leave(place, "gone")

    await eventually(lambda: ended(place, "gone"))
    async with place.client() as client:
        after = await client.post("/v2/models/twin/infer", json=a_row(1, timeout=20_000_000))
    assert after.status_code == 200
    assert [record.fate for record in ended(place, "gone")] == [Fate.CLIENT_GONE]
