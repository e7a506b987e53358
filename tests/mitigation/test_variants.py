"""Variants: which layers are trained and dropped."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stratoscope.errors import InputError
from stratoscope.mitigation import (
    LayerFlag,
    Variant,
    fine_tuning_variants,
    parse_layers,
    random_layers,
    rank_flagged,
    recovery_variants,
    resized_layers,
)


def test_layers_are_numbers_or_all_or_the_name_of_a_run() -> None:
    assert parse_layers("[3, 1,3]", 4, "layers") == (1, 3)
    assert parse_layers("all", 3, "layers") == (0, 1, 2)
    assert parse_layers("some-run-3", 4, "layers") is None
    with pytest.raises(InputError, match="drop: there is no layer 4; the layers are 0 to 3"):
        parse_layers("4", 4, "drop")


def test_layers_that_most_data_sets_flag_come_first_then_those_of_the_highest_propensity() -> None:
    scores = {"a": [(0, 0.1), (1, 0.2), (1, 0.9), (0, 0.8)], "b": [(0, 0.1), (1, 0.1), (0, 0.9), (0, 0.8)]}
    flags = [LayerFlag(d, layer, bool(f), p) for d, own in scores.items() for layer, (f, p) in enumerate(own)]
    assert rank_flagged(flags, 4, 1) == (1,)
    assert rank_flagged(flags, 4, 3) == (1, 2, 3)
    assert rank_flagged(flags, 4, None) == (1, 2)
    repeated = [*flags, *(LayerFlag(f.dataset, f.layer, not f.flagged, 5.0) for f in flags)]
    assert rank_flagged(repeated, 4, None) == (1, 2)
    assert rank_flagged([LayerFlag("a", layer, False, 0.5) for layer in range(3)], 3, None) == ()


@given(st.integers(1, 20), st.data())
def test_random_layers_are_others_where_there_are_enough(num_layers: int, data: st.DataObject) -> None:
    flagged = tuple(sorted(data.draw(st.sets(st.integers(0, num_layers - 1), min_size=1))))
    seed = data.draw(st.integers(0, 5))
    layers = random_layers(num_layers, flagged, seed)
    assert len(set(layers)) == len(flagged)
    assert layers == random_layers(num_layers, flagged, seed)
    if 2 * len(flagged) <= num_layers:
        assert not set(layers) & set(flagged)


def test_fine_tuning_has_a_variant_for_each_name_and_seed() -> None:
    variants = fine_tuning_variants(["flagged", "random", "all"], (1, 2), 6, [0, 7])
    assert [v.key for v in variants] == ["flagged-0", "flagged-7", "random-0", "random-7", "all-0", "all-7"]
    assert variants[0].layers == variants[1].layers == (1, 2)
    assert not {1, 2} & {*variants[2].layers, *variants[3].layers}
    assert variants[4].layers == tuple(range(6))
    assert resized_layers(variants[0], {3: (1, 2, 4)}, 6, 3) == (1, 2, 4)
    assert len(resized_layers(variants[2], {3: (1, 2, 4)}, 6, 3)) == 3
    assert resized_layers(variants[2], {}, 6, None) == variants[2].layers


def test_recovery_trains_what_is_not_dropped() -> None:
    variants = recovery_variants({"avss": lambda seed: (seed, 3)}, None, 4, [0, 1])
    assert variants == [Variant("avss", 0, (1, 2), (0, 3)), Variant("avss", 1, (0, 2), (1, 3))]
    assert variants[0].pruned_key == "pruned-0-3"
    assert recovery_variants({"given": lambda _: (1,)}, (1, 2), 4, [0])[0].layers == (2,)
    with pytest.raises(InputError, match="all layers that were to be trained are among those that are dropped"):
        recovery_variants({"given": lambda _: (1, 2)}, (1, 2), 4, [0])
