"""`serving traffic`: which versions of each model answer, and which get copies."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Final
from urllib.parse import quote

import msgspec
import typer

from serving.cli.groups import AtControl, grouped
from serving.cli.output import instant, table
from serving.cli.shares import canaries_text, parse_canary, parse_shadow, percent, shadows_text
from serving.control.policyhistory import PolicyEntries, PolicyEntry
from serving.core.principals import Role
from serving.core.traffic import FULL
from serving.registry.entities import Traffic
from serving.registry.orders import TrafficOrder

app = typer.Typer(
    help="Who answers: the stable version of each model, and the candidates that get a copy.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


COLUMNS: Final = (
    "MODEL", "STABLE", "CANARIES", "SHADOWS", "STICKY", "TESTERS", "SINCE", "BY", "REVISION",
)  # fmt: skip


class Side(StrEnum):
    """What keeps a caller on one side: `core.traffic.Sticky`, for the command line."""

    REQUEST = "request"
    PRINCIPAL = "principal"
    SUBJECT = "subject"
    HEADER = "header"


@dataclass(frozen=True, slots=True)
class Wanted:
    """Who is to answer from now on, as it was written."""

    stable: Annotated[
        str, typer.Option(help="The version that answers; an empty one takes all traffic away.")
    ]
    canary: Annotated[
        list[str] | None,
        typer.Option(help="VERSION=SHARE: a version that answers a share; may be repeated."),
    ] = None
    shadow: Annotated[
        list[str] | None,
        typer.Option(
            help="VERSION[=SHARE][,budget=SHARE][,principal=P][,tenant=T][,header:NAME=V]: a "
            "version that gets copies; may be repeated."
        ),
    ] = None
    sticky: Annotated[
        Side, typer.Option(help="What keeps a caller on one side of the weights.")
    ] = Side.REQUEST
    tester: Annotated[
        list[str] | None,
        typer.Option(help="A subject that may choose a version; may be repeated."),
    ] = None
    reason: Annotated[str, typer.Option(help="Why; kept in the audit trail.")] = ""

    def order(self, before: Traffic) -> TrafficOrder:
        """before: what answers now; its salt stays, and what is warm. Raises ParameterInvalid."""
        return TrafficOrder(
            stable=self.stable,
            shadows=tuple(parse_shadow(each) for each in self.shadow or ()),
            arms=tuple(parse_canary(each) for each in self.canary or ()),
            sticky=self.sticky.value,
            salt=before.salt,
            testers=tuple(self.tester or ()),
            warm=before.warm,
            reason=self.reason,
        )


class _Listed(msgspec.Struct, frozen=True):
    traffic: tuple[Traffic, ...]


@app.command("show")
@grouped
def show(
    *,
    model: Annotated[str | None, typer.Argument(help="Only this model.")] = None,
    at: AtControl,
) -> None:
    """Show which version answers for each model, since when, and who said so.

    What should be. What is, and how far the one is from the other, says `serving status`.

    \b
    Examples:
      serving traffic show
      serving traffic show census-employment --json
    """
    client = at.client(Role.OPERATOR)
    if model is None:
        found = client.get("/v1/traffic", _Listed).traffic
    else:
        found = (client.get(_path(model), Traffic),)
    at.tell({"traffic": found}, lambda: _table(found))


@app.command("set")
@grouped
def set_traffic(
    model: Annotated[str, typer.Argument(help="Whose traffic.")],
    *,
    wanted: Wanted,
    at: AtControl,
) -> None:
    """Say which version of a model answers from now on.

    The version must be approved. It is deployed beside the one that answers now, which goes on until
    the new one is ready, so no request fails; `serving status` shows how far it is. A version that
    does not come up gets no traffic.

    \b
    A canary answers its share of the requests, the stable version the rest. Shares are 10% or 0.1.
    With --sticky principal, subject or header (Serving-Sticky-Key) a caller stays on one side, and
    raising a weight moves nobody back. A shadow gets copies of what the stable version answered:
    a share of them, those of some callers only, and no more than its budget, which is model time
    as a share of the stable version's. What is not named here is taken away, but for versions that
    stay warm after a rollout.

    \b
    Examples:
      serving traffic set census-employment --stable 2 --reason "verdict of May"
      serving traffic set census-employment --stable 1 --shadow 2
      serving traffic set census-employment --stable 1 --canary 2=10% --sticky principal \\
          --shadow 2 --shadow 3=50%,budget=20%
    """
    client, path = at.client(Role.OPERATOR), _path(model)
    order = wanted.order(client.get(path, Traffic))
    now = client.put(path, order, Traffic)
    at.tell(now, lambda: _table((now,)))


@app.command("history")
@grouped
def history(
    model: Annotated[str, typer.Argument(help="Whose policies.")],
    *,
    epoch: Annotated[
        int | None, typer.Option(min=1, help="Only the policy that was in force then.")
    ] = None,
    at: AtControl,
) -> None:
    """Show the policies that gateways were told, and from which epoch on.

    Every record of the prediction log has a `policy_epoch`: this says which policy that was. Who
    changed what, and why, is in the audit trail (`serving model history`).

    \b
    Examples:
      serving traffic history census-employment
      serving traffic history census-employment --epoch 1763856000123 --json
    """
    query = {} if epoch is None else {"epoch": str(epoch)}
    found = at.client(Role.OPERATOR).get(f"{_path(model)}/history", PolicyEntries, **query)
    at.tell(found, lambda: _policies(found))


def _path(model: str) -> str:
    return f"/v1/traffic/{quote(model, safe='')}"


def _policies(found: PolicyEntries) -> str:
    heads = ("EPOCH", "SINCE", "STABLE", "CANARIES", "SHADOWS", "STICKY")
    rows = [
        (str(each.epoch), instant(each.at_ns // 10**9), *_words(each)) for each in found.policies
    ]
    return table(heads, rows)


def _words(entry: PolicyEntry) -> tuple[str, str, str, str]:
    policy = entry.policy
    if policy is None:
        return "-", "-", "-", "-"
    canaries = [f"{arm.version}={percent(arm.weight / FULL)}" for arm in policy.arms]
    shadows = [
        each.version if each.share >= FULL else f"{each.version}={percent(each.share / FULL)}"
        for each in policy.shadows
    ]
    return policy.stable, ", ".join(canaries) or "-", ", ".join(shadows) or "-", policy.sticky


def _table(found: tuple[Traffic, ...]) -> str:
    rows = [
        (
            each.model,
            each.stable or "-",
            canaries_text(each),
            shadows_text(each),
            each.sticky,
            ", ".join(each.testers) or "-",
            instant(each.updated_ns // 10**9),
            each.updated_by or "-",
            str(each.revision),
        )
        for each in found
    ]
    return table(COLUMNS, rows)
