"""SQL over hot and cold data together: `serving log sql`.

    predictions     what all models' predictions have in common, a row for each row of a prediction
    MODEL           one view for each model (`-` and other signs become `_`), with its inputs and
                    outputs as columns; a column whose type is not the same in all versions is
                    followed by `_v` and the version
    outcomes        truths as they were reported
    losses          declared losses

DuckDB runs in this process, over files that are listed when it starts, and can do nothing else: it reads
no other file and no network, loads no extension, keeps no secret, takes one SELECT at a time, has a
limit of memory and a scratch folder of its own, and its configuration is locked before a statement of
the caller's is looked at. Tables in a bucket are read through Arrow, so that it needs no access there
either.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Self

import duckdb
import pyarrow as pa
import pyarrow.dataset as pd
import pyarrow.parquet as pq

from serving.errors import LedgerUnavailable, QueryInvalid
from serving.ledger.hot import AllTables, Located
from serving.ledger.schemas import FACTS, LOSSES, OUTCOMES
from serving.ledger_settings import LedgerSettings

INTERNAL: Final = (
    "sealed_payload", "payload_flags", "payload_key", "definition_number", "definition",
)  # fmt: skip
"""Columns for readers of the ledger, not for queries."""
_ROWS: Final = 1000
_NOTHING: Final = "nothing"
_RESERVED: Final = frozenset({"predictions", "outcomes", "losses"})

Version = tuple[str, str]


class LedgerDatabase:
    """One connection. Use it as a context manager."""

    def __init__(self, tables: AllTables, *, scratch: Path, settings: LedgerSettings) -> None:
        """scratch: a private folder that its owner removes."""
        self._tables = tables
        self._scratch = scratch
        self._settings = settings
        self._connection: duckdb.DuckDBPyConnection
        self._sources = 0

    def __enter__(self) -> Self:
        """Raises LedgerUnavailable."""
        self._connection = duckdb.connect(
            ":memory:",
            config={
                "autoinstall_known_extensions": False,
                "autoload_known_extensions": False,
                "allow_community_extensions": False,
                "allow_persistent_secrets": False,
                "memory_limit": f"{self._settings.sql_memory_bytes // 2**20}MiB",
                "threads": self._settings.sql_threads,
                "temp_directory": str(self._scratch / "spilled"),
            },
        )
        try:
            self._lock_down()
            self._make_views()
            self._connection.execute("SET lock_configuration = true")
        except (duckdb.Error, pa.ArrowInvalid, OSError) as error:
            self._connection.close()
            raise LedgerUnavailable(f"the tables cannot be opened: {error}") from error
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    @property
    def connection(self) -> duckdb.DuckDBPyConnection:
        """For statements of the product's own, such as joins."""
        return self._connection

    @property
    def views(self) -> list[str]:
        """The names that a query can use."""
        found = self._connection.execute(
            "SELECT view_name FROM duckdb_views() WHERE NOT internal AND NOT temporary ORDER BY 1"
        )
        return [name for (name,) in found.fetchall()]

    def select(self, sql: str) -> tuple[list[str], Iterator[tuple[Any, ...]]]:
        """Column names and rows of one SELECT. Raises QueryInvalid, also while rows are taken."""
        try:
            statements = self._connection.extract_statements(sql)
        except duckdb.Error as error:
            raise QueryInvalid(str(error)) from error
        if [each.type for each in statements] != [duckdb.StatementType.SELECT]:
            raise QueryInvalid("write one SELECT, and nothing else: the ledger is read here")
        try:
            result = self._connection.execute(statements[0])
        except duckdb.Error as error:
            raise QueryInvalid(str(error)) from error
        names = [each[0] for each in result.description or ()]
        return names, _rows(result)

    def _lock_down(self) -> None:
        files = [each.place.path(each.file.name) for each in self._tables.tables]
        listed = ", ".join(_quoted(str(path)) for path in files if path is not None)
        for setting in (
            f"allowed_paths = [{listed}]",
            "enable_external_access = false",
            "python_enable_replacements = false",
        ):
            self._connection.execute(f"SET {setting}")

    # -- views -----------------------------------------------------------------------------------

    def _make_views(self) -> None:
        models: dict[str, dict[Version, list[Located]]] = {}
        for each in self._tables.of("predictions"):
            versions = models.setdefault(each.file.model, {})
            versions.setdefault((each.file.version, each.file.digest), []).append(each)
        everything = self._tables.of("predictions")
        columns = ", ".join(name for name in FACTS.names if name not in INTERNAL)
        select = f"SELECT {columns} FROM {self._source(everything)}"  # noqa: S608 -- our own names
        self._view("predictions", [select], FACTS)
        for dataset, schema in (("outcomes", OUTCOMES), ("losses", LOSSES)):
            source = self._source(self._tables.of(dataset))
            self._view(dataset, [f"SELECT * FROM {source}"], schema)  # noqa: S608 -- our own names
        for model, versions in sorted(models.items()):
            self._view(view_name(model), self._of_versions(versions), FACTS)

    def _view(self, name: str, selects: Sequence[str], schema: pa.Schema) -> None:
        usable = [each for each in selects if not each.endswith(_NOTHING)]
        if not usable:
            self._connection.register(f"empty_{name}", schema.empty_table())
            usable = [f"SELECT * EXCLUDE ({_present(schema)}) FROM empty_{name}"]  # noqa: S608
        body = " UNION ALL BY NAME ".join(usable).replace(" EXCLUDE ()", "")
        self._connection.execute(f'CREATE VIEW "{name}" AS {body}')

    def _of_versions(self, versions: dict[Version, list[Located]]) -> list[str]:
        """One SELECT for each version; columns of one name have one type, or other names."""
        kinds: dict[str, pa.DataType] = {}
        selects = []
        for (version, _), tables in sorted(versions.items()):
            renamed = []
            for field in _newest_schema(tables):
                known = kinds.setdefault(field.name, field.type)
                if not _agree(known, field.type):
                    other = f"{field.name}_v{re.sub(r'[^0-9A-Za-z_]', '_', version)}"
                    renamed.append(f'"{field.name}" AS "{other}"')
            rename = f" RENAME ({', '.join(renamed)})" if renamed else ""
            excluded = ", ".join(INTERNAL)
            selects.append(
                f"SELECT * EXCLUDE ({excluded}){rename} FROM {self._source(tables)}"  # noqa: S608
            )
        return selects

    def _source(self, tables: Sequence[Located]) -> str:
        """What stands behind FROM for these files."""
        files = [each.place.path(each.file.name) for each in tables]
        here = ", ".join(_quoted(str(path)) for path in files if path is not None)
        parts = []
        if here:
            parts.append(f"SELECT * FROM read_parquet([{here}], union_by_name = true)")  # noqa: S608 -- our own files
        remote = [each for each, path in zip(tables, files, strict=True) if path is None]
        if remote:
            parts.append(f"SELECT * FROM {self._registered(remote)}")  # noqa: S608 -- our own names
        return f"({' UNION ALL BY NAME '.join(parts)})" if parts else _NOTHING

    def _registered(self, tables: Sequence[Located]) -> str:
        """Objects in a bucket, as one source that takes columns and conditions."""
        form = pd.ParquetFileFormat()
        opened = [pa.PythonFile(each.place.open(each.file.name), "r") for each in tables]
        schema = pa.unify_schemas([pq.read_schema(file).remove_metadata() for file in opened])
        fragments = [form.make_fragment(file) for file in opened]
        self._sources += 1
        name = f"bucket_{self._sources}"
        self._connection.register(name, pd.FileSystemDataset(fragments, schema, form))
        return name


def view_name(model: str) -> str:
    """What a model's view is called."""
    name = re.sub(r"[^0-9A-Za-z_]", "_", model)
    return f"model_{name}" if name.lower() in _RESERVED else name


def _newest_schema(tables: Sequence[Located]) -> pa.Schema:
    newest = max(tables, key=lambda each: each.file.latest_ns)
    with newest.place.open(newest.file.name) as file:
        return pq.read_schema(file)


def _agree(one: pa.DataType, other: pa.DataType) -> bool:
    """Whether rows of both go into one column."""
    return one == other or (_is_number(one) and _is_number(other))


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def _present(schema: pa.Schema) -> str:
    return ", ".join(name for name in INTERNAL if name in schema.names)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _rows(result: duckdb.DuckDBPyConnection) -> Iterator[tuple[Any, ...]]:
    try:
        while rows := result.fetchmany(_ROWS):
            yield from rows
    except duckdb.Error as error:
        raise QueryInvalid(str(error)) from error
