"""The processor and its instructions, as the kernel tells them."""

from pathlib import Path

import pytest

from nerve.runtime.machine import read_cards, read_processor

XEON = """processor\t: 0
model name\t: Intel(R) Xeon(R) Platinum 8488C
flags\t\t: fpu avx avx2 avx512f avx512_vnni avx512_bf16 amx_bf16 amx_tile amx_int8

processor\t: 1
model name\t: another
flags\t\t: fpu
"""
ALDER_LAKE = "model name\t: 12th Gen Intel(R) Core(TM)\nflags\t\t: fpu avx2 avx_vnni\n"
HASWELL = "model name\t: Intel(R) Core(TM) i7-4770\nflags\t\t: fpu avx2\n"
GRAVITON = "processor\t: 0\nFeatures\t: fp asimd asimddp i8mm bf16 sve\nCPU part\t: 0xd40\n"


@pytest.mark.parametrize(
    ("text", "architecture", "have"),
    [
        (XEON, "x86_64", {"AVX2", "AVX512", "VNNI", "bf16", "AMX"}),
        (ALDER_LAKE, "x86_64", {"AVX2", "VNNI"}),
        (HASWELL, "x86_64", {"AVX2"}),
        (GRAVITON, "aarch64", {"NEON", "dot product", "i8mm", "bf16", "SVE"}),
    ],
)
def test_instructions_that_matter(tmp_path: Path, text: str, architecture: str, have: set[str]) -> None:
    """Each is told apart from one that is not there; the first processor stands for all."""
    (tmp_path / "cpuinfo").write_text(text)
    found = read_processor(tmp_path / "cpuinfo", architecture)
    assert {name for name, is_there in found.instructions.items() if is_there} == have
    assert len(found.instructions) == 5
    assert found.name in (text.partition("model name\t: ")[2].splitlines() or [architecture])[0]


@pytest.mark.parametrize(("text", "architecture"), [("", "x86_64"), (None, "x86_64"), (HASWELL, "riscv64")])
def test_a_kernel_that_tells_nothing(tmp_path: Path, text: str | None, architecture: str) -> None:
    """No instruction is claimed to be there, or not to be."""
    if text is not None:
        (tmp_path / "cpuinfo").write_text(text)
    assert read_processor(tmp_path / "cpuinfo", architecture).instructions == {}


def test_cards_or_none() -> None:
    """Without a driver there is nothing; with one each card has a name and its memory."""
    version, cards = read_cards()
    assert version is not None or not cards
    assert all(card.name and card.memory > 0 for card in cards)
