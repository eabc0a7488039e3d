"""A small real web for the demonstration and the tests."""
