"""Drawing a token from its logits."""

from __future__ import annotations

from torch import Tensor

from genlab.core.contract import Noise

__all__ = ["filter_logits", "sample_token"]

WHOLE = 2**32


def filter_logits(
    logits: Tensor, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None
) -> Tensor:
    """Logits [B, K] -> float32 [B, K] of the tokens that may be drawn, -inf for the others.

    Divided by the temperature; then the `top_k` likeliest stay, or more where several tie; then of
    those the fewest likeliest whose probabilities, among those that stayed, add up to `top_p`.

    temperature: > 0. top_k: >= 1. top_p: in (0, 1]. None leaves all. Raises ValueError for others.

    Reference: Fan et al. 2018, arXiv 1805.04833 (top k); Holtzman et al. 2020, arXiv 1904.09751,
    section 3.1 (top p).
    """
    if temperature <= 0 or (top_k is not None and top_k < 1):
        raise ValueError(
            f"a temperature is above 0 and top_k at least 1, not {temperature} and {top_k}"
        )
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p is a probability above 0, at most 1, and not {top_p}")
    logits = logits.float() / temperature
    if top_k is not None:
        least = logits.topk(min(top_k, logits.shape[1]), dim=1).values[:, -1:]
        logits = logits.masked_fill(logits < least, float("-inf"))
    if top_p is not None:
        p, order = logits.softmax(1).sort(dim=1, descending=True, stable=True)
        p, up_to = _added(p)
        spare = up_to - p >= top_p * up_to[:, -1:].double()  # what comes before is enough
        logits = logits.masked_fill(spare.scatter(1, order, spare), float("-inf"))
    return logits


def sample_token(logits: Tensor, noise: Noise) -> Tensor:
    """Logits [B, K] -> int64 [B], a draw from their softmax for each row.

    The first token up to which the probabilities add up to more than u, one uniform number a row.
    u has 24 bits, so what is less likely than that is drawn too seldom or too often, or never.
    """
    _, up_to = _added(logits.float().softmax(1))
    u = noise.uniform(1)
    return (up_to <= u.double() * up_to[:, -1:]).sum(1)


def _added(p: Tensor) -> tuple[Tensor, Tensor]:
    """p [B, K] in whole numbers of 2^-32, int64, and their sums up to each.

    Sums of floats depend on their order, and on CUDA that of cumsum is another every time.
    """
    p = (p.double() * WHOLE).round().long()
    return p, p.cumsum(1)
