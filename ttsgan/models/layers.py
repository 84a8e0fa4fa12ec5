"""Transformer blocks shared by all networks, and the key-value cache for autoregressive sampling.

Axis letters: B series, N tokens, D width, H heads, E width of one head, M tokens in the cache, V weeks, S tokens in a
week.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def rotary_turns(num_tokens: int, head_dim: int, device: torch.device, first: int = 0) -> Tensor:
    """Return rotary position embeddings (N, E/2) from position ``first``, as unit complex numbers (Su et al. 2021)."""
    speed = 10_000.0 ** (-torch.arange(0, head_dim, 2, device=device, dtype=torch.float32) / head_dim)
    angle = torch.arange(first, first + num_tokens, device=device, dtype=torch.float32)[:, None] * speed
    return torch.polar(torch.ones_like(angle), angle)


def rotate(x: Tensor, turns_NF: Tensor) -> Tensor:
    """Rotate pairs of neighbouring coordinates of ``x`` (..., N, 2F): dot products then depend on distance only.

    The result is in single precision at least.
    """
    pairs = x.to(torch.promote_types(x.dtype, torch.float32)).unflatten(-1, (-1, 2))
    return torch.view_as_real(torch.view_as_complex(pairs) * turns_NF).flatten(-2)


def attention(query: Tensor, key: Tensor, value: Tensor, mask_NN: Tensor | None = None) -> Tensor:
    """Return softmax attention (B, H, N, E); ``mask_NN`` is true where a row may attend to a column.

    On a CPU it is in the precision of its inputs, also where matrix products are in 16 bits: there the gradient of
    torch's fused attention takes two to five times as long in 16 bits as in 32.
    """
    with torch.autocast("cpu", enabled=False):
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask_NN)


def dropout(x: Tensor, probability: float, training: bool) -> Tensor:
    """Return `torch.nn.functional.dropout`; on a CPU in half its time, with 16 random bits for each value."""
    if not training or probability == 0 or x.device.type != "cpu":
        return F.dropout(x, probability, training)
    drawn = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
    kept = drawn[: x.numel()].view(x.shape) >= round(2**16 * probability) - 2**15
    return x * (kept.to(x.dtype) / (1 - probability))


class KeyValueCache:
    """Key-value cache of one block: a ring buffer of the last tokens. Order is irrelevant: keys carry their positions.

    Parameters
    ----------
    memory : int
        Size M of the cache, in tokens.
    """

    def __init__(self, memory: int) -> None:
        self.memory = memory
        self.store: tuple[Tensor, Tensor] | None = None

    def append(self, position: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Store the token at ``position`` in place of the oldest; return keys and values (B, H, up to M, E)."""
        if self.store is None:
            shape = (*key.shape[:2], self.memory, key.shape[3])
            self.store = key.new_empty(shape), value.new_empty(shape)
        for kept, new in zip(self.store, (key, value), strict=True):
            kept[:, :, position % self.memory] = new[:, :, 0]
        known = min(position + 1, self.memory)
        return self.store[0][:, :, :known], self.store[1][:, :, :known]


class Block(nn.Module):
    """Pre-norm transformer block: attention with rotary position embeddings, then a two-layer perceptron.

    Parameters
    ----------
    width, heads : int
        Token width D and number of heads H; D is a multiple of 2 H.
    dropout : float
        Dropout probability of the output of attention and of the perceptron.
    """

    def __init__(self, width: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.norm_attention, self.norm_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width, bias=False)
        self.project = nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def _heads(self, x_BND: Tensor, first: int = 0) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries and keys, rotated by their positions from ``first`` on, and values (B, H, N, E)."""
        tokens, width = x_BND.shape[1:]
        turns = rotary_turns(tokens, width // self.heads, x_BND.device, first).repeat(1, 2 * self.heads)
        # Values are rotated by zero: one product over whole rows costs half of two over the narrow rows of heads.
        turns = torch.cat([turns, torch.ones_like(turns[:, : width // 2])], dim=1)
        qkv = rotate(self.query_key_value(self.norm_attention(x_BND)), turns)
        return qkv.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)

    def _finish(self, x_BND: Tensor, attended_BHNE: Tensor) -> Tensor:
        attended_BND = self.project(attended_BHNE.transpose(1, 2).flatten(2))
        x_BND = x_BND + dropout(attended_BND, self.dropout, self.training)
        return x_BND + dropout(self.mlp(self.norm_mlp(x_BND)), self.dropout, self.training)

    def forward(self, x_BND: Tensor, mask_NN: Tensor | None = None) -> Tensor:
        """Return the tokens (B, N, D) after the block; ``mask_NN`` is true where a row may attend to a column."""
        query, key, value = self._heads(x_BND)
        return self._finish(x_BND, attention(query, key, value, mask_NN))

    def step(self, x_B1D: Tensor, position: int, cache: KeyValueCache) -> Tensor:
        """Return the output (B, 1, D) for the next token, as `forward` would under `causal_mask`."""
        query, key, value = self._heads(x_B1D, position)
        keys, values = cache.append(position, key, value)
        # With one query per series, the fused attention takes twice as long on a CPU.
        weight_BH1M = (query @ keys.mT * query.shape[-1] ** -0.5).softmax(-1)
        return self._finish(x_B1D, weight_BH1M @ values)


def by_week(x_BND: Tensor, week: int) -> Tensor:
    """Return tokens by week (B, V, S, D), or all in one if there are fewer; the last week is padded with zeros."""
    week = min(week, x_BND.shape[1])
    return F.pad(x_BND, (0, 0, 0, -x_BND.shape[1] % week)).unflatten(1, (-1, week))


def within_weeks(blocks: Iterable[nn.Module], x_BND: Tensor, week: int) -> Tensor:
    """Apply blocks to the tokens of each week (of ``week`` tokens) by themselves; return them by week (B, V, S, D)."""
    weeks_BVSD = by_week(x_BND, week)
    tokens = weeks_BVSD.flatten(0, 1)
    for block in blocks:
        tokens = block(tokens)
    return tokens.view_as(weeks_BVSD)


def causal_mask(num_tokens: int, memory: int, device: torch.device) -> Tensor:
    """Return a mask (N, N), true where a token attends to itself or one of the ``memory`` - 1 tokens before it."""
    lag = torch.arange(num_tokens, device=device)[:, None] - torch.arange(num_tokens, device=device)[None, :]
    return (lag >= 0) & (lag < memory)
