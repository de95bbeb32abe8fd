"""Settings of governance: the file of policies, and where notifications may go."""

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from serving.setting_types import Bytes, Count, Group, Seconds

File = Annotated[Path, AfterValidator(Path.absolute)]


class GovernanceSettings(Group):
    """Approvals: what each tier of risk demands."""

    policies: File | None = None
    """File of policies, see configs/governance.yaml; None: those of that file, built in."""
    request_ttl_s: Annotated[float, Field(gt=0, le=366 * 86_400)] = 14 * 86_400.0
    """How long a request stays open before it expires by itself."""


class WebhookSettings(Group):
    """Notifications to other systems: bounded in time, size and number of tries."""

    allow: tuple[str, ...] = ()
    """Networks (`10.1.0.0/16`) and hosts that may be called although they are private or loopback."""
    plain_text: bool = False
    """Permit `http` addresses; what is sent can then be read on the way."""
    timeout_s: Annotated[float, Field(gt=0, le=60)] = 5.0
    """How long one delivery may take, from the look-up of the name to the end of the answer."""
    max_answer_bytes: Bytes = 16 * 1024
    """What is read of an answer; the rest is cut off."""
    attempts: Annotated[int, Field(ge=1, le=100)] = 8
    """Tries of one delivery before it is given up."""
    retry_s: Seconds = 5.0
    """Pause after the first failure; it doubles each time, up to an hour."""
    max_webhooks: Count = 100
    """How many may be registered."""
