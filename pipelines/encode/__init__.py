"""Encode: BPE ids and dVAE token grids."""
