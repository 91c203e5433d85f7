"""Train a map of query vectors alone, beside documents that stay as they are.

::

    documents.py  the documents' vectors: encoded once, or read from the table
    fit.py        the map and its loss
    run.py        one run: epochs, dev figures, the best of them
    trainer.py    train_query_adapter(), the verb
    under.py      the model under a query-only version
"""
