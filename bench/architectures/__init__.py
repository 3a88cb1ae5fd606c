"""Time and memory of the architectures that are built, in process."""
