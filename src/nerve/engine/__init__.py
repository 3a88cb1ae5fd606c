"""The use case: texts in, rows out."""
