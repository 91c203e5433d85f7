"""Training sets of every type: from tables and files, split, and as examples for a loss.

::

    roles.py, rows.py     which column is what; rows checked and counted
    tables.py             from and to LanceDB tables
    files.py, formats.py  from and to files; the formats by name
    flat.py, named.py, folders.py, json_stream.py   how each format is read and written
    columns.py            the columns of a file, those that come late included
    replacing.py          a file or folder in the place of another, at once or not at all
    kinds.py              one type as another
    split.py              parts that share no text
    labelled.py, examples.py   labels, entailments and grades as pairs and triplets
"""
