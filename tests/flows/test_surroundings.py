import socket
from pathlib import Path

import pytest

from tests.catalogue import TWIN, write_models
from tests.instances import Instance

ANY_6 = {"host": "::", "plain_text": True}
LOOPBACK_6 = {"host": "::1"}


def test_proxy_of_the_environment_stays_out_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Our processes talk to each other past any proxy, which would learn their secret."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    models = write_models(tmp_path / "models")

    with Instance(tmp_path, deployments=[TWIN], models_dir=models) as instance:
        assert instance.expect("ready", within_s=30)["replicas"] == 1


def test_every_port_can_be_on_ipv6(tmp_path: Path) -> None:
    """Workers and replicas find a control port that listens on all addresses of IPv6."""
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")
    models = write_models(tmp_path / "models")

    with Instance(
        tmp_path,
        deployments=[TWIN],
        models_dir=models,
        http=LOOPBACK_6,
        metrics=LOOPBACK_6,
        control=ANY_6,
    ) as instance:
        ready = instance.expect("ready", within_s=30)
    assert ready["inference"].startswith("http://[::1]:")
    assert ready["control"].startswith("http://[::1]:")
