"""`serving webhook`: other systems that are told of approvals and refusals."""

from typing import Annotated
from urllib.parse import quote

import typer

from serving.cli.groups import AtControl, grouped
from serving.cli.output import complain, instant, table
from serving.governance.desk import Queued, WebhookList
from serving.governance.webhooks import ALL_EVENTS, MadeWebhook, Webhook, WebhookOrder

app = typer.Typer(
    help="Webhooks: signed notifications of requests, decisions and refusals.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

WEBHOOKS = "/v1/webhooks"

Id = Annotated[str, typer.Argument(help="The webhook's identifier, as `list` shows it.")]


@app.command("add")
@grouped
def add(
    url: Annotated[str, typer.Argument(help="Where to: an https address out in the world.")],
    *,
    event: Annotated[
        list[str] | None,
        typer.Option(help="Which events, such as governance:request:*; may be repeated."),
    ] = None,
    at: AtControl,
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
    made = at.client().post(WEBHOOKS, order, MadeWebhook)
    if not at.json:
        complain(f"webhook {made.webhook.id}; its secret is not shown again:")
    at.tell(made, lambda: made.secret)


@app.command("list")
@grouped
def list_webhooks(*, at: AtControl) -> None:
    """List webhooks with what waits for each and how the last delivery ended.

    \b
    Examples:
      serving webhook list
    """
    found = at.client().get(WEBHOOKS, WebhookList).webhooks
    heads = ("WEBHOOK", "URL", "EVENTS", "BY", "SINCE", "WAITING", "GIVEN UP", "LAST")
    at.tell({"webhooks": found}, lambda: table(heads, [_row(each) for each in found]))


@app.command("remove")
@grouped
def remove(webhook: Id, *, at: AtControl) -> None:
    """Remove a webhook with everything that waits for it.

    \b
    Examples:
      serving webhook remove 3f9a0c2d71b45e60
    """
    at.client().delete(f"{WEBHOOKS}/{quote(webhook, safe='')}")
    at.tell({"removed": webhook}, lambda: f"removed {webhook}")


@app.command("test")
@grouped
def send_test(webhook: Id, *, at: AtControl) -> None:
    """Send a test notification; `list` shows how it ended.

    \b
    Examples:
      serving webhook test 3f9a0c2d71b45e60
    """
    path = f"{WEBHOOKS}/{quote(webhook, safe='')}/test"
    queued = at.client().post(path, {}, Queued)
    at.tell(queued, lambda: f"queued {queued.delivery}")


def _row(webhook: Webhook) -> tuple[str, ...]:
    return (
        webhook.id,
        webhook.url,
        ",".join(webhook.events),
        webhook.made_by,
        instant(webhook.made_ns // 1_000_000_000),
        str(webhook.waiting),
        str(webhook.failed),
        webhook.last or "-",
    )
