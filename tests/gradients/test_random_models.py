"""Random models against the definition in long double: a short run of random_models.py."""

import random_models


def test_no_entry_is_off():
    found = [random_models.compared(seed) for seed in range(300)]
    bad = [f"{one.error:.1e} times the bound: {one.what}" for one in found if not one.error <= 1]
    assert not bad, "\n".join(bad)
    entries, left_out = sum(one.entries for one in found), sum(one.left_out for one in found)
    assert entries > 15000
    assert left_out < entries / 20


def test_curves_are_as_right_as_weights_one_by_one():
    for seed in range(300, 900):
        curves, one_by_one = random_models.compared(seed), random_models.compared(seed, interpolate=False)
        assert curves.error <= max(1, 1.01 * one_by_one.error), curves.what
