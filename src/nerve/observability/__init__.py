"""Metrics, log lines, and the progress of long work."""

# Its lines are for people who wait; the command line prints them whatever else it leaves out.
PROGRESS_LOGGER = "nerve.progress"
