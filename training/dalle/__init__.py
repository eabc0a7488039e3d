"""Training of stage two: its update, its optimiser, its precision."""
