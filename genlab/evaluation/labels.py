"""Which label each sample of an evaluation is drawn with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["in_proportion"]


def in_proportion(counts: Sequence[int], n: int) -> list[int]:
    """n labels, of which class k has the share that `counts` has of it: `counts[k]` in `sum`.

    Of the first m of them, whatever m, each class has its share of m rounded up or down, as by the
    method of the largest remainder, and label i does not depend on n; classes of equal counts
    come in turn. The next label is that of the class which is first to fall short by more than
    c = 1 - 1 / (2 K - 2), of those that do not exceed their share by more than c if they come now.
    In whole numbers, so that every machine and every rank finds the same.

    counts: at least one of them above 0.

    Reference: Tijdeman 1980, The chairman assignment problem, Discrete Mathematics 32, 323-330.
    """
    classes = np.flatnonzero(np.asarray(counts))
    share = np.asarray(counts, np.int64)[classes]
    total, k = share.sum(), len(classes)
    if k == 1:
        return [int(classes[0])] * n
    short = np.zeros(k, np.int64)  # of its share, each class, times total
    found = []
    for _ in range(n):
        short += share
        slack = (2 * k - 3) * total - (2 * k - 2) * short
        late = np.where((2 * k - 2) * short >= total, slack / share, np.inf)
        chosen = late.argmin()
        short[chosen] -= total
        found.append(int(classes[chosen]))
    return found
