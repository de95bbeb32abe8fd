"""`serving token`."""

import os
import re
from typing import Annotated, Final

import typer

from serving.access.issuer import LocalIssuer
from serving.app.directory import DataDirectory
from serving.cli.options import Config, DataDir, effective
from serving.cli.output import say
from serving.core.clock import SystemClock
from serving.core.principals import Role
from serving.errors import SettingInvalid

_SECONDS: Final = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}


def token(
    *,
    subject: Annotated[str, typer.Option(help="Who the token speaks for; recorded.")],
    role: Annotated[
        list[Role],
        typer.Option(help="caller: may ask for predictions. operator: may also see the status."),
    ],
    model: Annotated[
        list[str] | None, typer.Option(help="Limit the token to this model; may be repeated.")
    ] = None,
    ttl: Annotated[str, typer.Option(help="How long it is valid: 90s, 15m, 1h, 1d.")] = "1h",
    config: Config = None,
    data_dir: DataDir = None,
) -> None:
    """Print a token signed by the local issuer of a data directory, and nothing else.

    The instance that runs on the same data directory accepts it. Use it as
    `Authorization: Bearer TOKEN`.

    \b
    Examples:
      serving token --subject me --role caller
      serving token --subject ci --role caller --model census-employment --ttl 15m
      curl -H "Authorization: Bearer $(serving token --subject me --role operator)" \\
           http://127.0.0.1:8003/v1/status
    """
    os.umask(0o077)
    settings = effective(config, data_dir)
    keys = DataDirectory.at(settings.data_dir).keys
    issuer = LocalIssuer.open(keys, settings.access, SystemClock())
    say(issuer.issue(subject=subject, roles=role, models=model or None, ttl_s=seconds_of(ttl)))


def seconds_of(text: str) -> float:
    """`90`, `90s`, `15m`, `1.5h`, `1d` in seconds. Raises SettingInvalid."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text)
    if match is None:
        raise SettingInvalid(f"--ttl {text!r} is no duration; write 90s, 15m, 1h or 1d")
    return float(match[1]) * _SECONDS[match[2]]
