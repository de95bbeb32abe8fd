"""Metric families of the ledger process: its jobs, its tables, and the sinks that it feeds."""

from typing import Final

from serving.telemetry.metrics import Definition

LEDGER_RUNS = Definition(
    "serving_ledger_job_runs_total", "Runs of a job of the ledger process.", ("job", "result")
)
LEDGER_SECONDS = Definition(
    "serving_ledger_job_seconds", "How long the last run of a job took.", ("job",)
)
LEDGER_SUCCEEDED = Definition(
    "serving_ledger_job_success_timestamp_seconds",
    "When a job last ended well, in seconds since 1970; 0 for never.",
    ("job",),
)
LEDGER_WAITING = Definition(
    "serving_ledger_waiting_segments", "Sealed segments that are not in tables yet."
)
LEDGER_DAMAGED = Definition(
    "serving_ledger_damaged_segments", "Segments that stay out of the tables: damaged."
)
LEDGER_RECORDS = Definition(
    "serving_ledger_compacted_records_total", "Records that were moved into tables."
)
LEDGER_FILES = Definition("serving_ledger_files", "Table files that count.")
LEDGER_BYTES = Definition("serving_ledger_cold_bytes", "Size of the table files that count.")
LEDGER_DELETED = Definition(
    "serving_ledger_deleted_total", "What retention has deleted.", ("what",)
)
SINK_LAG_RECORDS = Definition(
    "serving_sink_lag_records", "Records that a sink has not taken yet.", ("sink",)
)
SINK_LAG_BYTES = Definition(
    "serving_sink_lag_bytes", "Bytes of the log that a sink has not taken yet.", ("sink",)
)
SINK_LAG_SECONDS = Definition(
    "serving_sink_lag_seconds",
    "Since the oldest record that a sink has not taken arrived.",
    ("sink",),
)
SINK_GIVEN_UP = Definition(
    "serving_sink_given_up_segments", "Segments that were never shipped: too many waited."
)

LEDGER_FAMILIES: Final = (
    LEDGER_RUNS, LEDGER_SECONDS, LEDGER_SUCCEEDED, LEDGER_WAITING, LEDGER_DAMAGED, LEDGER_RECORDS,
    LEDGER_FILES, LEDGER_BYTES, LEDGER_DELETED, SINK_LAG_RECORDS, SINK_LAG_BYTES, SINK_LAG_SECONDS,
    SINK_GIVEN_UP,
)  # fmt: skip
