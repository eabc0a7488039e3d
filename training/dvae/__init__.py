"""Training of stage one: its pictures, its codebook, its report."""
