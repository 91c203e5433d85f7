"""The gate: what new vectors must reach before they are shown."""
