"""From logits to what leaves the device: the best candidates and log-sum-exps, exactly ordered.

Knows tensors of logits; knows no model and no sequences. Shapes: R rows, V vocabulary, K the most
candidates that any row wants.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

Tensor = torch.Tensor

_BLOCK_SIZE = 64
"""Ids a block: with V = 262,144, the maxima of 4,096 blocks are ranked, and then 64 ids of each of
the best K blocks, instead of all."""

_GROUP_ROWS = 4
"""Rows read out together: their float32 logits and the scratch beside them stay in a cache."""


@dataclass(frozen=True, slots=True)
class RowReadouts:
    """Readouts of R rows; a row that wants fewer than K candidates takes its first ones."""

    logits: Tensor
    """float32 [R, V], softcapped: what all the rest is taken from."""
    candidate_ids: Tensor
    """int64 [R, K], by descending logit, ties by ascending id."""
    candidate_logits: Tensor
    """float32 [R, K]"""
    logsumexps: Tensor
    """float32 [R], at temperature 1."""
    scaled_logsumexps: Tensor
    """float32 [R], at each row's temperature."""


def read_out(
    raw: Tensor, softcap: float | None, num_candidates: int, temperatures: Tensor
) -> RowReadouts:
    """Reads out R rows, in float32 whatever the dtype of the raw logits.

    A row's readout does not depend on the other rows.

    Args:
        raw: [R, V], R at least 1, finite; logits before the softcap.
        softcap: c of `c · tanh(raw / c)`; None: there is none.
        num_candidates: K, at most V.
        temperatures: float32 [R], above 0.
    """
    logits = torch.empty(raw.shape, dtype=torch.float32, device=raw.device)
    ids: list[Tensor] = []
    logsumexps: list[Tensor] = []
    scaled: list[Tensor] = []
    for first in range(0, len(raw), _GROUP_ROWS):
        rows = slice(first, first + _GROUP_ROWS)
        group = logits[rows].copy_(raw[rows])
        if softcap is not None:
            group.div_(softcap).tanh_().mul_(softcap)
        maxima = _block_maxima(group)
        ids.append(_best_ids(group, maxima, num_candidates))
        at_one, at_temperature = _logsumexps(group, maxima, temperatures[rows])
        logsumexps.append(at_one)
        scaled.append(at_temperature)
    candidate_ids = torch.cat(ids)
    return RowReadouts(
        logits,
        candidate_ids,
        logits.gather(1, candidate_ids),
        torch.cat(logsumexps),
        torch.cat(scaled),
    )


def _logsumexps(logits: Tensor, maxima: Tensor, temperatures: Tensor) -> tuple[Tensor, Tensor]:
    """[R] at temperature 1, and [R] at each row's; the maximum is taken out against overflow."""
    row_maxima = maxima.amax(dim=1, keepdim=True)
    exponents = logits - row_maxima
    scaled = None
    if bool((temperatures != 1).any()):
        scaled = _row_sums((exponents / temperatures[:, None]).exp_()).log()
        scaled += row_maxima[:, 0] / temperatures
    at_one = _row_sums(exponents.exp_()).log().add_(row_maxima[:, 0])
    return at_one, at_one if scaled is None else scaled


def _row_sums(values: Tensor) -> Tensor:
    """[R] sums over [R, V]; by blocks first, because torch sums one long row by its threads."""
    whole = values.shape[1] // _BLOCK_SIZE * _BLOCK_SIZE
    blocks: Tensor = values[:, :whole].reshape(len(values), -1, _BLOCK_SIZE)
    return blocks.sum(dim=2).sum(dim=1) + values[:, whole:].sum(dim=1)


def _block_maxima(logits: Tensor) -> Tensor:
    """[R, V / block size], rounded up."""
    whole = logits.shape[1] // _BLOCK_SIZE * _BLOCK_SIZE
    blocks: Tensor = logits[:, :whole].reshape(len(logits), -1, _BLOCK_SIZE)
    maxima = blocks.amax(dim=2)
    if whole == logits.shape[1]:
        return maxima
    return torch.cat((maxima, logits[:, whole:].amax(dim=1, keepdim=True)), dim=1)


def _best_ids(logits: Tensor, maxima: Tensor, num_candidates: int) -> Tensor:
    """int64 [R, K]: the first K ids in the order (descending logit, ascending id).

    Only the K first blocks in the order (descending maximum, ascending index) can hold them: any id
    of another block has at least one id of each of those before it.
    """
    num_blocks = min(num_candidates, maxima.shape[1])
    blocks = _sort_keys(maxima, torch.arange(maxima.shape[1], device=logits.device))
    best_blocks = blocks.topk(num_blocks, dim=1).indices
    within = torch.arange(_BLOCK_SIZE, device=logits.device)
    ids = (best_blocks[:, :, None] * _BLOCK_SIZE + within).flatten(1)
    values = logits.gather(1, ids.clamp(max=logits.shape[1] - 1))
    # The last block may reach beyond the vocabulary.
    keys = _sort_keys(values, ids).masked_fill_(ids >= logits.shape[1], torch.iinfo(ids.dtype).min)
    return ids.gather(1, keys.topk(num_candidates, dim=1).indices)


def _sort_keys(values: Tensor, ids: Tensor) -> Tensor:
    """int64 keys, all different: they grow with values and, at equal values, fall with ids."""
    # Adding 0 makes -0 equal to 0; then the bits of a float, sign aside, order as integers do.
    bits = (values + 0.0).view(torch.int32)
    ordered = (bits ^ ((bits >> 31) & 0x7FFF_FFFF)).to(torch.int64)
    return (ordered << 32) | (0xFFFF_FFFF - ids)
