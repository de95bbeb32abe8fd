"""`serving token`: tokens of the local issuer, and the end of anybody's."""

import os
import re
import sys
from typing import Annotated, Final

import typer

from serving.access.claims import CredentialRefused, Refusal, decode_part, strict_object
from serving.access.issuer import LocalIssuer
from serving.access.orders import RevocationOrder
from serving.access.patterns import ANY
from serving.access.state import Revocation, RevocationKind
from serving.app.directory import DataDirectory
from serving.cli.groups import AtControl, AtDirectory, grouped
from serving.core.clock import SystemClock
from serving.core.principals import Role
from serving.errors import ParameterInvalid, SettingInvalid

_SECONDS: Final = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}


app = typer.Typer(rich_markup_mode=None)


@app.callback(invoke_without_command=True)
@grouped
def token(
    context: typer.Context,
    *,
    subject: Annotated[str, typer.Option(help="Who the token speaks for; recorded.")] = "",
    role: Annotated[
        list[Role] | None,
        typer.Option(
            help="caller: may ask for predictions. operator: may also see the status. May be repeated."
        ),
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option(help="Limit the token to this model; may be repeated.")
    ] = None,
    tenant: Annotated[
        str, typer.Option(help="Whose member the subject is; it sees that tenant's models too.")
    ] = "",
    ttl: Annotated[str, typer.Option(help="How long it is valid: 90s, 15m, 1h, 1d.")] = "1h",
    at: AtDirectory,
) -> None:
    """Print a token signed by the local issuer of a data directory, and nothing else.

    The instance that runs on the same data directory accepts it. Use it as
    `Authorization: Bearer TOKEN`.

    \b
    Examples:
      serving token --subject me --role caller
      serving token --subject ci --role caller --model census-employment --ttl 15m
      serving token --subject ann --role caller --tenant acme
      curl -H "Authorization: Bearer $(serving token --subject me --role operator)" \\
           http://127.0.0.1:8003/v1/status
    """
    if context.invoked_subcommand is not None:
        return
    if not subject or not role:
        raise ParameterInvalid("a token needs --subject and --role; see `serving token --help`")
    os.umask(0o077)
    settings = at.settings()
    if not settings.access.has_local_issuer:
        raise SettingInvalid(
            "the local issuer is off, because access.issuers names others: a token from here would be "
            "refused. access.local_issuer: true switches it on beside them"
        )
    keys = DataDirectory.at(settings.data_dir).keys
    issuer = LocalIssuer.open(keys, settings.access, SystemClock())
    made = issuer.issue(
        subject=subject, roles=role, models=model or None, tenant=tenant, ttl_s=seconds_of(ttl)
    )
    at.tell({"token": made, "token_id": _token_id(made)}, lambda: made)


@app.command("revoke")
@grouped
def revoke(
    token_id: Annotated[
        str, typer.Argument(help="A token's `jti`; - reads a whole token from standard input.")
    ] = "",
    *,
    subject: Annotated[
        str, typer.Option(help="End everything that was issued for this subject until now.")
    ] = "",
    everybody: Annotated[
        bool, typer.Option("--everybody", help="End everything that was issued until now.")
    ] = False,
    comment: Annotated[str, typer.Option(help="Why; kept with it.")] = "",
    at: AtControl,
) -> None:
    """End tokens, and with --subject or --everybody API keys too; within a second everywhere.

    Whoever may have new credentials can ask for them at once; to turn a person away for good, use
    `serving access disable`. A token is never an argument, because arguments show in process lists.

    \b
    Examples:
      serving token revoke 0f3c5a9e
      serving token revoke - < token.txt
      serving token revoke --subject bob --comment "laptop lost"
    """
    if sum((bool(token_id), bool(subject), everybody)) != 1:
        raise ParameterInvalid("name one: a token, --subject, or --everybody")
    if token_id:
        is_piped = token_id == "-"  # noqa: S105 - the usual name of standard input
        value = _token_id(sys.stdin.readline().strip()) if is_piped else token_id
        order = RevocationOrder(kind=RevocationKind.TOKEN, value=value, comment=comment)
    else:
        order = RevocationOrder(
            kind=RevocationKind.ISSUED_BEFORE, value=subject or ANY, comment=comment
        )
    made = at.client().post("/v1/access/revocations", order, Revocation)
    at.tell(made, lambda: f"revoked {made.value}")


def _token_id(token: str) -> str:
    """The `jti` of a token, whoever signed it. Raises ParameterInvalid."""
    parts = token.encode().split(b".")
    try:
        claims = strict_object(decode_part(parts[1] if len(parts) > 1 else b""), Refusal.CLAIMS)
    except CredentialRefused as error:
        raise ParameterInvalid("this is not a token") from error
    value = claims.get("jti")
    if not isinstance(value, str) or not value:
        raise ParameterInvalid("this token has no jti; revoke by --subject")
    return value


def seconds_of(text: str, option: str = "--ttl") -> float:
    """`90`, `90s`, `15m`, `1.5h`, `1d` in seconds. Raises SettingInvalid."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text)
    if match is None:
        raise SettingInvalid(f"{option} {text!r} is no duration; write 90s, 15m, 1h or 1d")
    return float(match[1]) * _SECONDS[match[2]]
