"""Train a cross-encoder that puts the answers of a search in a better order.

::

    config.py   the arguments, validated
    data.py     queries, each with documents and their grades
    search.py   the first search: whose order is to be beaten
    dev.py      the candidates of dev queries, in the order of the first search
    losses.py   what may be trained with, by name
    fit.py      the loop: exact gradients in parts, checkpoints
    trainer.py  train_reranker(), the verb
"""
