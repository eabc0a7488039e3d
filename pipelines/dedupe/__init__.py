"""Dedupe: perceptual hashes, the reference index, and what copies it."""
