"""CRC-32 against zlib's."""

import zlib

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from features.coding import string_buffers
from kernels.crc import crc32


@settings(deadline=None)  # the first call compiles the kernel
@given(st.lists(st.text(max_size=40), max_size=20))
def test_equals_zlib(texts: list[str]) -> None:
    out = np.empty(len(texts), np.uint32)
    crc32(*string_buffers(pa.array(texts, pa.string())), out)
    assert out.tolist() == [zlib.crc32(text.encode()) for text in texts]
