import subprocess
import sys
from pathlib import Path

import pytest

from serving.app.descendants import descendants

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's subreapers")

ORPHANS = """
import os, subprocess, sys
from serving.app.descendants import become_subreaper, descendants, kill_descendants, reap_adopted

become_subreaper()
middle = subprocess.Popen(
    [sys.executable, "-c",
     "import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', "
     "'import time; time.sleep(60)'], start_new_session=True); print(p.pid, flush=True)"],
    stdout=subprocess.PIPE, text=True)
orphan = int(middle.stdout.readline())
middle.wait()
spared = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
found = descendants(os.getpid())
killed = kill_descendants(spared=[spared.pid])
while orphan in descendants(os.getpid()):
    reap_adopted(own=[spared.pid])
print(orphan in found, spared.pid in found, killed == [orphan], spared.poll() is None)
spared.kill()
spared.wait()
"""

PARENT = """
import subprocess, sys
from serving.app.descendants import end_with_parent

child = subprocess.Popen(
    [sys.executable, "-c",
     "import signal, time, pathlib, sys\\n"
     "def ended(*_):\\n    pathlib.Path(sys.argv[1]).write_text('ended'); sys.exit()\\n"
     "signal.signal(signal.SIGTERM, ended); print('up', flush=True); time.sleep(60)",
     sys.argv[1]],
    stdout=subprocess.PIPE, preexec_fn=end_with_parent)
child.stdout.readline()
print("ready", flush=True)
sys.stdin.read()
"""

WALKS = 3000
RESTLESS = "import os\nwhile True:\n    os.waitpid(os.posix_spawn('/bin/true', ['true'], {}), 0)"


def test_processes_that_end_while_they_are_looked_for_are_no_fault() -> None:
    """Somebody below comes and goes all the time: whoever looks is never told of it by an error."""
    command = [sys.executable, "-c", RESTLESS]
    restless = [subprocess.Popen(command) for _ in range(2)]  # noqa: S603 - our own code
    try:
        seen = {pid for _ in range(WALKS) for each in restless for pid in descendants(each.pid)}
    finally:
        for each in restless:
            each.kill()
            each.wait()

    assert len(seen) > 1


def test_orphans_are_found_ended_and_reaped_and_the_spared_live() -> None:
    """A process whose parent has gone, in a session of its own, does not get away."""
    done = subprocess.run(  # noqa: S603 - our own code
        [sys.executable, "-c", ORPHANS], capture_output=True, text=True, timeout=30, check=True
    )

    assert done.stdout.strip() == "True True True True"


def test_child_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    """SIGKILL for the parent is SIGTERM for the child, which can still clean up."""
    note = tmp_path / "note"
    parent = subprocess.Popen(  # noqa: S603 - our own code
        [sys.executable, "-c", PARENT, str(note)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    assert parent.stderr is not None
    parent.stdout.readline()
    parent.kill()
    # The child inherited standard error: it is at its end once the child has gone, too.
    parent.stderr.read()
    parent.communicate()

    assert note.read_text() == "ended"
