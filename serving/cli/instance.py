"""`serving up`."""

import asyncio
from typing import Annotated

import typer

from serving.app.progress import JsonProgress, Progress, TextProgress
from serving.app.supervisor import Supervisor
from serving.cli.groups import AtDirectory, grouped
from serving.cli.output import say
from serving.core.clock import SystemClock
from serving.settings import Settings

FORCED = 1


@grouped
def up(
    *,
    http_port: Annotated[
        int | None, typer.Option(help="Where predictions are asked for. Default: 8000.")
    ] = None,
    grpc_port: Annotated[
        int | None, typer.Option(help="The same over gRPC. Default: 8001.")
    ] = None,
    metrics_port: Annotated[
        int | None, typer.Option(help="Where Prometheus scrapes. Default: 8002.")
    ] = None,
    control_port: Annotated[
        int | None, typer.Option(help="Where the control plane answers. Default: 8003.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Gateway worker processes. Default: 1.")
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(help="ray (default), or local: models in one process, without Ray."),
    ] = None,
    at: AtDirectory,
) -> None:
    """Start everything on this machine and stay in the foreground until Ctrl-C.

    Prints how far each model is, then one block with addresses, a command for a token and a request
    to paste. Ctrl-C or SIGTERM drains and leaves nothing behind; a second Ctrl-C kills at once.

    \b
    Examples:
      serving up
      serving up --config configs/benchmark.yaml
      serving up --data-dir /srv/a --http-port 9000 --grpc-port 9001 --metrics-port 9002 --control-port 9003
      SERVING_LOG_DURABILITY=process serving up --json
    """
    settings = at.settings(
        http__port=http_port,
        grpc__port=grpc_port,
        metrics__port=metrics_port,
        control__port=control_port,
        http__workers=workers,
        inference__engine=engine,
    )
    progress = JsonProgress(say) if at.json else TextProgress(say)
    if not asyncio.run(_run(settings, progress)):
        raise typer.Exit(FORCED)


async def _run(settings: Settings, progress: Progress) -> bool:
    return await Supervisor(settings, progress=progress, clock=SystemClock()).run()
