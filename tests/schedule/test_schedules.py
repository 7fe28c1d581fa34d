"""Learning-rate schedules against their formulas."""

from __future__ import annotations

import pytest

from genlab.schedule.linear import Linear


def test_linear_schedule():
    falls = Linear(images=1000, batch=10, warmup=0, floor=0.0)
    assert [falls(i) for i in (0, 250, 1000, 1200)] == [1.0, 0.75, 0.0, 0.0]
    warm = Linear(images=1100, batch=10, warmup=100, floor=0.2)
    assert [warm(i) for i in (40, 90, 100, 600, 1100)] == pytest.approx([0.5, 1, 1, 0.6, 0.2])
    with pytest.raises(ValueError, match="warmup"):
        Linear(images=100, batch=10, warmup=100, floor=0.0)
