import pytest
import torch

from charter.errors import RunError
from charter.learning.memory import memory_for


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED"),
    ],
)
def test_running_out_of_memory_is_an_error_with_a_remedy(error):
    with (
        pytest.raises(RunError, match=r"at step 3\. Lower `dpo") as caught,
        memory_for("step 3", stage="dpo"),
    ):
        raise error
    assert caught.value.__cause__ is error
    assert caught.value.exit_code == 5


def test_what_torch_says_where_memory_ends_is_understood():
    with pytest.raises(RunError, match="out of memory"), memory_for("step 3", stage="dpo"):
        torch.empty(10**15)


def test_other_errors_pass_as_they_are():
    with pytest.raises(RuntimeError, match="shapes do not fit"), memory_for("step 3", stage="dpo"):
        raise RuntimeError("shapes do not fit")
