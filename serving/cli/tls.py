"""`serving tls`: certificates of a local authority, for trying TLS on this machine."""

import os
from pathlib import Path
from typing import Annotated

import msgspec
import typer
import yaml

from serving.access.authority import LocalAuthority
from serving.app.directory import DataDirectory
from serving.cli.groups import AtDirectory, grouped
from serving.cli.output import complain
from serving.core.clock import SystemClock
from serving.settings import Settings

PORTS = ("http", "grpc", "control", "metrics")

app = typer.Typer(
    help="Certificates of a local authority, for trying TLS on this machine.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


class Made(msgspec.Struct, frozen=True):
    """Files that are there now. clients: by name, the certificate and the key of each."""

    authority: str
    certificate: str
    key: str
    clients: dict[str, tuple[str, str]]
    settings: dict[str, object]


@app.callback()
def tls() -> None:
    """Keeps `init` a verb of its own."""


@app.command("init")
@grouped
def init(
    *,
    client: Annotated[
        list[str] | None,
        typer.Option(help="Make a client certificate with this common name; may be repeated."),
    ] = None,
    channel: Annotated[
        bool,
        typer.Option("--channel", help="Also for the channel between gateways and replicas."),
    ] = False,
    at: AtDirectory,
) -> None:
    """Make a local authority and certificates below the data directory, and print how to use them.

    What is there already stays as it is. Whoever holds `tls/ca.key` can make certificates that the
    clients of this authority trust: for other machines bring certificates of your organisation.

    \b
    Examples:
      serving tls init > tls.yaml && serving up --config tls.yaml
      serving tls init --client batch
      serving tls init --channel
    """
    os.umask(0o077)
    settings = at.settings()
    folder = DataDirectory.at(settings.data_dir).root / "tls"
    authority = LocalAuthority(folder, SystemClock())
    certificate, key = authority.server()
    clients = {name: authority.client(name) for name in client or ()}
    values = _settings(settings, authority.ca_file, (certificate, key), list(clients))
    if channel:
        values["channel"] = _channel(LocalAuthority(folder / "channel", SystemClock()))
    made = Made(
        authority=str(authority.ca_file),
        certificate=str(certificate),
        key=str(key),
        clients={name: (str(pair[0]), str(pair[1])) for name, pair in clients.items()},
        settings=values,
    )
    at.tell(made, lambda: yaml.safe_dump(values, sort_keys=False).rstrip())
    if at.json:
        return
    complain(f"put these lines into the file of settings; certificates are in {folder}")
    complain(f"then: {_curl(settings, made)}")


def _settings(
    settings: Settings, authority: Path, pair: tuple[Path, Path], clients: list[str]
) -> dict[str, object]:
    """What to write into a file so that the certificates are used."""
    files: dict[str, object] = {"certificate": str(pair[0]), "key": str(pair[1])}
    values: dict[str, object] = {"data_dir": str(settings.data_dir)}
    values |= {port: dict(files) for port in PORTS}
    if clients:
        values["http"] = {**files, "client_ca": str(authority), "client_certificates": "optional"}
        values["access"] = {
            "certificates": [{"subject": name, "roles": ["caller"]} for name in clients]
        }
    return values


def _channel(authority: LocalAuthority) -> dict[str, object]:
    """An authority of its own: whoever it signs for is a gateway and a replica."""
    certificate, key = authority.server()
    files = {"certificate": certificate, "key": key, "client_ca": authority.ca_file}
    return {"listen": "tls", **{name: str(file) for name, file in files.items()}}


def _curl(settings: Settings, made: Made) -> str:
    parts = [f"curl --cacert {made.authority}"]
    for certificate, key in list(made.clients.values())[:1]:
        parts.append(f"--cert {certificate} --key {key}")
    path = "/v2/models" if made.clients else "/v2/health/ready"
    return " ".join([*parts, f"https://127.0.0.1:{settings.http.port}{path}"])
