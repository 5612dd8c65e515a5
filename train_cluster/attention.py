"""Causal attention over a packed row, sequence by sequence, without a [T, T] mask.

A dense block mask costs T² however short the sequences are. Here the sequences of a row are grouped by length into
buckets of at most a factor of two, each bucket is gathered into a right-padded batch, and ordinary causal attention
runs on it: what is padding lies after every real token, so no real token ever sees it, nor another sequence.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F  # noqa: N812
from transformers import AttentionInterface

NAME = "headrace_packed"
"""Under which transformers finds it (`attn_implementation`)."""

SMALLEST_BUCKET = 16
"""Tokens. Below it, padding is cheaper than one more call."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Segments:
    """Where the sequences of a packed row of T tokens lie, as gather indices."""

    buckets: tuple[torch.Tensor, ...]
    """Each [S, L]: positions in the row of S sequences, right-padded to the longest of them."""
    unpack: torch.Tensor
    """[T]: where each token of the row lies in the flattened, concatenated buckets."""


def find_segments(positions_T: torch.Tensor) -> Segments:
    """Segments of a row whose positions count from 0 in each sequence."""
    T = positions_T.numel()
    starts = (positions_T == 0).nonzero().flatten().tolist()
    lengths = [end - start for start, end in zip(starts, [*starts[1:], T], strict=True)]
    by_bucket: dict[int, list[int]] = {}
    for i, length in enumerate(lengths):
        by_bucket.setdefault((max(length, SMALLEST_BUCKET) - 1).bit_length(), []).append(i)
    buckets, unpack, offset = [], torch.empty(T, dtype=torch.long), 0
    for members in by_bucket.values():
        starts_S = torch.tensor([starts[i] for i in members])
        lengths_S = torch.tensor([lengths[i] for i in members])
        L = int(lengths_S.max())
        index_SL = starts_S[:, None] + torch.arange(L)
        real_SL = torch.arange(L) < lengths_S[:, None]
        unpack[index_SL[real_SL]] = offset + real_SL.flatten().nonzero().flatten()
        buckets.append(index_SL.clamp(max=T - 1).to(positions_T.device))
        offset += index_SL.numel()
    return Segments(buckets=tuple(buckets), unpack=unpack.to(positions_T.device))


def packed_attention(
    module: torch.nn.Module,
    query_1HTD: torch.Tensor,
    key_1KTD: torch.Tensor,
    value_1KTD: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    segments: Segments,
    dropout: float = 0.0,
    scaling: float | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention within each segment; the signature is that of transformers' AttentionInterface.

    H query heads, K key heads (H a multiple of K), D head width. Returns [1, T, H, D].
    """
    if attention_mask is not None:
        raise ValueError("packed attention takes no attention_mask: positions say where sequences begin")
    query_THD, key_TKD, value_TKD = (x[0].transpose(0, 1) for x in (query_1HTD, key_1KTD, value_1KTD))
    outputs: Sequence[torch.Tensor] = [
        F.scaled_dot_product_attention(
            query_THD[index_SL].transpose(1, 2),
            key_TKD[index_SL].transpose(1, 2),
            value_TKD[index_SL].transpose(1, 2),
            dropout_p=dropout,
            scale=scaling,
            is_causal=True,
            enable_gqa=query_1HTD.shape[1] != key_1KTD.shape[1],
        )
        .transpose(1, 2)
        .flatten(0, 1)
        for index_SL in segments.buckets
    ]
    return torch.cat(tuple(outputs)).index_select(0, segments.unpack)[None], None


AttentionInterface.register(NAME, packed_attention)
