"""`serving log reconcile`: whether every answer is recorded or declared lost."""

from pathlib import Path
from typing import Annotated, Any, Final

import typer

from serving.app.directory import DataDirectory
from serving.cli.groups import AtDirectory, grouped
from serving.cli.log import app
from serving.cli.output import table
from serving.core.clock import SystemClock
from serving.errors import NotFound
from serving.ledger.places import cold_place
from serving.ledger.reconciliation import Balance, Reconciliation, client_ids, reconcile
from serving.settings import Settings

UNSOUND: Final = 1
_DAY_NS: Final = 86_400 * 1_000_000_000
_MOST_NAMED: Final = 20
_HEADS: Final = (
    "WORKER", "LOG", "STATE", "ADMITTED", "ANSWERED", "REFUSED", "FAILED", "OPEN", "RECORDED",
    "LOST", "MISSING",
)  # fmt: skip


@app.command("reconcile")
@grouped
def reconcile_log(
    *,
    client_ledger: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="Prediction ids that a client was given: one a line, or JSON lines.",
        ),
    ] = None,
    at: AtDirectory,
) -> None:
    """Check from the files alone that no answer went unrecorded; exit status 1 if one did.

    For each start of each gateway worker two identities: admitted = answered + refused + failed +
    open, and answered = recorded + declared lost (RECORDED may be more: an answer that was recorded
    and did not leave). With --client-ledger also that each acknowledged prediction is there once.
    Works while the product runs, over segments and tables together.

    \b
    Examples:
      serving log reconcile
      serving log reconcile --client-ledger acknowledged.txt --json
    """
    settings = at.settings()
    root = DataDirectory.at(settings.data_dir).root
    if not (root / "log").is_dir():
        raise NotFound(f"{root / 'log'} does not exist; has the product run there?")
    found = reconcile(
        root / "log",
        cold_place(settings.blobs, root),
        acknowledged=client_ids(client_ledger) if client_ledger is not None else (),
        since_ns=_since_ns(settings),
    )
    at.tell(_facts(found), lambda: _text(found))
    if not found.sound:
        raise typer.Exit(UNSOUND)


def _since_ns(settings: Settings) -> int:
    """Records of earlier starts may have been deleted, as they should."""
    days = min(settings.ledger.keep_days.values(), default=None)
    return 0 if days is None else SystemClock().wall_ns() - int(days * _DAY_NS)


def _text(found: Reconciliation) -> str:
    lines = [table(_HEADS, [_row(each) for each in found.balances])]
    if found.acknowledged:
        lines.append(
            f"{found.acknowledged} acknowledged ids: {len(found.missing)} missing, "
            f"{len(found.twice)} twice"
        )
    for name, ids in (("missing", found.missing), ("twice", found.twice)):
        lines += [f"{name}: {each}" for each in ids[:_MOST_NAMED]]
    return "\n".join([*lines, "sound" if found.sound else "NOT sound"])


def _row(balance: Balance) -> tuple[str, ...]:
    account = balance.account
    figures = (
        account.admitted, account.answered, account.refused, account.failed, account.open,
        balance.recorded, balance.lost, balance.missing,
    )  # fmt: skip
    state = "aged" if balance.aged else balance.state
    return (balance.worker, account.log_id, state, *map(str, figures))


def _facts(found: Reconciliation) -> dict[str, Any]:
    names = [head.lower() for head in _HEADS]
    return {
        "sound": found.sound,
        "balances": [
            {
                name: int(cell) if cell.isdecimal() and index > 2 else cell  # noqa: PLR2004
                for index, (name, cell) in enumerate(zip(names, _row(each), strict=True))
            }
            for each in found.balances
        ],
        "acknowledged": found.acknowledged,
        "missing": found.missing,
        "twice": found.twice,
    }
