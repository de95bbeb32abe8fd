"""Keys of an address: kept fresh, kept when the issuer fails, never fetched for a request."""

import asyncio
import itertools
import math
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from serving.access.claims import Refusal
from serving.access.issuers import profile_of
from serving.access.keyrings import KeyRing, TrustedIssuer
from serving.access.refreshing import KeyRefresher
from serving.access.sources import KeyAddress
from serving.access.tokens import Authenticator
from serving.core.clock import Clock, ManualClock, SystemClock
from serving.errors import AuthUnavailable, SettingInvalid, Unauthenticated
from serving.settings import AccessSettings
from tests.access.key_server import KeyServer, body, cut_short, endless, status
from tests.access.signers import NOW_S, Signer, issuer_settings, key_set
from tests.edge.certificates import Authority

ONE, TWO, ATTACKER = (Signer("ES256", name, number) for number, name in enumerate("123"))


class Subject:
    """One issuer by address, and an authenticator that trusts it and nobody else."""

    def __init__(self, url: str, clock: Clock | None = None, **changes: Any) -> None:
        self.settings = issuer_settings(jwks_url=url, **{"fetch_timeout_s": 2.0} | changes)
        ring = KeyRing(self.settings.name)
        self.refresher = KeyRefresher(
            ring,
            KeyAddress(self.settings),
            settings=self.settings,
            clock=clock or ManualClock(),
        )
        self.authenticator = Authenticator(
            [TrustedIssuer(profile_of(self.settings), ring)], AccessSettings()
        )

    def status_of(self, token: bytes) -> int:
        """What a caller with this token is answered."""
        try:
            self.authenticator.authenticate(token, NOW_S)
        except Unauthenticated:
            return 401
        except AuthUnavailable:
            return 503
        return 200

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Subject"]:
        task = asyncio.create_task(self.refresher.run())
        try:
            yield self
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def read_well(subject: Subject) -> None:
    """Reads until it succeeds: where readings may fail soon, a busy machine is late for a good one."""
    async with asyncio.timeout(10):
        await subject.refresher.refresh()
        while subject.refresher.status().trouble:
            await subject.refresher.refresh()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - what is waited for happens in another thread
            await asyncio.sleep(0.005)


@pytest.fixture
def server() -> Iterator[KeyServer]:
    with KeyServer().running() as running:
        yield running


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


async def test_keys_of_an_address_verify(server: KeyServer) -> None:
    """After one reading the issuer's tokens are accepted, and nobody else's."""
    server.publish(key_set(ONE))
    subject = Subject(server.url)
    await subject.refresher.refresh()

    assert [subject.status_of(each.token()) for each in (ONE, TWO)] == [200, 401]
    assert subject.refresher.status().keys == 1


async def test_jw_09_a_token_makes_nobody_connect(server: KeyServer) -> None:
    """jku and x5u of a token that name a listener bring it no connection, whatever happens."""
    with KeyServer().running() as listener:
        server.publish(key_set(ONE))
        listener.publish(key_set(ATTACKER))
        subject = Subject(server.url, cool_down_s=0.01)
        headers: dict[str, Any] = {"jku": listener.url, "x5u": listener.url, "jwk": ATTACKER.jwk()}
        async with subject.running():
            await until(lambda: subject.refresher.asked)
            assert subject.status_of(ATTACKER.token(**headers)) == 401
            assert subject.status_of(ONE.token(**headers)) == 200
            await until(lambda: len(server.requests) == 2)

        assert listener.requests == []


async def test_jw_23_a_redirect_is_not_followed(server: KeyServer) -> None:
    """Its target is never asked, and the keys before it stay."""
    with KeyServer().running() as target:
        server.publish(key_set(ONE))
        target.publish(key_set(ATTACKER))
        subject = Subject(server.url)
        await subject.refresher.refresh()
        for code in (301, 302, 303, 307, 308):
            server.answer = status(code, Location=target.url)
            await subject.refresher.refresh()

        assert target.requests == []
    assert [subject.status_of(each.token()) for each in (ONE, ATTACKER)] == [200, 503]


async def test_jw_23_the_environment_names_no_proxy(
    server: KeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy of the environment would see, and could change, what is believed."""
    with KeyServer().running() as proxy:
        proxy.publish(key_set(ATTACKER))
        for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        server.publish(key_set(ONE))
        subject = Subject(server.url)
        await subject.refresher.refresh()

        assert proxy.requests == []
    assert subject.status_of(ONE.token()) == 200


async def test_the_connection_is_verified(tmp_path: Path) -> None:
    """Over https, a certificate of another authority than `ca_file`'s, or the usual ones, fails."""
    authority, other = Authority(tmp_path), Authority(tmp_path, "other")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(*authority.issue("server"))
    with KeyServer(tls=tls).running() as server:
        server.publish(key_set(ONE))
        for ca_file, expected in ((authority.file, 200), (other.file, 503), (None, 503)):
            subject = Subject(server.url, ca_file=ca_file)
            await subject.refresher.refresh()
            assert subject.status_of(ONE.token()) == expected

        assert len(server.requests) == 1


def test_a_missing_authority_file_stops_the_start(tmp_path: Path) -> None:
    """The message names it."""
    with pytest.raises(SettingInvalid, match=r"none\.pem"):
        Subject("https://127.0.0.1:1/", ca_file=tmp_path / "none.pem")


FAILURES: dict[str, Callable[[KeyServer], Any]] = {
    "500": lambda _: status(500),
    "404": lambda _: status(404),
    "204": lambda _: status(204),
    "timeout": lambda server: server.silence,
    "slow": lambda server: server.trickle,
    "endless": lambda _: endless,
    "cut short": lambda _: cut_short,
    "not json": lambda _: body(b"<html>log in</html>"),
    "not a set": lambda _: body(b"[]"),
    "empty": lambda _: body(b""),
    "empty set": lambda _: body(b'{"keys": []}'),
    "bad keys only": lambda _: body(key_set({"kty": "RSA"}, ONE.jwk(use="enc"))),
    "compressed": lambda _: body(b"\x1f\x8b\x08", Content_Encoding="gzip"),
    "too large": lambda _: body(key_set(ONE) + b" " * 300_000),
}


@pytest.mark.parametrize("failure", FAILURES)
async def test_jw_24_the_last_good_keys_stay_until_they_are_stale(
    server: KeyServer, clock: ManualClock, failure: str
) -> None:
    """However a reading fails: known keys work, unknown ones are 503, and so is all when stale."""
    server.publish(key_set(ONE))
    subject = Subject(server.url, clock, fetch_timeout_s=0.2, stale_s=600)
    await read_well(subject)
    known_failures = subject.refresher.status().failures
    assert subject.status_of(ONE.token()) == 200

    server.answer = FAILURES[failure](server)
    clock.advance(599)
    await subject.refresher.refresh()
    again, new = ONE.token({"jti": "2"}), TWO.token()
    before = [subject.status_of(each) for each in (ONE.token(), again, new)]
    clock.advance(2)
    await subject.refresher.refresh()
    after = [subject.status_of(each) for each in (ONE.token(), again, new)]

    assert (before, after) == ([200, 200, 503], [503, 503, 503])
    state = subject.refresher.status()
    assert (state.keys, state.failures - known_failures, round(state.age_s)) == (0, 2, 601)
    assert state.trouble.startswith(server.url)

    server.publish(key_set(TWO))
    await read_well(subject)
    assert [subject.status_of(each) for each in (again, new)] == [401, 200]
    assert subject.refresher.status().trouble == ""


async def test_jw_24_one_bad_key_does_not_harm_the_others(server: KeyServer) -> None:
    """It is left out; the reading is a good one."""
    server.publish(key_set({"kty": "RSA", "n": 7}, None, ONE))
    subject = Subject(server.url)
    await subject.refresher.refresh()

    assert subject.status_of(ONE.token()) == 200
    assert subject.refresher.status().failures == 0


async def test_jw_25_unknown_keys_cause_one_reading_per_cool_down(server: KeyServer) -> None:
    """Thousands of random kids are all 401, cause one reading more, and take no memory."""
    server.publish(key_set(ONE))
    subject = Subject(server.url, SystemClock(), cool_down_s=60)
    async with subject.running():
        await until(lambda: subject.refresher.asked)
        caller = ONE.token()
        assert subject.status_of(caller) == 200
        answers = {subject.status_of(TWO.token(kid=f"random-{n}")) for n in range(2000)}
        await asyncio.sleep(0.05)
        known = subject.status_of(caller)

    assert (answers, known) == ({401}, 200)
    assert len(server.requests) == 1
    assert subject.authenticator.statistics().entries == 1
    assert subject.authenticator.refusals() == {Refusal.KEY: 2000}


async def test_jw_25_readings_keep_their_distance(server: KeyServer) -> None:
    """While unknown kids never stop, the time between two readings is the cool-down or more."""
    server.publish(key_set(ONE))
    loop = asyncio.get_running_loop()
    times: list[float] = []
    publish = server.answer

    def timed(handler: Any) -> None:
        times.append(loop.time())
        publish(handler)

    server.answer = timed
    subject = Subject(server.url, SystemClock(), cool_down_s=0.05)
    async with subject.running():
        while len(times) < 5:
            assert subject.status_of(TWO.token()) in {401, 503}
            await asyncio.sleep(0.001)

    assert min(later - earlier for earlier, later in itertools.pairwise(times)) > 0.045


async def test_jw_26_a_new_key_works_after_one_reading(server: KeyServer) -> None:
    """A key used the moment it is published is refused until one reading is done, no longer.

    The first token that names it causes that reading at once, unless there was one within the
    cool-down (`cool_down_s`, 5 s by default), which is how long refusals can last at worst.
    """
    server.publish(key_set(ONE))
    subject = Subject(server.url, SystemClock(), cool_down_s=0.02, refresh_s=60)
    async with subject.running():
        await until(lambda: subject.status_of(ONE.token()) == 200)
        await asyncio.sleep(0.03)
        server.publish(key_set(ONE, TWO))
        assert subject.status_of(TWO.token()) == 401
        await until(lambda: subject.status_of(TWO.token()) == 200)

    assert len(server.requests) == 2


async def test_jw_26_a_key_published_ahead_is_never_refused(server: KeyServer) -> None:
    """Rotation as issuers do it: published one refresh before its use, nobody is refused."""
    server.publish(key_set(ONE))
    subject = Subject(server.url, SystemClock(), cool_down_s=0.01, refresh_s=0.02)
    answers = set()
    async with subject.running():
        await until(lambda: subject.refresher.asked)
        for current, following in ((ONE, TWO), (TWO, ATTACKER), (ATTACKER, ONE)):
            server.publish(key_set(current, following))
            seen = len(server.requests)
            while len(server.requests) < seen + 2:
                answers.add(subject.status_of(current.token()))
                await asyncio.sleep(0.001)
            answers.add(subject.status_of(following.token()))
            server.publish(key_set(following))

    assert answers == {200}


async def test_jw_27_a_withdrawn_key_ends_with_the_next_reading(server: KeyServer) -> None:
    """Tokens it signed are refused, those remembered from earlier requests included."""
    server.publish(key_set(ONE, TWO))
    subject = Subject(server.url)
    await subject.refresher.refresh()
    assert [subject.status_of(each.token()) for each in (ONE, TWO)] == [200, 200]

    server.publish(key_set(TWO))
    await subject.refresher.refresh()

    assert [subject.status_of(each.token()) for each in (ONE, TWO)] == [401, 200]
    assert subject.settings.refresh_s <= 300


async def test_jw_27_a_key_replaced_under_its_name_ends(server: KeyServer) -> None:
    """The same kid with another key, or for another algorithm, is another key."""
    old, new = Signer("RS256", "same"), Signer("RS256", "same", number=1)
    server.publish(key_set(old))
    subject = Subject(server.url)
    for published in (old, new, Signer("PS256", "same", number=1)):
        server.publish(key_set(published))
        await subject.refresher.refresh()
        others = [each for each in (old, new) if each != published]
        assert subject.status_of(published.token()) == 200
        assert [subject.status_of(each.token()) for each in others] == [401] * len(others)


async def test_jw_28_an_issuer_that_is_away_at_the_start(server: KeyServer) -> None:
    """Its tokens are 503 and the trouble is shown; when it comes back they are accepted."""
    server.answer = server.silence
    subject = Subject(server.url, SystemClock(), fetch_timeout_s=0.05, cool_down_s=0.02)
    assert subject.refresher.status().age_s == math.inf
    async with subject.running():
        assert subject.status_of(ONE.token()) == 503
        await until(lambda: subject.refresher.asked)
        assert subject.status_of(ONE.token()) == 503
        assert "did not answer" in subject.refresher.status().trouble
        server.publish(key_set(ONE))
        await until(lambda: subject.status_of(ONE.token()) == 200)

    assert subject.refresher.status().trouble == ""
    assert subject.authenticator.refusals().keys() == {Refusal.KEYS_UNAVAILABLE}


async def test_jw_28_nobody_listening_is_like_a_failure() -> None:
    """A refused connection is no exception for anybody but the operator."""
    with KeyServer().running() as gone:
        url = gone.url
    subject = Subject(url)
    await subject.refresher.refresh()

    assert subject.status_of(ONE.token()) == 503
    assert subject.refresher.status().failures == 1


async def test_jw_29_a_poisoned_set_lasts_until_the_next_reading(server: KeyServer) -> None:
    """A key that was there for a moment is gone with the next reading, and both leave a trace."""
    server.publish(key_set(ONE))
    subject = Subject(server.url)
    with capture_logs() as logs:
        for published in ([ONE], [ONE, ATTACKER], [ONE]):
            server.publish(key_set(*published))
            await subject.refresher.refresh()
            accepted = subject.status_of(ATTACKER.token())
            assert accepted == (200 if ATTACKER in published else 401)

    changes = [each for each in logs if each["event"] == "the keys of an issuer changed"]
    assert [(len(each["added"]), len(each["removed"])) for each in changes] == [
        (1, 0),
        (1, 0),
        (0, 1),
    ]
    assert changes[1]["added"] == changes[2]["removed"]
    assert changes[1]["added"][0].startswith("ES256:")


async def test_jw_07_an_issuer_cannot_write_into_the_log(server: KeyServer) -> None:
    """Names of keys, from tokens or from issuers, appear in no line of the log."""
    odd = Signer("ES256", "a\nforged")
    server.publish(key_set(odd, odd.jwk(use="enc"), ONE))
    subject = Subject(server.url)
    with capture_logs() as logs:
        await subject.refresher.refresh()
        assert subject.status_of(odd.token()) == 200
        subject.status_of(ONE.token(kid="b\nc"))

    for line in logs:
        assert "forged" not in str(line)
        assert "b\\nc" not in str(line)
