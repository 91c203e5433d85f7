"""``python -m lancedb_ft`` is ``lancedb-ft``."""

from lancedb_ft.cli import main

main()
