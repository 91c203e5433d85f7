"""Search for the arguments of a training by its dev figure.

::

    space.py   what is tried: SearchSpace
    study.py   the folder of a search, and what a kill leaves of it
    report.py  the table and the picture
    tune.py    tune(), the verb
"""
