"""`serving outcomes`: what turned out to be true, from a file."""

import getpass
from pathlib import Path
from typing import Annotated, Final

import httpx
import typer

from serving.access.issuer import LocalIssuer
from serving.access.ownports import trust_in, url_of
from serving.app.directory import DataDirectory
from serving.app.outcome_import import OutcomeImport
from serving.cli.advance import Advance
from serving.cli.groups import AtDirectory, grouped
from serving.cli.options import running
from serving.core.clock import SystemClock
from serving.core.principals import Role
from serving.errors import NotFound, SettingInvalid
from serving.settings import Settings

TIMEOUT_S: Final = 30.0
LIFETIME_S: Final = 3600.0

app = typer.Typer(
    help="Report what turned out to be true of predictions.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.callback()
def outcomes() -> None:
    """Report what turned out to be true of predictions."""


@app.command("import")
@grouped
def import_file(
    file: Annotated[Path, typer.Argument(help="A .csv, .jsonl or .parquet file.")],
    *,
    model: Annotated[str, typer.Option(help="Whose predictions they are about.")],
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where an earlier import of the file ended.")
    ] = False,
    url: Annotated[str, typer.Option(help="An inference port elsewhere; needs --token-file.")] = "",
    token_file: Annotated[
        Path | None, typer.Option(help="A file that holds a token, instead of one made here.")
    ] = None,
    at: AtDirectory,
) -> None:
    """Send a file of outcomes to the inference port; each is recorded when this returns.

    Columns: prediction_id, name, value, and where they are known row, observed_at, revision. Sending
    a file twice changes nothing: of several reports about one prediction, row and name the highest
    revision counts, and of equals the first. An empty value takes back what an earlier revision said.

    \b
    Examples:
      serving outcomes import labels.csv --model census-employment
      serving outcomes import labels.parquet --model census-employment --resume
      serving outcomes import labels.jsonl --model fraud --url https://serving.example:8000 --token-file token
    """
    if not file.is_file():
        raise NotFound(f"{file} is not there")
    clock = SystemClock()
    with _client(at, url=url, token_file=token_file) as client:
        work = OutcomeImport(file, model=model, client=client, clock=clock)
        resumed = work.resume() if resume else 0
        with Advance("reports", clock) as advance:
            work.run(advance.to)
    recorded, after = work.sent - resumed, f", after {resumed}" if resumed else ""
    facts = {"recorded": recorded, "resumed_after": resumed}
    at.tell(facts, lambda: f"{recorded} reports recorded{after}")


def _client(at: AtDirectory, *, url: str, token_file: Path | None) -> httpx.Client:
    """Of the inference port of the instance on the data directory, or of the one at `url`."""
    if url:
        if token_file is None:
            raise SettingInvalid(
                "--url needs --token-file: a token from here is not believed there"
            )
        return httpx.Client(base_url=url, headers=_bearer(_read(token_file)), timeout=TIMEOUT_S)
    directory = at.directory()
    settings = running(directory)
    token = _read(token_file) if token_file is not None else _own_token(directory, settings)
    return httpx.Client(
        base_url=url_of(settings.http),
        headers=_bearer(token),
        trust_env=False,
        timeout=TIMEOUT_S,
        verify=trust_in(settings.http),
    )


def _own_token(directory: DataDirectory, settings: Settings) -> str:
    if not settings.access.has_local_issuer:
        raise SettingInvalid("the local issuer is off: name a token with --token-file")
    issuer = LocalIssuer.open(directory.keys, settings.access, SystemClock())
    lifetime_s = min(LIFETIME_S, settings.access.max_token_lifetime_s)
    return issuer.issue(
        subject=f"local:{getpass.getuser()}", roles=[Role.OPERATOR], ttl_s=lifetime_s
    )


def _bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}


def _read(token_file: Path) -> str:
    try:
        return token_file.read_text().strip()
    except OSError as error:
        raise SettingInvalid(f"{token_file} cannot be read: {error.strerror}") from error
