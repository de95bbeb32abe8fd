"""What a log process is told at its start."""

from pathlib import Path

import msgspec

from serving.settings import LogSettings


class LogPlan(msgspec.Struct, frozen=True):
    """log_id: 8 bytes, of this start of the worker. tag: high half of its definition numbers."""

    directory: Path
    settings: LogSettings
    log_id: bytes
    tag: int

    @staticmethod
    def encode_part(part: object) -> object:
        """For `msgspec.json.encode(plan, enc_hook=...)`."""
        if isinstance(part, Path):
            return str(part)
        if isinstance(part, LogSettings):
            return part.model_dump(mode="json")
        raise NotImplementedError

    @staticmethod
    def decode_part(kind: type, part: object) -> object:
        """For `msgspec.json.decode(..., dec_hook=...)`."""
        if kind is LogSettings:
            return LogSettings.model_validate(part)
        if issubclass(kind, Path) and isinstance(part, str):
            return Path(part)
        raise NotImplementedError
