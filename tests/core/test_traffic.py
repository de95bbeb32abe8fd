"""The snapshot as it travels and lies on disk: this form is read by every worker of an installation."""

import json

import msgspec
import pytest

from serving.core.models import ModelName, VersionName
from serving.core.traffic import Arm, Segment, Shadow, Snapshot, TrafficPolicy

POLICY = TrafficPolicy(
    model=ModelName("m"),
    stable=VersionName("1"),
    shadows=(
        Shadow(VersionName("2"), share=5000, budget=2000, segments=(Segment("tenant", "risk"),)),
        Shadow(VersionName("3")),
    ),
    arms=(Arm(VersionName("2"), 1000),),
    sticky="header",
    salt="spring",
    testers=("tess",),
    experiment="e1",
)
GOLDEN = {
    "epoch": 7,
    "versions": [],
    "policies": [
        {
            "model": "m",
            "stable": "1",
            "shadows": [
                {
                    "version": "2",
                    "share": 5000,
                    "budget": 2000,
                    "segments": [{"by": "tenant", "value": "risk"}],
                },
                {"version": "3", "share": 10000, "budget": None, "segments": []},
            ],
            "arms": [{"version": "2", "weight": 1000}],
            "sticky": "header",
            "salt": "spring",
            "testers": ["tess"],
            "experiment": "e1",
        }
    ],
    "endpoints": [],
    "deprecations": [],
    "tombstones": [],
    "tenants": [],
}


def test_snapshot_is_written_like_this() -> None:
    """Weights and shares are whole ten-thousandths; a budget without a limit is null."""
    assert json.loads(msgspec.json.encode(Snapshot(7, policies=(POLICY,)))) == GOLDEN


def test_snapshot_reads_what_is_written() -> None:
    """And whatever is left out has its usual meaning: one version that answers everybody."""
    read = msgspec.json.decode(json.dumps(GOLDEN).encode(), type=Snapshot)
    short = {"epoch": 1, "policies": [{"model": "m", "stable": "1"}]}

    assert read == Snapshot(7, policies=(POLICY,))
    assert msgspec.json.decode(json.dumps(short).encode(), type=Snapshot).policies == (
        TrafficPolicy(ModelName("m"), VersionName("1")),
    )


def test_snapshot_of_another_form_is_not_guessed_at() -> None:
    """A weight that is no whole number is none."""
    text = json.dumps(GOLDEN).replace('"weight": 1000', '"weight": 0.1')

    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(text.encode(), type=Snapshot)
