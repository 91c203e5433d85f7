"""Say what is wrong with training data before it costs a training.

::

    view.py      any data as texts by side
    figures.py   counts, lengths, balance
    problems.py  what texts alone show
    labels.py    what a model shows: wrong pairs, labels and scores
    audit.py     audit(), the verb
"""
