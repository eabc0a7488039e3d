"""`make demo`: the whole graph on a small real web, launched the way users launch it."""
