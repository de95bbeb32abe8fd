"""What was on, on which machine, in which versions: without it no figure means anything."""

import os
import platform
import subprocess
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Final

from loadtests import wrk
from loadtests.cpu import open_account
from loadtests.product import effective_settings

PACKAGES: Final = ("serving", "ray", "onnxruntime", "onnxruntime-gpu", "uvloop", "numpy")


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0))


def switched_on() -> dict[str, str]:
    """The product as it is measured, in words; durability is that of the server `product`."""
    settings = effective_settings()
    deployments = ", ".join(f"{each.model} x {each.min_replicas}" for each in settings.deployments)
    return {
        "authentication": "on: a token with every request; at each start a caller without one must be refused",
        "prediction log": "fsync: an answer waits for its record on the disk",
        "metrics": "on, scraped once at the start",
        "tracing": f"{settings.telemetry.sampling_ratio:.1%} of requests sampled",
        "access log": "none",
        "TLS": "off",
        "engine": f"{settings.inference.engine}, {settings.inference.threads} thread per session",
        "gateway workers": str(settings.http.workers),
        "replicas": deployments,
        "load": "wrk, one thread, closed loop, loopback, on the same cores as the server",
    }


def machine() -> dict[str, str]:
    """Processor, cores, kernel, and how CPU time is counted."""
    account = open_account("probe")
    account.close()
    return {
        "processor": _processor(),
        "cores": str(usable_cores()),
        "kernel": platform.release(),
        "CPU accounting": account.kind,
    }


def versions() -> dict[str, str]:
    installed = {name: _version(name) for name in PACKAGES}
    return {
        "python": platform.python_version(),
        **{name: number for name, number in installed.items() if number},
        "wrk": _wrk_version(),
    }


def all_facts() -> dict[str, Mapping[str, str]]:
    return {"on": switched_on(), "machine": machine(), "versions": versions()}


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _version(package: str) -> str:
    try:
        return version(package)
    except ModuleNotFoundError:
        return ""


def _wrk_version() -> str:
    """wrk tells its version on the first line of its usage text, and ends with an error then."""
    done = subprocess.run(  # noqa: S603 - the command line is the benchmark's own
        [wrk.find(), "--version"], capture_output=True, text=True, check=False
    )
    return " ".join(done.stdout.split()[1:2])
