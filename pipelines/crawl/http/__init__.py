"""The crawl's requests: hardened, bounded and polite."""
