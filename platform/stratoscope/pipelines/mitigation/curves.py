"""Curves of a training as TensorBoard reads them, written while it goes on."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from stratoscope.results import Storage

FOLDER = "tensorboard"
SHOWN = ("learning_rate", "gradient_norm", "tokens_per_s", "peak_memory_bytes")


@contextmanager
def curves(storage: Storage, name: str) -> Iterator[Callable[[Mapping[str, float]], None]]:
    """Yield what takes the rows of steps; its files are in the run's folder, on an object store when the block ends.

    Args:
        storage: the run's folder.
        name: of the training.
    """
    local = storage.local_path(FOLDER, name)
    if local is not None:
        with _writing(str(local)) as write:
            yield write
        return
    with storage.child(FOLDER, name).writing_folder() as folder, _writing(str(folder)) as write:
        yield write


@contextmanager
def _writing(folder: str) -> Iterator[Callable[[Mapping[str, float]], None]]:
    from tensorboardX import SummaryWriter

    def write(row: Mapping[str, float]) -> None:
        for name, value in row.items():
            if name in SHOWN:
                writer.add_scalar(f"training/{name}", value, int(row["step"]))
            elif name not in ("step", "tokens"):
                writer.add_scalar(f"loss/{name}", value, int(row["step"]))
        writer.flush()

    writer = SummaryWriter(folder)
    try:
        yield write
    finally:
        writer.close()
