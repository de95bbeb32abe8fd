"""The control process without Ray: its models run in threads of this process."""

from serving.app.child import run_child
from serving.app.plane import run_control
from serving.core.clock import SystemClock
from serving.inference.local import LocalEngine
from serving.inference.session import OnnxSession
from serving.settings import Settings


def main(settings: Settings, _index: int) -> None:
    run_control(settings, LocalEngine(load=OnnxSession.load, clock=SystemClock()))


if __name__ == "__main__":
    run_child("control", main)
