"""What a re-index will cost, and what it did cost."""
