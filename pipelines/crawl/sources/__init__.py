"""Sources of candidates: URL lists, web pages and web archives."""
