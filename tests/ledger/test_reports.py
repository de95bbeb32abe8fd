"""Outcomes in files of every form."""

from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from serving.errors import OutcomeInvalid
from serving.ledger.reports import reports_in

ID = "0123456789abcdef-1f"


def test_a_cell_of_csv_is_what_it_reads_as(tmp_path: Path) -> None:
    """Numbers, booleans, texts, and nothing; what is not there is left out."""
    file = tmp_path / "labels.csv"
    file.write_text(
        "prediction_id,name,value,row,revision,observed_at\n"
        f"{ID},a,1,2,3,2026-01-31T12:00:00Z\n"
        f"{ID},a,-1.5e3,,,\n{ID},a,true,,,\n{ID},a,false,,,\n{ID},a,,,,\n{ID},a,late,,,\n"
        f'{ID},"a,b","x\ny",,,\n'
    )

    found = list(reports_in(file))

    assert found[0] == {
        "prediction_id": ID, "name": "a", "value": 1, "row": 2, "revision": 3,
        "observed_at": "2026-01-31T12:00:00Z",
    }  # fmt: skip
    assert [each["value"] for each in found] == [1, -1500.0, True, False, None, "late", "x\ny"]
    assert "row" not in found[1]


def test_parquet_keeps_its_types(tmp_path: Path) -> None:
    """Times without a zone are UTC; a null value takes a truth back."""
    file = tmp_path / "labels.parquet"
    table = pa.table(
        {
            "prediction_id": [ID, ID],
            "name": ["a", "a"],
            "value": [True, None],
            "observed_at": pa.array([datetime(2026, 1, 31, 12, tzinfo=UTC), None]),
            "comment": ["x", "y"],
        }
    )
    pq.write_table(table, file)

    assert list(reports_in(file)) == [
        {
            "prediction_id": ID, "name": "a", "value": True,
            "observed_at": "2026-01-31T12:00:00+00:00",
        },
        {"prediction_id": ID, "name": "a", "value": None},
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("labels.csv", b"id,value\n1,2\n"),
        ("labels.csv", f"prediction_id,name,value,row\n{ID},a,1,x\n".encode()),
        ("labels.jsonl", b"{"),
        ("labels.jsonl", b"[1]"),
        ("labels.parquet", b"not at all"),
        ("labels.xlsx", b""),
    ],
)
def test_what_cannot_be_read_is_said(tmp_path: Path, name: str, content: bytes) -> None:
    """A file of another form, or with other columns, is refused with its place."""
    file = tmp_path / name
    file.write_bytes(content)

    with pytest.raises(OutcomeInvalid, match="labels"):
        list(reports_in(file))
