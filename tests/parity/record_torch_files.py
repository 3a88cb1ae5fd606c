"""Record what torch.save writes, for the tests that run without PyTorch.

usage: python tests/parity/record_torch_files.py
Writes tests/graph/data/torch_{zip,stream}.bin and torch_values.json. Needs torch, not nerve.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from pathlib import Path

import torch

DATA = Path(__file__).parents[1] / "graph" / "data"


def make() -> OrderedDict[str, torch.Tensor]:
    """Return a state dict with every way in which a tensor can lie in a file."""
    numbers = torch.arange(24, dtype=torch.float32) / 7
    table = numbers.view(4, 6)
    state = OrderedDict(
        float32=table,
        float64=table.double(),
        float16=table.half(),
        bfloat16=table.bfloat16(),
        transposed=table.t(),
        part=table[1:3, 2:5],
        every_second=numbers[1::2],
        repeated=torch.tensor([2.5]).expand(3, 4),
        scalar=torch.tensor(1.25),
        empty=torch.zeros(0, 3),
        parameter=torch.nn.Parameter(table + 1),
        tied=table,
        int64=torch.arange(5)[None],
        uint8=torch.tensor([1, 2], dtype=torch.uint8),
        bool=torch.tensor([True, False]),
        float8=torch.tensor([1.0]).to(torch.float8_e4m3fn),
    )
    state._metadata = OrderedDict({"": {"version": 1}, "layer": {"version": 2}})  # type: ignore[attr-defined]
    return state


def main() -> None:
    """Write the two forms, and the numbers."""
    DATA.mkdir(exist_ok=True)
    state = make()
    torch.save(state, DATA / "torch_zip.bin")
    torch.save(state, DATA / "torch_stream.bin", _use_new_zipfile_serialization=False)
    floats = {name: tensor.float().tolist() for name, tensor in state.items() if name not in ("float8",)}
    (DATA / "torch_values.json").write_text(json.dumps({"torch": torch.__version__, "values": floats}) + "\n")


if __name__ == "__main__":
    main()
