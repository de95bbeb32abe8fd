"""`serving traffic`: which version of each model answers, and which get a copy."""

from typing import Annotated
from urllib.parse import quote

import msgspec
import typer

from serving.cli.options import Config, DataDir, Json
from serving.cli.orders import ControlClient
from serving.cli.output import instant, say, say_json, table
from serving.core.principals import Role
from serving.registry.entities import Traffic
from serving.registry.orders import TrafficOrder

app = typer.Typer(
    help="Who answers: the stable version of each model, and the candidates that get a copy.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


class _Listed(msgspec.Struct, frozen=True):
    traffic: tuple[Traffic, ...]


@app.command("show")
def show(
    *,
    model: Annotated[str | None, typer.Argument(help="Only this model.")] = None,
    json: Json = False,
    config: Config = None,
    data_dir: DataDir = None,
) -> None:
    """Show which version answers for each model, since when, and who said so.

    What should be. What is, and how far the one is from the other, says `serving status`.

    \b
    Examples:
      serving traffic show
      serving traffic show census-employment --json
    """
    client = ControlClient(config, data_dir, role=Role.OPERATOR)
    if model is None:
        found = client.get("/v1/traffic", _Listed).traffic
    else:
        found = (client.get(f"/v1/traffic/{quote(model, safe='')}", Traffic),)
    if json:
        say_json({"traffic": found})
    else:
        say(_table(found))


@app.command("set")
def set_traffic(
    model: Annotated[str, typer.Argument(help="Whose traffic.")],
    *,
    stable: Annotated[
        str, typer.Option(help="The version that answers; an empty one takes all traffic away.")
    ],
    shadow: Annotated[
        list[str] | None, typer.Option(help="A version that gets a copy; may be repeated.")
    ] = None,
    reason: Annotated[str, typer.Option(help="Why; kept in the audit trail.")] = "",
    json: Json = False,
    config: Config = None,
    data_dir: DataDir = None,
) -> None:
    """Say which version of a model answers from now on.

    The version must be approved. It is deployed beside the one that answers now, which goes on until
    the new one is ready, so no request fails; `serving status` shows how far it is. A version that
    does not come up gets no traffic.

    \b
    Examples:
      serving traffic set census-employment --stable 2 --reason "verdict of May"
      serving traffic set census-employment --stable 1 --shadow 2
    """
    order = TrafficOrder(stable=stable, shadows=tuple(shadow or ()), reason=reason)
    client = ControlClient(config, data_dir, role=Role.OPERATOR)
    now = client.put(f"/v1/traffic/{quote(model, safe='')}", order, Traffic)
    if json:
        say_json(now)
    else:
        say(_table((now,)))


def _table(found: tuple[Traffic, ...]) -> str:
    rows = [
        (
            each.model,
            each.stable or "-",
            ", ".join(each.shadows) or "-",
            instant(each.updated_ns // 10**9),
            each.updated_by or "-",
            str(each.revision),
        )
        for each in found
    ]
    return table(("MODEL", "STABLE", "SHADOWS", "SINCE", "BY", "REVISION"), rows)
