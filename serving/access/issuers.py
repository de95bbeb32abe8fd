"""The issuers that are believed: for each its keys, and what its tokens must say.

Several issuers never share anything. A token's `iss` chooses one of them, and then only the keys and
the rules of that one count, whatever name another issuer gives to a key.
"""

import asyncio
from collections.abc import Iterable, Mapping
from pathlib import Path

from serving.access.claims import ROLES, Profile
from serving.access.issuer import LocalIssuer
from serving.access.keyrings import KeyRing, TrustedIssuer
from serving.access.refreshing import KeyRefresher, KeyStatus
from serving.access.sources import KeyAddress, KeyFile, Unreadable
from serving.core.clock import Clock
from serving.core.principals import Role
from serving.errors import SettingInvalid, StartFailed
from serving.issuer_settings import ClaimPath, ClaimSettings, IssuerSettings
from serving.settings import AccessSettings


class Issuers:
    """All issuers of a process. `run` keeps their keys fresh."""

    def __init__(
        self, trusted: Iterable[TrustedIssuer], refreshers: Iterable[KeyRefresher] = ()
    ) -> None:
        self.trusted = tuple(trusted)
        self._refreshers = tuple(refreshers)

    @classmethod
    def open(cls, keys_dir: Path, settings: AccessSettings, clock: Clock) -> "Issuers":
        """Reads what is in files; an address is first asked by `run`.

        Raises StartFailed for a file that cannot be used, SettingInvalid for a role nobody knows.
        """
        opened = [_open(each, clock) for each in settings.issuers]
        trusted = [issuer for issuer, _ in opened]
        if settings.has_local_issuer:
            trusted.append(LocalIssuer.open(keys_dir, settings, clock).trusted)
        return cls(trusted, [refresher for _, refresher in opened])

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for refresher in self._refreshers:
                tasks.create_task(refresher.run())
            await asyncio.Event().wait()  # A task that ends is a mistake, and so is none.

    def status(self) -> tuple[KeyStatus, ...]:
        return tuple(refresher.status() for refresher in self._refreshers)

    def troubles(self) -> tuple[str, ...]:
        """Why some tokens may not be judged, though all others are."""
        return tuple(
            f"issuer {each.issuer}: {each.trouble}" for each in self.status() if each.trouble
        )

    @property
    def asked(self) -> bool:
        """Whether each issuer was asked for its keys once, successfully or not."""
        return all(refresher.asked for refresher in self._refreshers)


def _open(settings: IssuerSettings, clock: Clock) -> tuple[TrustedIssuer, KeyRefresher]:
    profile = profile_of(settings)
    if settings.jwks_url is not None:
        source: KeyAddress | KeyFile = KeyAddress(settings)
        ring = KeyRing(settings.name)
    else:
        source = file = KeyFile(settings)
        try:
            ring = KeyRing(settings.name, file.read_now())
        except Unreadable as error:
            raise StartFailed(f"issuer {settings.name}: {error}") from error
    refresher = KeyRefresher(ring, source, settings=settings, clock=clock)
    return TrustedIssuer(profile, ring), refresher


def profile_of(settings: IssuerSettings) -> Profile:
    """What the settings say about tokens. Raises SettingInvalid for a role that does not exist."""
    claims = settings.claims
    required: list[tuple[str, ...]] = [(name,) for name in settings.required_claims]
    required += [_path(each) for each in (claims.tenant, claims.models) if each is not None]
    return Profile(
        issuer=settings.name,
        audiences=frozenset(settings.audiences),
        types=frozenset(settings.types),
        leeway_s=settings.leeway_s,
        max_lifetime_s=settings.max_token_lifetime_s,
        audience_lists=settings.audience_lists,
        required=tuple(required),
        subject=_path(claims.subject),
        subject_prefix=claims.subject_prefix,
        tenant=None if claims.tenant is None else _path(claims.tenant),
        fixed_tenant=settings.tenant,
        roles=None if claims.roles is None else _path(claims.roles),
        roles_form=claims.roles_form,
        role_names=_role_names(claims),
        models=None if claims.models is None else _path(claims.models),
        models_form=claims.models_form,
    )


def _path(claim: ClaimPath) -> tuple[str, ...]:
    return tuple(claim.split(".")) if isinstance(claim, str) else claim


def _role_names(claims: ClaimSettings) -> Mapping[str, Role]:
    unknown = sorted(set(claims.role_names.values()) - ROLES.keys())
    if unknown:
        raise SettingInvalid(
            f"claims.role_names: {unknown[0]!r} is no role; permitted: {', '.join(ROLES)}"
        )
    return {theirs: ROLES[ours] for theirs, ours in claims.role_names.items()} or ROLES
