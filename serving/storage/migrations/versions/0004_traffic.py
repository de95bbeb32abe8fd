"""Traffic: arms that answer a share, shares and budgets of shadows, warm versions."""

from typing import Final

import sqlalchemy as sa
from alembic import op

revision: Final = "0004"
down_revision: Final = "0003"

_TRAFFIC: Final = sa.table("traffic", sa.column("model", sa.String), sa.column("shadows", sa.JSON))


def upgrade() -> None:
    with op.batch_alter_table("traffic") as traffic:
        traffic.add_column(sa.Column("arms", sa.JSON, nullable=False, server_default="[]"))
        traffic.add_column(
            sa.Column("sticky", sa.String(16), nullable=False, server_default="request")
        )
        traffic.add_column(sa.Column("salt", sa.String(255), nullable=False, server_default=""))
        traffic.add_column(sa.Column("testers", sa.JSON, nullable=False, server_default="[]"))
        traffic.add_column(
            sa.Column("experiment", sa.String(255), nullable=False, server_default="")
        )
        traffic.add_column(sa.Column("warm", sa.JSON, nullable=False, server_default="[]"))
    connection = op.get_bind()
    for model, shadows in connection.execute(sa.select(_TRAFFIC)).all():
        copies = [{"version": version} for version in shadows]
        changed = sa.update(_TRAFFIC).where(_TRAFFIC.c.model == model).values(shadows=copies)
        connection.execute(changed)
