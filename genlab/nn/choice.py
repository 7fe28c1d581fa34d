"""Drawing a token from its logits."""

from __future__ import annotations

from torch import Tensor

from genlab.contract import Noise

__all__ = ["choose", "narrow"]


def narrow(
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
        spare = p.cumsum(1) - p >= top_p  # what comes before is enough
        logits = logits.masked_fill(spare.scatter(1, order, spare), float("-inf"))
    return logits


def choose(logits: Tensor, noise: Noise) -> Tensor:
    """Logits [B, K] -> int64 [B], a draw from their softmax for each row.

    The first of K clocks to ring, clock i after a time -ln(u_i) / p_i: i is first with
    probability p_i, and a token with p_i = 0 never is.
    """
    late = -noise.uniform(logits.shape[1]).log()
    return (logits.float() - late.log()).argmax(1)
