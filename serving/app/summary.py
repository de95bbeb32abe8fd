"""The ready block: where everything is, what to paste, and what an operator must know."""

from serving.access.ownports import url_of
from serving.app import example
from serving.app.directory import DataDirectory
from serving.app.progress import Ready
from serving.control.status import ControlStatus
from serving.settings import Settings
from serving.tls_settings import PortSettings, is_loopback


def ready_summary(
    settings: Settings, directory: DataDirectory, status: ControlStatus, *, seconds: float
) -> Ready:
    """status: what control said when everything was ready."""
    call = example.current_call()
    url = url_of(settings.http)
    return Ready(
        seconds=round(seconds, 2),
        versions=len(status.versions),
        replicas=sum(len(version.replicas) for version in status.versions),
        inference=f"{url}/v2",
        # As its clients are told it: without a scheme.
        grpc=url_of(settings.grpc).partition("//")[2],
        metrics=f"{url_of(settings.metrics)}/metrics",
        control=url_of(settings.control),
        data_dir=str(directory.root),
        token_command=example.token_command(settings, call=call),
        try_command=example.try_command(settings, url=url, call=call),
        notices=notices(settings, status),
    )


def notices(settings: Settings, status: ControlStatus) -> tuple[str, ...]:
    """Plain words for choices and fallbacks that weaken what the product promises."""
    said = [
        {
            "fsync": "",
            "process": "log.durability is process: an answered prediction survives the death of "
            "any process, but not a power failure",
            "async": "log.durability is async: answers do not wait for their record, so a crash "
            "loses records of answered predictions",
            "off": "log.durability is off: NOTHING IS RECORDED. For measurements only",
        }[settings.log.durability],
        *_release_notices(status),
        _device_notice(settings, status),
        _plain_text_notice(settings),
        "inference.engine is local: models run inside the control process, without Ray's isolation"
        if settings.inference.engine == "local"
        else "",
    ]
    return tuple(notice for notice in said if notice)


def _release_notices(status: ControlStatus) -> list[str]:
    """Who agreed to what serves, where it was nobody; and what must not serve."""
    local = [version for version in status.versions if version.is_local]
    said = []
    if local:
        models = len({version.model for version in local})
        said.append(
            f"{len(local)} versions of {models} models are registered, signed with this "
            "installation's own key and approved by local-policy, because model.yaml calls their "
            "tier of risk demo: no person has approved them"
        )
    said += [
        f"{version.model}@{version.version} is refused: {version.message}"
        for version in status.versions
        if version.state == "refused"
    ]
    return said


def _plain_text_notice(settings: Settings) -> str:
    groups = ("http", "grpc", "control", "metrics")
    ports: list[tuple[str, PortSettings]] = [(name, getattr(settings, name)) for name in groups]
    names = [
        name for name, port in ports if port.certificate is None and not is_loopback(port.host)
    ]
    if not names:
        return ""
    return f"plain text off loopback: {', '.join(names)}. Only a proxy that encrypts may reach it"


def _device_notice(settings: Settings, status: ControlStatus) -> str:
    replicas = [replica for version in status.versions for replica in version.replicas]
    on_cpu = [each for each in replicas if each.providers[:1] == ("CPUExecutionProvider",)]
    if settings.inference.device != "prefer_gpu" or not on_cpu:
        return ""
    share = "every replica" if len(on_cpu) == len(replicas) else f"{len(on_cpu)} replicas"
    return f"inference.device is prefer_gpu, but {share} runs on the CPU: no GPU answered"
