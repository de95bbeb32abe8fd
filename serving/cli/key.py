"""`serving key`: API keys for machines."""

from typing import Annotated
from urllib.parse import quote

import msgspec
import typer

from serving.access.orders import KeyOrder, KeyView, MadeKey, RotationOrder
from serving.cli.credentials import seconds_of
from serving.cli.groups import AtControl, grouped
from serving.cli.output import complain, instant, table
from serving.core.principals import Role

app = typer.Typer(
    help="API keys: credentials for machines, shown once, revocable within a second.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Key = Annotated[str, typer.Argument(help="The key's identifier: the part after svk_.")]


class _Keys(msgspec.Struct, frozen=True):
    keys: tuple[KeyView, ...]


@app.command("create")
@grouped
def create(
    *,
    subject: Annotated[str, typer.Option(help="Who the key speaks for; recorded.")],
    role: Annotated[list[Role], typer.Option(help="What it may do; may be repeated.")],
    model: Annotated[
        list[str] | None,
        typer.Option(help="Limit it to these models, such as fraud-*; may be repeated."),
    ] = None,
    tenant: Annotated[str, typer.Option(help="The tenant that it belongs to.")] = "",
    owner: Annotated[str, typer.Option(help="Who answers for it. Default: you.")] = "",
    ttl: Annotated[str, typer.Option(help="How long it is valid: 1h, 90d; at most 366d.")] = "90d",
    at: AtControl,
) -> None:
    """Make an API key and print it: the only time that it can be seen.

    Send it as `X-Api-Key: KEY`, `Authorization: ApiKey KEY` or `Authorization: Bearer KEY`. Every
    gateway worker of the running instance knows it within a second.

    \b
    Examples:
      serving key create --subject checkout --role caller --model 'fraud-*' --ttl 90d
      KEY=$(serving key create --subject ci --role caller)
      curl -H "X-Api-Key: $KEY" http://127.0.0.1:8000/v2/models
    """
    order = KeyOrder(
        subject=subject,
        roles=tuple(role),
        models=tuple(model) if model else None,
        tenant=tenant,
        owner=owner,
        ttl_s=round(seconds_of(ttl)),
    )
    _show(at.client().post("/v1/access/keys", order, MadeKey), at=at)


@app.command("list")
@grouped
def list_keys(*, at: AtControl) -> None:
    """List all keys, newest first, with who answers for each and when it was last used.

    Last use is known to some minutes.

    \b
    Examples:
      serving key list
      serving key list --json
    """
    keys = at.client().get("/v1/access/keys", _Keys).keys
    heads = ("KEY", "STATE", "SUBJECT", "ROLES", "MODELS", "TENANT", "OWNER", "EXPIRES", "LAST USE")
    at.tell(keys, lambda: table(heads, [_row(key) for key in keys]))


@app.command("revoke")
@grouped
def revoke(key: Key, *, at: AtControl) -> None:
    """End a key now; every worker refuses it within a second.

    \b
    Examples:
      serving key revoke 3f9a0c2d71b4
    """
    at.client().delete(f"/v1/access/keys/{quote(key, safe='')}")
    at.tell({"revoked": key}, lambda: f"revoked {key}")


@app.command("rotate")
@grouped
def rotate(
    key: Key,
    *,
    overlap: Annotated[
        str, typer.Option(help="How long the old key counts beside the new one.")
    ] = "1h",
    ttl: Annotated[str, typer.Option(help="How long the new key is valid.")] = "90d",
    at: AtControl,
) -> None:
    """Make a key for the same holder and print it; the old one ends after the overlap.

    \b
    Examples:
      serving key rotate 3f9a0c2d71b4 --overlap 1d
    """
    order = RotationOrder(
        overlap_s=round(seconds_of(overlap, "--overlap")), ttl_s=round(seconds_of(ttl))
    )
    path = f"/v1/access/keys/{quote(key, safe='')}/rotate"
    _show(at.client().post(path, order, MadeKey), at=at)


def _show(made: MadeKey, *, at: AtControl) -> None:
    if not at.json:
        complain(f"key {made.key}, valid until {instant(made.expires_s)}; it is not shown again:")
    at.tell(made, lambda: made.secret)


def _row(key: KeyView) -> tuple[str, ...]:
    return (
        key.key,
        key.state,
        key.subject,
        ",".join(key.roles),
        "*" if key.models is None else ",".join(key.models),
        key.tenant or "-",
        key.owner,
        instant(key.expires_s),
        instant(key.last_used_s),
    )
