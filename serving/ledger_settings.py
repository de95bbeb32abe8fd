"""Settings of the ledger: when segments of the prediction log become tables, how long what is kept."""

from typing import Annotated

from pydantic import Field

from serving.setting_types import Bytes, Count, Group, Seconds

Days = Annotated[float, Field(gt=0, le=36_500)]


class LedgerSettings(Group):
    """What the ledger process does with the prediction log. Where cold data lies: `blobs`."""

    compact: bool = True
    """Turn sealed segments into tables; off leaves that to `serving log compact`."""
    compact_every_s: Seconds = 30.0
    """How often sealed segments are looked for."""
    commit_bytes: Bytes = 256 * 1024 * 1024
    """Segments taken into one commit of the ledger, at most this many bytes (and at least one)."""
    merge_bytes: Bytes = 16 * 1024 * 1024
    """Table files of one version and day that are smaller are joined, eight of about one size at a
    time."""
    chunk_bytes: Bytes = 32 * 1024 * 1024
    """Of a segment decoded at once: what compaction needs in memory is a few times this."""
    row_group_rows: Count = 16_384
    """Rows that share statistics: a query reads at least this many of a model."""
    keep_days: dict[str, Days] = Field(default_factory=dict)
    """Model name to how long its records are kept, `*` for all others; whatever nobody says anything
    about, here or in its `model.yaml`, is kept for ever."""
    keep_segments_days: Days | None = None
    """How long a segment is kept once it is in the tables and shipped, or as long as the model in it
    that is kept shortest; None: only that counts. Segments are the signed evidence, tables are not."""
    retain_every_s: Seconds = 3600.0
    """How often it is looked for what has been kept long enough."""
    reader_grace_s: Seconds = 900.0
    """A table file or segment that is no longer listed is removed after this, so that who reads it
    can finish."""
    ship: bool = False
    """Copy sealed segments to `blobs`, below `segments/`."""
    ship_every_s: Seconds = 30.0
    """How often segments to ship are looked for; also the pause after a failure."""
    max_unshipped_bytes: Bytes = 16 * 1024 * 1024 * 1024
    """Sealed segments that wait to be shipped; above it the oldest are given up, and counted."""
    kafka_servers: str = ""
    """`HOST:PORT,…` of a Kafka cluster that gets every record as a CloudEvent; needs the extra
    `kafka`. Empty: none."""
    kafka_topic: str = "serving.predictions"
    """Where to."""
    kafka_options: dict[str, str] = Field(default_factory=dict)
    """Further options of librdkafka, such as `security.protocol`; name files, write no secrets."""
    kafka_every_s: Seconds = 1.0
    """How often new records are looked for."""
    label_every_s: Seconds = 300.0
    """How often predictions are joined with outcomes, for the metrics."""
    label_days: Days = 30.0
    """How far back the metrics about labels go."""
    source: str = "serving"
    """`source` of the CloudEvents: names this installation."""
    sql_memory_bytes: Annotated[int, Field(ge=64 * 1024 * 1024)] = 1024 * 1024 * 1024
    """What one `serving log sql` may use before it spills to its own temporary folder."""
    sql_threads: Annotated[int, Field(ge=1, le=256)] = 2
    """Threads of one `serving log sql`."""
