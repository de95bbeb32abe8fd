import pytest

from serving.app.summary import notices
from serving.control.status import ControlStatus, ReplicaStatus, VersionStatus
from serving.engine_settings import InferenceSettings
from serving.port_settings import HttpSettings
from serving.settings import LogSettings, Settings

CPU, CUDA = ("CPUExecutionProvider",), ("CUDAExecutionProvider", "CPUExecutionProvider")


def status_of(*providers: tuple[str, ...]) -> ControlStatus:
    """One version with one replica for each list of providers."""
    replicas = tuple(
        ReplicaStatus(f"r{index}", "here", "unix:/r", 0.0, each)
        for index, each in enumerate(providers)
    )
    version = VersionStatus("m", "1", "stable", "ab", "ready", "", 1, 1, replicas)
    return ControlStatus("ray", connected=True, epoch=1, versions=(version,), left_out=())


def settings_of(
    *, durability: str = "fsync", device: str = "prefer_gpu", engine: str = "ray"
) -> Settings:
    return Settings(
        log=LogSettings.model_validate({"durability": durability}),
        inference=InferenceSettings.model_validate({"device": device, "engine": engine}),
    )


def test_nothing_to_say_when_every_promise_is_kept() -> None:
    """Durable log and the device that was asked for: no notice."""
    assert notices(settings_of(), status_of(CUDA, CUDA)) == ()


@pytest.mark.parametrize(
    ("durability", "word"),
    [("process", "power failure"), ("async", "loses records"), ("off", "NOTHING IS RECORDED")],
)
def test_weaker_log_is_said_plainly(durability: str, word: str) -> None:
    """Each durability below the default says what can be lost."""
    (notice,) = notices(settings_of(durability=durability), status_of(CUDA))

    assert f"log.durability is {durability}" in notice
    assert word in notice


@pytest.mark.parametrize(
    ("providers", "share"), [([CPU, CPU], "every replica"), ([CPU, CUDA], "1 replicas")]
)
def test_fall_back_to_the_cpu_is_said(providers: list[tuple[str, ...]], share: str) -> None:
    """`prefer_gpu` never becomes the CPU in silence."""
    (notice,) = notices(settings_of(), status_of(*providers))

    assert f"{share} runs on the CPU" in notice


def test_chosen_cpu_is_no_fall_back() -> None:
    """Who asks for the CPU gets it without a word."""
    assert notices(settings_of(device="cpu"), status_of(CPU)) == ()


def test_engine_without_isolation_is_said() -> None:
    """The local engine is for laptops and tests."""
    (notice,) = notices(settings_of(engine="local"), status_of(CUDA))

    assert "without Ray's isolation" in notice


def test_plain_text_that_others_can_reach_is_said_plainly() -> None:
    """Whoever switched the refusal off is reminded at each start."""
    http = HttpSettings(host="0.0.0.0", plain_text=True)  # noqa: S104 - not bound
    (notice,) = notices(settings_of().model_copy(update={"http": http}), status_of(CUDA))

    assert "plain text off loopback: http." in notice
