"""Rows whose vectors no longer belong to their texts, found and mended."""
