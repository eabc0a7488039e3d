"""Crawl: candidates from lists and pages, and their bytes."""
