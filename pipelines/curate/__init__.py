"""Curate: caption and image rules, each with its reason."""
