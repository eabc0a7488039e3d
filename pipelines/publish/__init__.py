"""Publish: immutable versions of the token dataset."""
