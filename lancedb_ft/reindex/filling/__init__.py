"""Filling: the vector of every row's present text, fragment by fragment."""
