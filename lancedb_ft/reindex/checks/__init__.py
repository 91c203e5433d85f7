"""Whether vectors are complete, fresh and of one model."""
