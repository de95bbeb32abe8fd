"""Frames between nodes: mutual TLS on either end, and the same answers as on one node."""

import asyncio
import socket
import ssl
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from serving.access.authority import LocalAuthority
from serving.core.batches import BatchAnswer, RowBatch
from serving.core.clock import SystemClock
from serving.core.traffic import ReplicaEndpoint
from serving.errors import SettingInvalid
from serving.gateway_settings import ChannelSettings
from serving.inference.channel import Channel
from serving.inference.listener import ReplicaListener
from serving.inference.places import ChannelCertificates, TlsPlace
from tests.inference.peers import batch_of, values_of
from tests.inference.replicas import VERSION
from tests.inference.runners import PATIENCE_S, FunctionRunner

Address = tuple[str, int]


def channel_of(authority: LocalAuthority) -> ChannelSettings:
    certificate, key = authority.server()
    return ChannelSettings(
        listen="tls",
        certificate=certificate,
        key=key,
        client_ca=authority.ca_file,
        connect_timeout_s=PATIENCE_S,
    )


@pytest.fixture
def authority(tmp_path: Path) -> LocalAuthority:
    return LocalAuthority(tmp_path / "ours", SystemClock())


@pytest.fixture
def listener(authority: LocalAuthority) -> Iterator[ReplicaListener]:
    settings = channel_of(authority)
    listener = ReplicaListener(
        FunctionRunner(VERSION),
        replica="r-1",
        place=TlsPlace("127.0.0.1", ChannelCertificates(settings)),
        channel=settings,
        run_timeout_s=PATIENCE_S,
        clock=SystemClock(),
    )
    listener.start()
    yield listener
    listener.stop(drain_s=1)


@dataclass
class Sent:
    """A frame that waits for its fate."""

    batch: RowBatch
    fate: "asyncio.Future[BatchAnswer]" = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )

    def answered(self, answer: BatchAnswer) -> None:
        self.fate.set_result(answer)

    def returned(self) -> None:
        self.fate.cancel()

    def lost(self) -> None:
        self.fate.cancel()


async def connected(address: str, settings: ChannelSettings) -> Channel:
    """A gateway's channel, greeted. Raises TimeoutError when nobody greets it."""
    changed = asyncio.Event()
    channel = Channel(
        ReplicaEndpoint("r-1", VERSION.model, VERSION.version, address, "there"),
        VERSION,
        settings=settings,
        clock=SystemClock(),
        changed=lambda _channel: changed.set(),
        certificates=ChannelCertificates(settings),
    )
    await channel.connect()
    await changed.wait()
    return channel


async def test_rows_travel_between_nodes(
    listener: ReplicaListener, authority: LocalAuthority
) -> None:
    """A gateway with the channel's certificate gets its answers, large ones too."""
    channel = await connected(listener.address, channel_of(authority))
    small, large = Sent(batch_of(VERSION, 1, 2)), Sent(batch_of(VERSION, *range(20_000)))
    channel.send(small)
    channel.send(large)
    answers = [values_of(await sent.fate) for sent in (small, large)]
    channel.abort()

    assert answers == [[2, 4], [2 * value for value in range(20_000)]]


def _address(listener: ReplicaListener) -> Address:
    host, _, port = listener.address.removeprefix("tls:").rpartition(":")
    return host, int(port)


def _heard(address: Address, context: ssl.SSLContext) -> bytes:
    """What the replica says to a peer that shows what `context` has; nothing when it hangs up."""
    try:
        with (
            socket.create_connection(address, timeout=PATIENCE_S) as raw,
            context.wrap_socket(raw) as peer,
        ):
            return peer.recv(1)
    except OSError:
        return b""


def test_nobody_is_greeted_without_a_certificate_of_the_channel(
    listener: ReplicaListener, tmp_path: Path
) -> None:
    """No certificate, one of another authority, no TLS at all: not a byte of the protocol."""
    stranger = LocalAuthority(tmp_path / "theirs", SystemClock())
    without = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    without.check_hostname, without.verify_mode = False, ssl.CERT_NONE
    other = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    other.check_hostname, other.verify_mode = False, ssl.CERT_NONE
    other.load_cert_chain(*stranger.server())
    heard = b""
    with (
        suppress(ConnectionResetError),
        socket.create_connection(_address(listener), timeout=PATIENCE_S) as plain,
    ):
        plain.sendall(b"\0" * 64)
        while data := plain.recv(4096):
            heard += data

    assert (_heard(_address(listener), without), _heard(_address(listener), other)) == (b"", b"")
    assert VERSION.digest.encode() not in heard


async def test_a_gateway_believes_no_replica_of_another_authority(
    listener: ReplicaListener, tmp_path: Path
) -> None:
    """Whoever listens at an endpoint must show a certificate of the channel."""
    stranger = LocalAuthority(tmp_path / "theirs", SystemClock())
    with pytest.raises(ssl.SSLCertVerificationError):
        await connected(listener.address, channel_of(stranger))


async def test_those_who_never_say_who_they_are_make_room(
    listener: ReplicaListener, authority: LocalAuthority
) -> None:
    """A hundred connections that send nothing keep no gateway out."""
    silent = [socket.create_connection(_address(listener)) for _ in range(100)]
    channel = await connected(listener.address, channel_of(authority))
    sent = Sent(batch_of(VERSION, 3))
    channel.send(sent)
    answer = values_of(await sent.fate)
    channel.abort()
    for each in silent:
        each.close()

    assert answer == [6]


async def test_a_new_certificate_is_used_by_the_next_connection(
    listener: ReplicaListener, authority: LocalAuthority
) -> None:
    """Files are replaced while a channel is open: it goes on, and the next one shows the new one."""
    settings = channel_of(authority)
    before = await connected(listener.address, settings)
    assert settings.certificate is not None
    assert settings.key is not None
    for file in (settings.certificate, settings.key):
        file.unlink()
    authority.server()

    after = await connected(listener.address, settings)
    sent = [Sent(batch_of(VERSION, 5)), Sent(batch_of(VERSION, 7))]
    before.send(sent[0])
    after.send(sent[1])
    answers = [values_of(await each.fate) for each in sent]
    before.abort()
    after.abort()

    assert answers == [[10], [14]]


def test_listening_beyond_the_node_takes_all_three_files(authority: LocalAuthority) -> None:
    """There is no TCP without mutual TLS."""
    certificate, key = authority.server()
    with pytest.raises(ValueError, match="client_ca"):
        ChannelSettings(listen="tls", certificate=certificate, key=key)
    with pytest.raises(SettingInvalid, match="client_ca"):
        ChannelCertificates(ChannelSettings())
