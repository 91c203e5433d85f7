"""Adapters to other frameworks, shipped as ``lancedb_ft.integrations``.

None yet: any framework that takes a LanceDB table takes a tuned one, because it is an ordinary
LanceDB table.
"""
