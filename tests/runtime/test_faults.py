import pytest

from nerve.runtime.faults import is_out_of_memory, is_sticky

# What onnxruntime 1.31 prints (core/providers/cuda/cuda_call.cc, core/framework/bfc_arena.cc): its binary has
# "%s failure %d: %s ; GPU=%d ; hostname=%s ; file=%s ; line=%d ; expr=%s; %s".
ILLEGAL = "CUDA failure 700: an illegal memory access was encountered ; GPU=0 ; hostname=x ; expr=cudaGetLastError()"
NO_ROOM = (
    "bfc_arena.cc:376 AllocateRawInternal Failed to allocate memory for requested buffer of size 4294967296"
)
CUDA_NO_ROOM = "CUDA failure 2: out of memory ; GPU=0 ; hostname=x ; expr=cudaMalloc((void**)&p, size)"


@pytest.mark.parametrize(
    "text",
    [
        ILLEGAL,
        "CUDA error cudaErrorIllegalAddress:an illegal memory access was encountered",
        "CUDA failure 719: unspecified launch failure ; GPU=0",
        "CUDA failure 214: uncorrectable ECC error encountered ; GPU=0",
        "CUDA failure 810: the MPS client has been terminated ; GPU=0 ; hostname=x ; file=y.cc ; line=1 ; expr=z; ",
        "CUDA failure 999: unknown error ; GPU=0",
        "CUBLAS failure 13: CUBLAS_STATUS_EXECUTION_FAILED ; GPU=0",
    ],
)
def test_sticky_errors_are_known(text: str) -> None:
    """After these the context is lost: the process must end."""
    assert is_sticky(RuntimeError(text))
    assert not is_out_of_memory(RuntimeError(text))


@pytest.mark.parametrize("text", [NO_ROOM, CUDA_NO_ROOM, "CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED"])
def test_lack_of_memory_is_known_and_not_sticky(text: str) -> None:
    """A smaller step may work, and the next one will."""
    assert is_out_of_memory(RuntimeError(text))
    assert not is_sticky(RuntimeError(text))


@pytest.mark.parametrize(
    "text",
    [
        "indices element out of data bounds, idx=10002 must be within the inclusive range [-14,13]",
        "CUDA failure 9: invalid configuration argument ; GPU=0",
        "Got invalid dimensions for input: input_ids",
    ],
)
def test_other_errors_are_neither(text: str) -> None:
    """A bad request or a defect fails its batch, and no more."""
    assert not is_sticky(RuntimeError(text))
    assert not is_out_of_memory(RuntimeError(text))
