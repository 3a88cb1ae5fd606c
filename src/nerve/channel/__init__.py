"""Jobs and their scores between processes, through memory that both map: many fronts, one engine.

`segment` is the memory of one front and the engine, with a `ring` for each direction; `messages` says what is written;
`front` is a lane whose model runs elsewhere, `engine` the loop that runs it.
"""
