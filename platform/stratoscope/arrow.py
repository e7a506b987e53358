"""Bytes as a file that Arrow reads."""

import pyarrow as pa


def arrow_reader(content: bytes) -> pa.BufferReader:
    """Return a reader of a copy of bytes that Arrow owns.

    A thread of Arrow may hold the last reference to what it reads until after Python has ended. If Python owned the
    bytes, releasing them would abort the process.
    """
    buffer = pa.allocate_buffer(len(content))
    pa.FixedSizeBufferWriter(buffer).write(content)
    return pa.BufferReader(buffer)
