"""The whole product with its frames on TCP and mutual TLS, as between nodes."""

from pathlib import Path

from serving.access.authority import LocalAuthority
from serving.core.clock import SystemClock
from tests.instances import Instance


def test_predictions_travel_over_tls(tmp_path: Path) -> None:
    """Replicas listen with the channel's certificate, gateways find them, callers get answers."""
    authority = LocalAuthority(tmp_path / "channel", SystemClock())
    certificate, key = authority.server()
    channel = {
        "listen": "tls",
        "host": "127.0.0.1",
        "certificate": str(certificate),
        "key": str(key),
        "client_ca": str(authority.ca_file),
    }
    with Instance(tmp_path, channel=channel) as instance:
        instance.expect("ready")
        answers = [instance.infer().status_code for _ in range(5)]
        sockets = list((tmp_path / "data").rglob("*.sock"))
        status = instance.stop()

    assert answers == [200] * 5
    assert status == 0
    assert not [each for each in sockets if each.parent.name == "replicas"]
