"""`serving up` as a container would run it: as nobody, on a read-only file system, without a network.

Made of the kernel's namespaces, so it takes root, `unshare`, `setpriv` and `ip`; tests that need it
are skipped elsewhere. Only the data directory can be written, only loopback can be reached.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

NOBODY: Final = 65534

_SCRIPT: Final = """
set -eu
umask 022
data=$1; base=$2; scratch=$3; shift 3
ip link set lo up
mount --make-rprivate /
# The interpreter may lie in the home of root, which nobody can enter.
mount --bind "$base" "$scratch"
if ! setpriv --reuid 65534 --regid 65534 --clear-groups test -x "$base/bin"; then
  mount -t tmpfs -o mode=755 none /root
  mkdir -p "$base"
  mount --bind "$scratch" "$base"
fi
mount --bind "$data" "$data"
awk '{print $5}' /proc/self/mountinfo | while read -r place; do
  case "$place" in
    "$data"|/proc|/proc/*|/dev|/dev/*) ;;
    *) mount -o remount,bind,ro "$place" || true ;;
  esac
done
exec setpriv --reuid 65534 --regid 65534 --clear-groups --no-new-privs --inh-caps=-all \
  --bounding-set=-all env -u TMPDIR HOME=/nonexistent "$@"
"""


def require_confinement() -> None:
    """Skips the test where namespaces cannot be made."""
    tools = ("unshare", "setpriv", "ip", "nsenter")
    if os.geteuid() != 0 or not all(shutil.which(each) for each in tools):
        pytest.skip(f"takes root and {', '.join(tools)}")
    made = subprocess.run(["unshare", "--mount", "--net", "true"], check=False)  # noqa: S607
    if made.returncode:
        pytest.skip("this kernel makes no namespaces")


def confined(command: list[str], *, data_dir: Path, scratch: Path) -> list[str]:
    """The command, to be run confined. data_dir: the one place that it may write to, its own.

    scratch: an empty folder, for mounting.
    """
    os.chown(data_dir, NOBODY, NOBODY)
    shell = ["/bin/sh", "-c", _SCRIPT, "sh", str(data_dir), sys.base_prefix, str(scratch)]
    return ["unshare", "--mount", "--net", *shell, *command]


def inside_of(pid: int, command: list[str]) -> "subprocess.CompletedProcess[str]":
    """Runs a command in the network of a confined process."""
    return subprocess.run(  # noqa: S603 - the test's own command
        ["nsenter", "--net", f"--target={pid}", *command],  # noqa: S607
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
