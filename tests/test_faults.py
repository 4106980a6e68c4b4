"""A part of what ``make faults`` does: the same moments each time, as far as the machine is as fast."""

import faults
import pytest


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kills"), [("embed", 2), ("invert", 6), ("pretrain", 3), ("figures", 2)])
def test_killed_at_random_moments_and_resumed_bit_for_bit(name, kills, tmp_path):
    assert faults.kill(name, kills, tmp_path).kills == kills
