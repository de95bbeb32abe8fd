"""Where the registry lies, and how it is reached: what is refused before anything connects."""

from pathlib import Path

import psycopg
import pytest
from pydantic import ValidationError

from serving.errors import RegistryUnavailable, SettingInvalid
from serving.storage.blobs import open_bucket
from serving.storage.database import Database
from serving.storage_settings import BlobSettings, RegistrySettings
from tests.databases import Postgres


@pytest.mark.parametrize(
    "url",
    ["mysql://u@h/d", "postgresql://u@h", "sqlite:///x", "postgresql://u:secret@localhost/d"],
)
def test_a_url_is_postgresql_and_holds_no_password(url: str) -> None:
    """Another kind of database, or a secret in a setting, stops the start."""
    with pytest.raises(ValidationError):
        RegistrySettings(url=url)


@pytest.mark.parametrize("host", ["db.example.org", "10.0.0.1:5432", "localhost,db.example.org"])
def test_a_database_elsewhere_is_not_spoken_to_openly(host: str, tmp_path: Path) -> None:
    """How it is encrypted is said in the URL, be it that it is not."""
    with pytest.raises(SettingInvalid, match="sslmode"):
        Database.open(RegistrySettings(url=f"postgresql://u@{host}/d"), tmp_path)
    with pytest.raises(RegistryUnavailable):
        Database.open(
            RegistrySettings(
                url="postgresql://u@[::1]:1/d?sslmode=verify-full&sslrootcert=none", timeout_s=0.1
            ),
            tmp_path,
        )


def test_a_password_comes_from_a_file(postgres_server: Postgres, tmp_path: Path) -> None:
    """With it the database opens, with another it is not reachable."""
    settings = postgres_server.database()
    name = settings.url.partition("@/")[2].partition("?")[0]
    rules = postgres_server.cluster / "pg_hba.conf"
    before = rules.read_text()
    with psycopg.connect(postgres_server.url("postgres"), autocommit=True) as connection:
        connection.execute("DROP ROLE IF EXISTS registrar")
        connection.execute("CREATE ROLE registrar SUPERUSER LOGIN PASSWORD 'right'")
        rules.write_text(f"local {name} registrar scram-sha-256\n{before}")
        connection.execute("SELECT pg_reload_conf()")
        file = tmp_path / "password"
        asked = settings.model_copy(
            update={
                "url": settings.url.replace("postgres@", "registrar@"),
                "password_file": file,
            }
        )
        file.write_text("wrong\n")
        with pytest.raises(RegistryUnavailable):
            Database.open(asked, tmp_path)
        file.write_text("right\n")
        Database.open(asked, tmp_path).close()
        rules.write_text(before)
        connection.execute("SELECT pg_reload_conf()")


def test_an_object_store_elsewhere_is_not_spoken_to_openly(tmp_path: Path) -> None:
    """Plain HTTP off this machine has to be meant; on it, and over TLS, nothing needs to be said."""
    key = tmp_path / "key"
    key.write_text("k")
    elsewhere = BlobSettings(
        url="s3://b/p",
        endpoint="http://s3.example.org",
        access_key_file=key,
        secret_key_file=key,
    )

    with pytest.raises(SettingInvalid, match="plain_text"):
        open_bucket(elsewhere)
    for settings in (
        elsewhere.model_copy(update={"plain_text": True}),
        elsewhere.model_copy(update={"endpoint": "https://s3.example.org"}),
        elsewhere.model_copy(update={"endpoint": "http://127.0.0.1:1"}),
    ):
        assert open_bucket(settings, "artifacts") is not None


@pytest.mark.parametrize(
    "settings", [{"url": "http://x"}, {"url": "s3://"}, {"access_key_file": Path("x")}]
)
def test_a_store_that_is_none_is_refused(settings: dict[str, object]) -> None:
    """Half a credential, or another kind of URL."""
    with pytest.raises(ValidationError):
        BlobSettings.model_validate(settings)
