"""The bench: `serving` compares servers, `robustness` tests ours under strain, `gpu` measures it on a graphics card.

Run a module from the repository root, for example `python -m bench.serving.run`.
"""
