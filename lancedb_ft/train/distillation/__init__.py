"""Teach a smaller or faster student the vectors of a teacher.

::

    config.py    the arguments, validated
    texts.py     what is embedded: both sides of the data, without what dev asks
    students.py  what a student is: static, layers, or any model
    static.py    a table of token vectors
    layers.py    a network with fewer layers, or another one
    figures.py   what the student keeps, and how fast it is
    distill.py   distill(), the verb
"""
