import json
from pathlib import Path

from typer.testing import CliRunner

from serving.cli import app
from tests.instances import Instance


def test_running_instance_tells_its_models_queues_and_log(tmp_path: Path) -> None:
    """Both forms name the version, its replica, the worker and the log's records."""
    with Instance(tmp_path) as instance:
        instance.expect("ready")
        assert instance.infer().status_code == 200
        runner = CliRunner()
        place = ["--data-dir", str(instance.data_dir)]

        text = runner.invoke(app, ["status", *place]).stdout
        facts = json.loads(runner.invoke(app, ["status", "--json", *place]).stdout)

    (version,) = facts["control"]["versions"]
    assert (
        version["model"],
        version["version"],
        version["state"],
        len(version["replicas"]),
    ) == ("census-employment", "1", "ready", 1)
    assert facts["gateways"]["gateway-0"]["log"]["records"] == 1
    for word in ("census-employment", "ready", "gateway-0", "1 of 1", "1 records", "CPU"):
        assert word in text
