"""Re-index."""
