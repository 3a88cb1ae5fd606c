"""A model folder becomes a loaded, proven and warm model.

`loader` makes the `model`, within its `limits` and with what is known of its `vocabulary`. `agreement` refuses a
rounded graph that does not agree with float32, by `comparison` on `samples`; `export` makes model folders with PyTorch.
"""
