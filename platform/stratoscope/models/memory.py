"""Memory of a process."""

import resource

import torch


def peak_memory_bytes() -> int:
    """Return the peak resident memory of this process on the host."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux reports kilobytes


def peak_gpu_memory_bytes() -> int:
    """Return the peak of torch's allocations by this process, summed over its GPUs; 0 without a GPU."""
    return sum(torch.cuda.max_memory_allocated(i) for i in range(torch.cuda.device_count()))


def limit_gpu_memory(share: float) -> None:
    """Limit this process to a share of its GPU's memory, so that too large a batch fails only in this process."""
    torch.cuda.set_per_process_memory_fraction(share)
