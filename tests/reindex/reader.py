"""A plain LanceDB application that never stops searching. Run: reader.py URI FOLDER.

Every text it searches for is that of a row, so the right answer is that row at distance zero:
whenever query and vectors came from different models, or a column is half filled, it is not.
"""

import asyncio
import json
import sys
import traceback
from datetime import timedelta
from pathlib import Path

import lancedb

import lancedb_ft  # noqa: F401  (registers "ft-embed"; the application needs nothing else)


def check(hits, row, how):
    if not hits or hits[0]["id"] != row["id"]:
        raise AssertionError(f"{how}: wanted {row['id']}, found {[h['id'] for h in hits]}")
    if "_distance" in hits[0] and hits[0]["_distance"] > 1e-3:
        raise AssertionError(f"{how}: distance {hits[0]['_distance']}, another model's vectors")


async def main(uri, folder):
    sync = lancedb.connect(uri, read_consistency_interval=timedelta(0)).open_table("docs")
    connection = await lancedb.connect_async(uri, read_consistency_interval=timedelta(0))
    table = await connection.open_table("docs")
    rows = sync.search().where("id like '%7'").limit(20).select(["id", "text"]).to_list()
    count = 0
    while not (folder / "stop").exists():
        row = rows[count % len(rows)]
        check(sync.search(row["text"]).limit(1).to_list(), row, "sync")
        found = await (await table.search(row["text"], query_type="vector")).limit(1).to_list()
        check(found, row, "async")
        hybrid = sync.search(row["text"], query_type="hybrid").limit(3).to_list()
        if row["id"] not in [hit["id"] for hit in hybrid]:
            raise AssertionError(f"hybrid: {row['id']} not among {[h['id'] for h in hybrid]}")
        count += 1
        (folder / "count").write_text(str(count))


if __name__ == "__main__":
    place = Path(sys.argv[2])
    try:
        asyncio.run(main(sys.argv[1], place))
    except Exception:
        (place / "error").write_text(json.dumps(traceback.format_exc()))
        raise
