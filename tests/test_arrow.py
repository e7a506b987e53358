"""Bytes that Arrow reads are its own."""

import pyarrow as pa

from stratoscope.arrow import arrow_reader


def test_a_reader_holds_a_copy_that_arrow_allocated() -> None:
    content = bytes(range(256)) * 4096
    before = pa.total_allocated_bytes()
    reader = arrow_reader(content)
    assert pa.total_allocated_bytes() - before >= len(content)
    assert reader.read() == content
    reader.close()
    del reader
    assert pa.total_allocated_bytes() == before
