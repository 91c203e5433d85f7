"""Writing to a table that changes all the time, and embedding what has become quiet.

::

    rows.py      what was passed, as Arrow rows of the table's own types
    write.py     write: upsert by id, embedded now or later
    settle.py    settle: embed what has been quiet long enough
"""

from lancedb_ft.churn.settle import SettleReport, settle, settle_watch
from lancedb_ft.churn.write import WriteReport, write

__all__ = ["SettleReport", "WriteReport", "settle", "settle_watch", "write"]
