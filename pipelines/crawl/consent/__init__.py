"""Who must not be collected: robots.txt, headers, meta tags, and the operator's own list."""
