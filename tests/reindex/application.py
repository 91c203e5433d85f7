"""A plain LanceDB application: opens its handles once, and searches until it is told to stop.

Run: application.py URI FOLDER. Nothing of lancedb-ft is in its search path but the alias that the
table names. Each text it searches for is that of a row, so the right answer is that row at no
distance: whenever query and vectors are of different models, or a column is half filled, it is not.
"""

import asyncio
import json
import sys
import traceback
from datetime import timedelta
from pathlib import Path

import lancedb

import lancedb_ft  # noqa: F401


def nearest(hits, row, how):
    """The row itself, at no distance."""
    found = [(hit["id"], hit.get("_distance")) for hit in hits]
    if not hits or hits[0]["id"] != row["id"] or not hits[0]["_distance"] < 1e-2:
        raise AssertionError(f"{how}: wanted {row['id']} at no distance, found {found}")


def among(hits, row, how):
    """The row is found."""
    found = [hit["id"] for hit in hits]
    if row["id"] not in found:
        raise AssertionError(f"{how}: wanted {row['id']}, found {found}")


def search_sync(table, row):
    """Every kind of search there is, through the sync handle."""
    text, word = row["text"], row["text"].split()[-1]
    nearest(table.search(text).limit(1).to_list(), row, "sync, text")
    nearest(table.search(text, query_type="vector").limit(1).to_list(), row, "sync, vector")
    among(table.search(word, query_type="fts").limit(3).to_list(), row, "sync, fts")
    among(table.search(text, query_type="hybrid").limit(3).to_list(), row, "sync, hybrid")
    where = f"id = '{row['id']}'"
    nearest(table.search(text).where(where).limit(1).to_list(), row, "sync, filtered")


async def search_async(table, row):
    """The same through the asynchronous one."""
    text, word = row["text"], row["text"].split()[-1]
    for how, kind, k, right in (
        ("async, vector", "vector", 1, nearest),
        ("async, text", "auto", 3, among),
        ("async, fts", "fts", 3, among),
        ("async, hybrid", "hybrid", 3, among),
    ):
        query = await table.search(text if kind != "fts" else word, query_type=kind)
        right(await query.limit(k).to_list(), row, how)


async def main(uri, folder):
    """Search in turns, and count."""
    newest = timedelta(0)
    table = lancedb.connect(uri, read_consistency_interval=newest).open_table("docs")
    connection = await lancedb.connect_async(uri, read_consistency_interval=newest)
    async_table = await connection.open_table("docs")
    rows = table.search().limit(50).select(["id", "text"]).to_list()
    count = 0
    while not (folder / "stop").exists():
        row = rows[count % len(rows)]
        search_sync(table, row)
        await search_async(async_table, row)
        count += 1
        (folder / "count.new").write_text(str(count))
        (folder / "count.new").replace(folder / "count")


if __name__ == "__main__":
    place = Path(sys.argv[2])
    try:
        asyncio.run(main(sys.argv[1], place))
    except BaseException:
        (place / "error").write_text(json.dumps(traceback.format_exc()))
        raise
