import secrets

import msgspec
import pytest

from loadtests.ports import free_port
from serving.inference.registration import PhaseReport, Registration, Renewal
from serving.port_settings import ControlSettings
from tests.inference.recorders import ControlRecorder
from tests.plans import a_renewal

SECRET = secrets.token_hex(32)
PATH = "/internal/endpoints/a"


def settings_of(port: int, **changes: object) -> ControlSettings:
    return ControlSettings.model_validate({"port": port, "renew_s": 0.01, **changes})


def test_lease_is_taken_renewed_and_given_back() -> None:
    """PUT at once and again and again, DELETE at the end, always with the secret."""
    with ControlRecorder() as control:
        registration = Registration("a", control=settings_of(control.port), secret=SECRET)
        registration.start(lambda: a_renewal("a"))
        renewal = control.wait_for("PUT", PATH, count=3)
        registration.stop()

        goodbye = control.received[-1]

    assert a_renewal("a") == msgspec.json.decode(renewal.body, type=Renewal)
    assert (goodbye.method, goodbye.path) == ("DELETE", PATH)
    assert {f"Bearer {SECRET}"} == {each.authorization for each in control.received}


def test_absent_control_costs_nothing_and_is_found_when_it_comes() -> None:
    """A replica starts without control and takes its lease as soon as there is one."""
    port = free_port()
    registration = Registration("a", control=settings_of(port), secret=SECRET)
    registration.report(PhaseReport("doubler", "1", "loading"))
    registration.start(lambda: a_renewal("a"))

    with ControlRecorder(port) as control:
        control.wait_for("PUT", PATH)
        registration.stop()


def test_lease_is_taken_again_after_control_was_away() -> None:
    """A control process that starts again hears from every replica within one renewal."""
    with ControlRecorder() as control:
        port = control.port
        registration = Registration("a", control=settings_of(port), secret=SECRET)
        registration.start(lambda: a_renewal("a"))
        control.wait_for("PUT", PATH)

    with ControlRecorder(port) as again:
        again.wait_for("PUT", PATH)
        registration.stop()


@pytest.mark.parametrize("host", ["0.0.0.0", "127.0.0.1"])  # noqa: S104 - a setting, not bound
def test_control_on_every_interface_is_reached_over_loopback(host: str) -> None:
    """The address that control binds is not always one that can be called."""
    with ControlRecorder() as control:
        registration = Registration(
            "a", control=settings_of(control.port, host=host, plain_text=True), secret=SECRET
        )
        registration.report(PhaseReport("doubler", "1", "warming"))

        report = control.wait_for("PUT", "/internal/phases/a")

    assert PhaseReport("doubler", "1", "warming") == msgspec.json.decode(
        report.body, type=PhaseReport
    )


def test_stopping_before_starting_says_nothing() -> None:
    """A replica that failed to load never had a lease to give back."""
    with ControlRecorder() as control:
        Registration("a", control=settings_of(control.port), secret=SECRET).stop()

    assert control.received == []
