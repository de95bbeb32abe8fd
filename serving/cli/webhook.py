"""`serving webhook`: other systems that are told of approvals and refusals."""

from typing import Annotated
from urllib.parse import quote

import typer

from serving.cli.options import Config, DataDir, Json
from serving.cli.orders import ControlClient
from serving.cli.output import complain, instant, say, say_json, table
from serving.governance.desk import Queued, WebhookList
from serving.governance.webhooks import ALL_EVENTS, MadeWebhook, WebhookOrder

app = typer.Typer(
    help="Webhooks: signed notifications of requests, decisions and refusals.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

WEBHOOKS = "/v1/webhooks"

Id = Annotated[str, typer.Argument(help="The webhook's identifier, as `list` shows it.")]


@app.command("add")
def add(
    url: Annotated[str, typer.Argument(help="Where to: an https address out in the world.")],
    *,
    event: Annotated[
        list[str] | None,
        typer.Option(help="Which events, such as governance:request:*; may be repeated."),
    ] = None,
    json: Json = False,
    config: Config = None,
    data_dir: DataDir = None,
) -> None:
    """Add a webhook and print the secret that its deliveries are signed with: the only time.

    Deliveries follow Standard Webhooks: headers webhook-id, webhook-timestamp and webhook-signature.
    Private, loopback and link-local addresses are refused unless `webhooks.allow` names them.

    \b
    Examples:
      serving webhook add https://hooks.example.com/serving
      serving webhook add https://chat.example.com/hook --event 'governance:override:*'
    """
    order = WebhookOrder(url=url, events=tuple(event or ALL_EVENTS))
    made = ControlClient(config, data_dir).post(WEBHOOKS, order, MadeWebhook)
    if json:
        say_json(made)
        return
    complain(f"webhook {made.webhook.id}; its secret is not shown again:")
    say(made.secret)


@app.command("list")
def list_webhooks(*, json: Json = False, config: Config = None, data_dir: DataDir = None) -> None:
    """List webhooks with what waits for each and how the last delivery ended.

    \b
    Examples:
      serving webhook list
    """
    found = ControlClient(config, data_dir).get(WEBHOOKS, WebhookList).webhooks
    if json:
        say_json({"webhooks": found})
        return
    heads = ("WEBHOOK", "URL", "EVENTS", "BY", "SINCE", "WAITING", "GIVEN UP", "LAST")
    rows = [
        (
            each.id,
            each.url,
            ",".join(each.events),
            each.made_by,
            instant(each.made_ns // 1_000_000_000),
            str(each.waiting),
            str(each.failed),
            each.last or "-",
        )
        for each in found
    ]
    say(table(heads, rows))


@app.command("remove")
def remove(
    webhook: Id, *, json: Json = False, config: Config = None, data_dir: DataDir = None
) -> None:
    """Remove a webhook with everything that waits for it.

    \b
    Examples:
      serving webhook remove 3f9a0c2d71b45e60
    """
    ControlClient(config, data_dir).delete(f"{WEBHOOKS}/{quote(webhook, safe='')}")
    if json:
        say_json({"removed": webhook})
    else:
        say(f"removed {webhook}")


@app.command("test")
def send_test(
    webhook: Id, *, json: Json = False, config: Config = None, data_dir: DataDir = None
) -> None:
    """Send a test notification; `list` shows how it ended.

    \b
    Examples:
      serving webhook test 3f9a0c2d71b45e60
    """
    path = f"{WEBHOOKS}/{quote(webhook, safe='')}/test"
    queued = ControlClient(config, data_dir).post(path, {}, Queued)
    if json:
        say_json(queued)
    else:
        say(f"queued {queued.delivery}")
