"""How much memory a process has held."""

import resource

import torch


def peak_memory_bytes() -> int:
    """Return the most memory this process has held: on the host, plus what torch held on its GPUs."""
    # Linux tells kilobytes.
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return host + sum(torch.cuda.max_memory_allocated(i) for i in range(torch.cuda.device_count()))
