"""`serving key`: API keys for machines."""

from typing import Annotated
from urllib.parse import quote

import msgspec
import typer

from serving.access.orders import KeyOrder, KeyView, MadeKey, RotationOrder
from serving.cli.credentials import seconds_of
from serving.cli.options import Config, DataDir, Json
from serving.cli.orders import ControlClient
from serving.cli.output import complain, instant, say, say_json, table
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
def create(  # noqa: PLR0913 -- one parameter for each option
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
    json: Json = False,
    config: Config = None,
    data_dir: DataDir = None,
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
    made = ControlClient(config, data_dir).post("/v1/access/keys", order, MadeKey)
    _show(made, as_json=json)


@app.command("list")
def list_keys(*, json: Json = False, config: Config = None, data_dir: DataDir = None) -> None:
    """List all keys, newest first, with who answers for each and when it was last used.

    Last use is known to some minutes.

    \b
    Examples:
      serving key list
      serving key list --json
    """
    keys = ControlClient(config, data_dir).get("/v1/access/keys", _Keys).keys
    if json:
        say_json(keys)
        return
    heads = ("KEY", "STATE", "SUBJECT", "ROLES", "MODELS", "TENANT", "OWNER", "EXPIRES", "LAST USE")
    say(table(heads, [_row(key) for key in keys]))


@app.command("revoke")
def revoke(
    key: Key, *, json: Json = False, config: Config = None, data_dir: DataDir = None
) -> None:
    """End a key now; every worker refuses it within a second.

    \b
    Examples:
      serving key revoke 3f9a0c2d71b4
    """
    ControlClient(config, data_dir).delete(f"/v1/access/keys/{quote(key, safe='')}")
    if json:
        say_json({"revoked": key})
    else:
        say(f"revoked {key}")


@app.command("rotate")
def rotate(
    key: Key,
    *,
    overlap: Annotated[
        str, typer.Option(help="How long the old key counts beside the new one.")
    ] = "1h",
    ttl: Annotated[str, typer.Option(help="How long the new key is valid.")] = "90d",
    json: Json = False,
    config: Config = None,
    data_dir: DataDir = None,
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
    _show(ControlClient(config, data_dir).post(path, order, MadeKey), as_json=json)


def _show(made: MadeKey, *, as_json: bool) -> None:
    if as_json:
        say_json(made)
        return
    complain(f"key {made.key}, valid until {instant(made.expires_s)}; it is not shown again:")
    say(made.secret)


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
