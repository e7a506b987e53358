"""Memory of a process."""

import resource

import torch


def peak_memory_bytes() -> int:
    """Return the peak memory of this process: resident memory on the host plus torch's allocations on its GPUs."""
    # Linux reports kilobytes.
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return host + sum(torch.cuda.max_memory_allocated(i) for i in range(torch.cuda.device_count()))


def limit_gpu_memory(share: float) -> None:
    """Limit this process to a share of its GPU's memory: a batch that is too large then fails here, and no other."""
    torch.cuda.set_per_process_memory_fraction(share)
