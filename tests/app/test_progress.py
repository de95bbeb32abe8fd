import json

import pytest

from serving.app.progress import (
    ChildDied,
    Event,
    JsonProgress,
    ModelLeftOut,
    Ready,
    Starting,
    Stopped,
    Stopping,
    TextProgress,
    VersionChanged,
)

READY = Ready(
    seconds=8.04,
    versions=2,
    replicas=3,
    inference="http://127.0.0.1:8000/v2",
    grpc="127.0.0.1:8001",
    metrics="http://127.0.0.1:8002/metrics",
    control="http://127.0.0.1:8003",
    data_dir="/srv/data",
    token_command="serving token --subject me --role caller",  # noqa: S106 - a command
    try_command="curl -s http://127.0.0.1:8000/v2",
    notices=("nothing is recorded",),
)
EVENTS: list[tuple[Event, str, str]] = [
    (
        Starting("/srv/data", "ray", ("head", "control")),
        "starting",
        "starting head, control; engine ray; data in /srv/data",
    ),
    (
        VersionChanged("census", "2", "shadow", "failed", 3.21, "no such file"),
        "version",
        "   3.2 s  failed    census@2 (shadow): no such file",
    ),
    (ModelLeftOut("text", "fetch it"), "left_out", "left out  text: fetch it"),
    (
        ChildDied("head", -9, "/l/head.log"),
        "child_died",
        "head ended with signal 9; see /l/head.log",
    ),
    (
        ChildDied("head", 1, "/l/head.log"),
        "child_died",
        "head ended with status 1; see /l/head.log",
    ),
    (Stopping("asked to"), "stopping", "stopping: asked to"),
    (Stopped(2.04), "stopped", "stopped in 2.0 s"),
    (Stopped(30.0, ("head",)), "stopped", "stopped in 30.0 s; killed: head"),
]


@pytest.mark.parametrize(("event", "kind", "line"), EVENTS)
def test_event_is_one_line_for_people_and_one_object_for_programs(
    event: Event, kind: str, line: str
) -> None:
    """Both forms tell the same; the object names its kind in `event`."""
    text: list[str] = []
    objects: list[str] = []

    TextProgress(text.append).tell(event)
    JsonProgress(objects.append).tell(event)

    assert [line] == text
    assert [kind] == [json.loads(each)["event"] for each in objects]


def test_ready_block_holds_everything_that_a_newcomer_needs() -> None:
    """Addresses, the token command, a line to paste, how to stop, and what to know."""
    lines: list[str] = []

    TextProgress(lines.append).tell(READY)

    block = "\n".join(lines)
    assert "ready in 8.0 s: 2 model versions, 3 replicas" in block
    for fact in (
        READY.inference,
        READY.grpc,
        READY.metrics,
        READY.control,
        READY.data_dir,
        READY.token_command,
        READY.try_command,
        "note: nothing is recorded",
    ):
        assert fact in block
