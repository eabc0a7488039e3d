from hypothesis import settings

# Tests share their cores with child processes and engines; time says nothing about correctness.
settings.register_profile("no_deadline", deadline=None)
settings.load_profile("no_deadline")
