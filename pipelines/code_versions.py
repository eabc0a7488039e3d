"""Versions of the stages' results, for fingerprints, stored provenance and lineage.

Raised by hand when a stage comes to give other data for the same configuration and inputs: what is
stored is then made again.
"""

CANDIDATES = "4"
FETCH = "2"
CURATE = "5"
SCORES = "1"
REFERENCE_INDEX = "4"
DEDUPE = "4"
EMBEDDING_OVERLAP = "1"
TOKENIZER = "1"
TOKEN_GRIDS = "2"
PUBLISH = "4"
TAKEDOWN = "1"
