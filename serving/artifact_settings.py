"""Settings of artifacts: how they are sealed and verified, uploaded and inspected."""

from typing import Literal

from serving.setting_types import Bytes, Count, Group, Seconds


class ArtifactSettings(Group):
    """How often what runs is verified again, who holds the keys that artifacts are sealed with, and
    what may come in."""

    retired: Literal["hold", "destroy"] = "hold"
    """What becomes of an artifact a minute after its version was retired: it stays, or it can never be
    opened again."""
    verify_s: Seconds = 30.0
    """How often a replica verifies signature, approvals and artifact again."""
    key_command: tuple[str, ...] = ()
    """Program and arguments that wrap and unwrap data keys: a key-management service. Empty: a key
    file in the data directory."""
    key_timeout_s: Seconds = 5.0
    """The program is given up after this."""
    key_life_s: Seconds = 3600.0
    """A replica goes on with an unwrapped data key for this long while the service is away."""
    max_upload_bytes: Bytes = 4 * 1024**3
    """An artifact with more in all its files is refused with 413."""
    max_uploads: Count = 16
    """Uploads that are under way at once; one more is refused with 503."""
    upload_ttl_s: Seconds = 86_400.0
    """An upload that nobody went on with for so long is given up."""
    inspection_s: Seconds = 120.0
    """An inspection that takes longer is ended, and the version rejected."""
    inspection_delay_s: Seconds = 60.0
    """What was imported from the models folder is inspected this long after a start."""
    operator_domains: tuple[str, ...] = ("com.microsoft",)
    """Domains of operators that models may use besides those of ONNX itself."""
