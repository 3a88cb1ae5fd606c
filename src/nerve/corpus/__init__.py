"""Corpora: rows in, the same rows with their entities, or without them, out. What `nerve predict` and `redact` run on.

    sources ─► readers ─► run ─► answers (this process, a server, a Ray cluster) ─► writers ─► output

A row is read once, answered once and written once, in order; nothing holds more than what is on its way. `output` cuts
a run into parts and keeps the manifest by which a run that was cut off goes on.
"""
