"""Adapters to other frameworks, shipped as ``lancedb_ft.integrations``.

Each is a module that imports its framework, so it is imported by its own name, and each has an
extra: ``pip install "lancedb-ft[langchain]"``, ``[llama-index]``, ``[haystack]``.

::

    from lancedb_ft.integrations.langchain import LancedbFtEmbeddings, LancedbFtRetriever
    from lancedb_ft.integrations.llama_index import LancedbFtEmbedding, LancedbFtRetriever
    from lancedb_ft.integrations.haystack import LancedbFtRetriever, LancedbFtTextEmbedder

A framework that takes a LanceDB table takes a tuned one without any of this: it is an ordinary
LanceDB table.
"""
