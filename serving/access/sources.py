"""Where the keys of an issuer are read: a file of this machine, or an https address.

An address is fetched as the settings write it, and nothing in the answer is followed: no redirect, no
proxy or credentials from the environment, no compression, one document of bounded size in bounded
time, over a verified connection. What the document says is `jwks`' to judge.
"""

import asyncio
import os
import ssl
import stat
from http import HTTPStatus
from pathlib import Path
from typing import Final, Protocol

import httpx

from serving.access.jwks import MAX_DOCUMENT_BYTES, read_key_set, read_secret
from serving.access.verification import KeySet, KeyUnfit
from serving.errors import SettingInvalid
from serving.issuer_settings import IssuerSettings
from serving.trust.privatefiles import OTHERS

ACCEPTED: Final = "application/jwk-set+json, application/json"


class Unreadable(Exception):
    """The source gave no keys that can be used; the message says why, for an operator."""


class KeySource(Protocol):
    """Reads the keys of one issuer, as often as it is asked."""

    async def read(self) -> KeySet:
        """Raises Unreadable."""


class KeyFile:
    """A key set, a PEM text or a secret on this machine."""

    def __init__(self, settings: IssuerSettings) -> None:
        self._settings = settings

    async def read(self) -> KeySet:
        return self.read_now()

    def read_now(self) -> KeySet:
        """As `read`: a small local file, so it may be read on the loop."""
        settings = self._settings
        path = settings.keys_file or settings.secret_file
        if path is None:
            raise TypeError("this issuer has its keys elsewhere")
        try:
            document = _content(path, private=settings.secret_file is not None)
            if settings.secret_file is not None:
                return read_secret(document, settings.algorithms[0])
            return read_key_set(document, settings.algorithms)
        except (OSError, KeyUnfit) as error:
            reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
            raise Unreadable(f"{path} cannot be used: {reason}") from error


class KeyAddress:
    """A key set at an https address."""

    def __init__(self, settings: IssuerSettings) -> None:
        """Raises SettingInvalid when `ca_file` cannot be read."""
        self._settings = settings
        self._url = settings.jwks_url or ""
        self._verification = _verification(settings)

    async def read(self) -> KeySet:
        try:
            async with asyncio.timeout(self._settings.fetch_timeout_s):
                document = await self._fetch()
            return read_key_set(document, self._settings.algorithms)
        except TimeoutError as error:
            limit = f"{self._settings.fetch_timeout_s:g} s"
            raise Unreadable(f"{self._url} did not answer in full within {limit}") from error
        except (httpx.HTTPError, httpx.InvalidURL, OSError, KeyUnfit) as error:
            raise Unreadable(
                f"{self._url} gave no keys: {str(error) or type(error).__name__}"
            ) from error

    async def _fetch(self) -> bytes:
        # A client for each reading: there is one a minute, and a name may have moved since the last.
        async with (
            httpx.AsyncClient(
                verify=self._verification,
                trust_env=False,
                follow_redirects=False,
                timeout=self._settings.fetch_timeout_s,
                headers={"Accept": ACCEPTED, "Accept-Encoding": "identity"},
            ) as client,
            client.stream("GET", self._url) as response,
        ):
            if response.status_code != HTTPStatus.OK:
                raise KeyUnfit(f"the answer was {response.status_code}")
            document = bytearray()
            async for piece in response.aiter_raw():
                document += piece
                if len(document) > MAX_DOCUMENT_BYTES:
                    raise KeyUnfit(f"the answer has more than {MAX_DOCUMENT_BYTES} bytes")
            return bytes(document)


def _verification(settings: IssuerSettings) -> ssl.SSLContext | bool:
    if not (settings.jwks_url or "").startswith("https:"):
        return False  # Nothing to verify, on loopback; reading authorities takes long.
    try:
        return ssl.create_default_context(cafile=settings.ca_file)
    except OSError as error:
        raise SettingInvalid(f"ca_file {settings.ca_file} cannot be used: {error}") from error


def _content(path: Path, *, private: bool) -> bytes:
    """Of an ordinary file, links followed: the operator named it, and mounted secrets are links."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        mode = os.fstat(file.fileno()).st_mode
        if not stat.S_ISREG(mode):
            raise KeyUnfit("it is not an ordinary file")
        if private and mode & OTHERS:
            raise KeyUnfit(f"it has mode {stat.S_IMODE(mode):04o}, so others can read it; use 0600")
        return file.read(MAX_DOCUMENT_BYTES + 1)
