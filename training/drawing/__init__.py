"""Pictures drawn from captions, and shown."""
