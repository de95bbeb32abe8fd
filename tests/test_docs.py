"""What users can set and see is written in README; this test says what is missing there."""

import re
from pathlib import Path

from pydantic import BaseModel

from serving.settings import Deployment, Settings
from serving.telemetry import families
from serving.telemetry.metrics import Definition

README = Path(__file__).resolve().parents[1] / "README.md"


def missing(names: list[str]) -> list[str]:
    """Those that README does not name as a whole word."""
    text = README.read_text()
    return [name for name in names if not re.search(rf"(?<![\w.]){re.escape(name)}(?!\w)", text)]


def setting_names() -> list[str]:
    """Dotted names of all settings; those of a deployment without the list in front."""
    names = [f"deployments.{field}" for field in Deployment.model_fields]
    for name, field in Settings.model_fields.items():
        group = field.annotation
        if isinstance(group, type) and issubclass(group, BaseModel):
            names += [f"{name}.{inner}" for inner in group.model_fields]
        else:
            names.append(name)
    return names


def test_every_setting_is_documented() -> None:
    """README names each setting as it is written in a file: `group.field`."""
    assert missing(setting_names()) == []


def test_every_metric_is_documented() -> None:
    """README names each metric family that a scrape can show."""
    defined = [each.name for each in vars(families).values() if isinstance(each, Definition)]

    assert missing(defined) == []
