"""The vector index of the new column, and how much of exact search it finds."""
