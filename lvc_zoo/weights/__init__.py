"""The small default weights that travel inside the wheel."""
