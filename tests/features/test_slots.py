"""Slots of keys against a plain dictionary, whatever order they come in."""

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from features.slots import Slots

texts = st.text(max_size=4) | st.integers(0, 500).map(str) | st.just("long " * 1000)


@settings(deadline=None)  # the first call compiles the kernels
@given(st.lists(st.lists(texts, max_size=200), max_size=5), st.data())
def test_a_key_has_its_slot_through_growth_and_restart(
    batches: list[list[str]], data: st.DataObject
) -> None:
    slots, expected = Slots(), dict[str, int]()
    for keys in batches:
        for key in keys:
            expected.setdefault(key, len(expected))
        assert slots.of(pa.array(keys, pa.string())).tolist() == [expected[key] for key in keys]
        assert slots.keys == len(expected) <= slots.room
    kept = data.draw(st.lists(st.sampled_from(sorted(expected)), unique=True)) if expected else []
    slots.keep(np.array([expected[key] for key in kept], np.int64))
    again = Slots()
    again.unpack(slots.pack())
    for each in (slots, again):
        assert each.keys == len(kept)
        asked = [*kept, *(set(expected) - set(kept)), "never seen"]
        found = each.look_up(pa.array(asked, pa.string())).tolist()
        assert found == [*range(len(kept)), *[-1] * (len(asked) - len(kept))]
