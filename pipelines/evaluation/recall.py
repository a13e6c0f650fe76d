"""Recall at k: whether what is looked for is among the best answers."""

from __future__ import annotations

import torch


def recall(similar: torch.Tensor, is_answer: torch.Tensor, k: int) -> float:
    """Return the share of queries that have an answer among their k most similar ones.

    Args:
        similar: Similarities ``[queries, answers]``.
        is_answer: Whether an answer is right, of the same shape.
        k: Answers that are looked at; all, where there are fewer.
    """
    best = similar.topk(min(k, similar.shape[1]), dim=1).indices
    return is_answer.gather(1, best).any(1).double().mean().item()
