"""A writer in a process of its own that does what it is told. Run: told_writer.py URI [plugin].

Reads one JSON list a line, ``[act, argument]``, and answers with the name of the error or null.
Plain LanceDB: with ``plugin`` it imports lancedb_ft first, which is all an application does.
"""

import json
import sys

import lancedb


def main():
    """Do what is told until there is nothing more."""
    if "plugin" in sys.argv:
        import lancedb_ft.encoder.cache

        # By chance of timing it could be bfloat16, and the checker compares numbers.
        lancedb_ft.encoder.cache.choose_precision = lambda *_: "float32"

    table = lancedb.connect(sys.argv[1]).open_table("docs")
    acts = {
        "add": lambda rows: table.add(rows),
        "upsert": lambda rows: (
            table.merge_insert("id")
            .when_matched_update_all()
            .when_not_matched_insert_all()
            .execute(rows)
        ),
        "update": lambda row: table.update(
            where=f"id = '{row['id']}'", values={"text": row["text"]}
        ),
        "delete": lambda key: table.delete(f"id = '{key}'"),
        "optimize": lambda _: table.optimize(),
    }
    for line in sys.stdin:
        act, argument = json.loads(line)
        try:
            table.checkout_latest()
            acts[act](argument)
            answer = None
        except Exception as error:
            answer = f"{type(error).__name__}: {error}"
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
