"""`serving trust`: whose signatures count on this installation."""

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from serving.access.operators import operator_name
from serving.app.directory import DataDirectory
from serving.audit.events import Event, EventName
from serving.audit.spool import Spool
from serving.cli.credentials import seconds_of
from serving.cli.groups import AtDirectory, grouped
from serving.cli.output import complain, instant, table
from serving.core.actors import Actor
from serving.core.clock import SystemClock
from serving.errors import SettingInvalid
from serving.trust.installation import installation_key, read_trusted
from serving.trust.signatures import ROLES, PublicKey, TrustedKey
from serving.trust.signers import add_key, revoke_key, rotate_key

app = typer.Typer(
    help="Whose signatures count: on artifacts, approvals, the prediction log and the audit trail.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
HEADS = ("KEY", "STATE", "NAME", "ROLES", "FROM", "UNTIL")
Key = Annotated[str, typer.Argument(help="The key's id, as `serving trust list` shows it.")]
Reason = Annotated[str, typer.Option(help="Why; kept in the audit trail.")]


@app.command("list")
@grouped
def list_keys(*, at: AtDirectory) -> None:
    """List every key whose signatures count, or once did.

    \b
    Examples:
      serving trust list
      serving trust list --json
    """
    keys_dir = at.directory().keys
    installation_key(keys_dir)
    _show(read_trusted(keys_dir).keys, at=at)


@app.command("add")
@grouped
def add(
    name: Annotated[str, typer.Argument(help="Whose key it is; shown where it is used.")],
    *,
    public_key: Annotated[
        str, typer.Option(help="An Ed25519 public key: base64 of 32 bytes, or a PEM file.")
    ],
    role: Annotated[
        list[str],
        typer.Option(help=f"What it may sign: {', '.join(ROLES)}; may be repeated."),
    ],
    ttl: Annotated[
        str, typer.Option(help="How long its signatures count: 90d. Default: no end.")
    ] = "",
    reason: Reason = "",
    at: AtDirectory,
) -> None:
    """Trust a key of somebody else, such as a build system that signs what it trained.

    Replicas and commands read the list each time they verify something, so it counts at once.

    \b
    Examples:
      serving trust add ci --public-key ci.pem --role artifact --ttl 365d
      serving trust add board --public-key LYnD…= --role approval
    """
    directory = at.directory()
    roles = [known for known in ROLES if known in role]
    if len(roles) != len(set(role)):
        raise SettingInvalid(f"--role is one of: {', '.join(ROLES)}")
    file = Path(public_key)
    text = file.read_text() if file.is_file() else public_key
    until_ns = SystemClock.wall_ns() + round(seconds_of(ttl) * 1e9) if ttl else 0
    public = PublicKey.from_text(text)
    added = add_key(directory.keys, public, name=name, roles=roles, not_after_ns=until_ns)
    _record(directory, EventName.TRUST_ADDED, added, reason)
    _show((added,), at=at)


@app.command("revoke")
@grouped
def revoke(
    key: Key,
    *,
    reason: Reason = "",
    at: AtDirectory,
) -> None:
    """End a key: from now on nothing that it ever signed counts.

    Replicas whose release it signed stop within `artifacts.verify_s`; the reason is in the audit
    trail. Whoever holds a stolen key also chooses the date in what he signs, so earlier
    signatures do not count either.

    \b
    Examples:
      serving trust revoke 3f9a0c2d71b4e855 --reason "laptop stolen"
    """
    directory = at.directory()
    ended = revoke_key(directory.keys, key, now_ns=SystemClock.wall_ns())
    _record(directory, EventName.TRUST_REVOKED, ended, reason)
    _show((ended,), at=at)


@app.command("rotate")
@grouped
def rotate(
    *,
    overlap: Annotated[
        str,
        typer.Option(help="How long what the old key signed still counts. Default: until revoked."),
    ] = "",
    reason: Reason = "",
    at: AtDirectory,
) -> None:
    """Make a new key for this installation; what is signed from the next start on is signed by it.

    \b
    Examples:
      serving trust rotate
      serving trust rotate --overlap 90d --reason "yearly"
    """
    directory = at.directory()
    now_ns = SystemClock.wall_ns()
    until_ns = now_ns + round(seconds_of(overlap, "--overlap") * 1e9) if overlap else 0
    added, old = rotate_key(directory.keys, now_ns=now_ns, old_until_ns=until_ns)
    _record(directory, EventName.TRUST_ROTATED, added, reason)
    _show((added,), at=at)
    if not at.json:
        complain(f"the key before was {old}; start the instance again to sign with the new one")


def _record(directory: DataDirectory, name: EventName, key: TrustedKey, reason: str) -> None:
    actor = Actor(subject=operator_name(), source="cli")
    event = Event.by(
        actor, name, f"key:{key.key_id}", after=msgspec.to_builtins(key), reason=reason
    )
    Spool(directory.audit).add(event, at_ns=SystemClock.wall_ns())


def _show(keys: tuple[TrustedKey, ...], *, at: AtDirectory) -> None:
    now_ns = SystemClock.wall_ns()
    at.tell(keys, lambda: table(HEADS, [_row(key, now_ns) for key in keys]))


def _row(key: TrustedKey, now_ns: int) -> tuple[str, ...]:
    return (
        key.key_id,
        _state(key, now_ns),
        key.name,
        ",".join(key.roles),
        instant(key.not_before_ns // 10**9),
        instant(key.not_after_ns // 10**9),
    )


def _state(key: TrustedKey, now_ns: int) -> str:
    if key.revoked_at_ns:
        return "revoked"
    if now_ns < key.not_before_ns:
        return "not yet"
    return "expired" if key.not_after_ns and key.not_after_ns <= now_ns else "trusted"
