"""The promoted model: which one it is, where it is kept, and what is asked of the next one."""
