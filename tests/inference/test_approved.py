"""What an order may run: the bytes that were verified, as long as the release holds."""

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from serving.artifacts.bundles import Bundle
from serving.core.clock import ManualClock, SystemClock
from serving.core.models import ModelVersion
from serving.errors import ArtifactInvalid, ReleaseRefused
from serving.inference.approved import ApprovedArtifact, ReleaseWatch
from serving.inference.plans import ReplicaOrder
from serving.trust.installation import Keys, edit_trusted
from serving.trust.signatures import SigningKey
from tests.inference import graphs
from tests.places import wait_until
from tests.plans import an_order
from tests.releases import Vault, approval_of, flip, manifest_of

CONTENT = graphs.doubling()
VERSION = graphs.version_of(CONTENT)


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    return Vault(tmp_path)


@pytest.fixture
def order(vault: Vault, tmp_path: Path) -> ReplicaOrder:
    return vault.order(an_order(VERSION, folder=tmp_path), CONTENT)


def approved(order: ReplicaOrder) -> ApprovedArtifact:
    return ApprovedArtifact(order, SystemClock())


def test_bytes_are_those_that_were_released(order: ReplicaOrder) -> None:
    """And as long as nothing changes, verifying again finds nothing."""
    artifact = approved(order)

    assert artifact.load() == Bundle.single(CONTENT)
    artifact.verify()


def without_release(vault: Vault, order: ReplicaOrder) -> None:
    Path(order.release).unlink()


def forged_release(vault: Vault, order: ReplicaOrder) -> None:
    vault.key = SigningKey.create()
    vault.release(VERSION, CONTENT)


def withdrawn_approval(vault: Vault, order: ReplicaOrder) -> None:
    vault.write(manifest_of(VERSION), [])


def expired_approval(vault: Vault, order: ReplicaOrder) -> None:
    manifest = manifest_of(VERSION)
    vault.write(manifest, [approval_of(manifest, expires_ns=1)])


def other_version(vault: Vault, order: ReplicaOrder) -> None:
    manifest = msgspec.structs.replace(manifest_of(VERSION), version="2")
    vault.write(manifest, [approval_of(manifest)]).rename(order.release)


def edited_release(vault: Vault, order: ReplicaOrder) -> None:
    flip(Path(order.release), 40)


def untrusted(**fields: object) -> Callable[[Vault, ReplicaOrder], None]:
    def change(vault: Vault, order: ReplicaOrder) -> None:
        def edited(keys: Keys) -> Keys:
            return tuple(msgspec.structs.replace(key, **fields) for key in keys)

        edit_trusted(vault.keys, edited)

    return change


def no_trusted_keys(vault: Vault, order: ReplicaOrder) -> None:
    (vault.keys / "trusted-keys.json").unlink()


CHANGES = {
    "no release": (without_release, "there is no release"),
    "forged": (forged_release, "unknown"),
    "withdrawn": (withdrawn_approval, "needs 1 approvals, 0 count"),
    "expired approval": (expired_approval, "is expired"),
    "another version": (other_version, "is about model@2"),
    "edited": (edited_release, "may not run"),
    "revoked key": (untrusted(revoked_at_ns=1), "is revoked"),
    "expired key": (untrusted(not_after_ns=1), "is expired"),
    "wrong role": (untrusted(roles=("log",)), "may not sign for artifact"),
    "no trusted keys": (no_trusted_keys, "cannot read the trusted keys"),
}


@pytest.mark.parametrize(("change", "reason"), CHANGES.values(), ids=list(CHANGES))
def test_ar_21_release_that_does_not_hold_is_not_loaded_and_not_run_on(
    vault: Vault,
    order: ReplicaOrder,
    change: Callable[[Vault, ReplicaOrder], None],
    reason: str,
) -> None:
    """Refused at load, and by whoever had loaded it before; the reason names the version."""
    running = approved(order)
    running.load()

    change(vault, order)

    for refusing in (approved(order).load, running.verify):
        with pytest.raises(ReleaseRefused, match=reason) as refused:
            refusing()
        assert refused.value.message.startswith("model@1 may not run")


def test_ar_17_damaged_artifact_is_not_loaded(
    vault: Vault, order: ReplicaOrder, tmp_path: Path
) -> None:
    """Nor does it pass when it is damaged later; what is loaded is not affected."""
    running = approved(order)
    running.load()
    (sealed,) = tmp_path.glob("artifacts/*/*.sealed")
    flip(sealed)

    for refusing in (approved(order).load, running.verify):
        with pytest.raises(ArtifactInvalid, match="damaged"):
            refusing()


def test_ar_23_what_is_loaded_is_what_was_hashed(
    vault: Vault, order: ReplicaOrder, tmp_path: Path
) -> None:
    """Read once: a file that is exchanged afterwards changes nothing that is in memory."""
    bundle = approved(order).load()
    for sealed in tmp_path.glob("artifacts/*/*.sealed"):
        sealed.write_bytes(b"exchanged")

    assert bundle.digest == VERSION.digest
    assert bundle.files[bundle.entry] == CONTENT


def test_ar_18_artifact_of_another_version_is_not_loaded(
    vault: Vault, tmp_path: Path, order: ReplicaOrder
) -> None:
    """A release that holds, of a version that is another than the order's."""
    other: ModelVersion = graphs.version_of(graphs.lookup())
    swapped = msgspec.structs.replace(order, version=other)

    with pytest.raises(ReleaseRefused, match="is about"):
        approved(swapped).load()


def test_approval_ends_with_its_time(vault: Vault, tmp_path: Path) -> None:
    """Nothing is written when an approval expires; the clock alone decides."""
    clock = ManualClock()
    now_ns = clock.wall_ns()
    order = vault.order(an_order(VERSION, folder=tmp_path), CONTENT)
    manifest = manifest_of(VERSION, created_ns=now_ns)
    vault.write(manifest, [approval_of(manifest, expires_ns=now_ns + 60_000_000_000)])
    artifact = ApprovedArtifact(order, clock)
    artifact.load()

    clock.advance(59)
    artifact.verify()
    clock.advance(1)
    with pytest.raises(ReleaseRefused, match="is expired"):
        artifact.verify()


def test_watch_tells_each_finding_once(vault: Vault, order: ReplicaOrder, tmp_path: Path) -> None:
    """Damage, while it lasts, once; a refusal ends the watch."""
    artifact = approved(order)
    artifact.load()
    told: list[str] = []
    watch = ReleaseWatch(
        artifact,
        period_s=0.005,
        refused=lambda reason: told.append(f"refused: {reason}"),
        damaged=lambda reason: told.append(f"damaged: {reason}"),
    )
    watch.start()
    (sealed,) = tmp_path.glob("artifacts/*/*.sealed")
    flip(sealed)
    wait_until(lambda: told)
    Path(order.release).unlink()
    wait_until(lambda: len(told) == 2)
    watch.stop()

    assert [each.partition(":")[0] for each in told] == ["damaged", "refused"]


def test_store_that_is_away_stops_nothing(vault: Vault, order: ReplicaOrder) -> None:
    """Nobody can say that the version must not run: it goes on, and is verified when it can be."""
    artifact = approved(order)
    artifact.load()
    told: list[str] = []
    watch = ReleaseWatch(artifact, period_s=0.005, refused=told.append, damaged=told.append)
    Path(order.release).rename(f"{order.release}.away")
    Path(order.release).symlink_to(f"{order.release}.away")
    with pytest.raises(OSError, match="symbolic"):
        artifact.verify()

    watch.start()
    watch.stop()

    assert told == []
