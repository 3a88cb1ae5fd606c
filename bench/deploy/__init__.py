"""Measurements of what stands around the server: several of them, their number, their cost."""
