"""Versions of the training programs' results, for fingerprints, models and lineage.

Raised by hand when a program comes to train another model of the same recipe and data.
"""

DVAE = "2"
DALLE = "5"
CONTRASTIVE = "1"
