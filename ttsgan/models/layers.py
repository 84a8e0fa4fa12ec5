"""Transformer blocks shared by every network, and the cache that lets a causal one write token by token.

Axis letters: B series, N tokens, D width, H heads, E width of one head, M tokens remembered.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def rotary_angles(num_tokens: int, head_dim: int, device: torch.device, first: int = 0) -> tuple[Tensor, Tensor]:
    """Return cosines and sines (N, E/2) of rotary positions ``first`` to ``first + num_tokens`` (Su et al. 2021)."""
    speed = 10_000.0 ** (-torch.arange(0, head_dim, 2, device=device, dtype=torch.float32) / head_dim)
    angle = torch.arange(first, first + num_tokens, device=device, dtype=torch.float32)[:, None] * speed
    return angle.cos(), angle.sin()


def rotate(x_BHNE: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
    """Turn pairs of coordinates by the angle of their token, so that products depend on distance only."""
    cos, sin = (a.to(x_BHNE.dtype) for a in angles)
    even, odd = x_BHNE.chunk(2, dim=-1)
    return torch.cat([even * cos - odd * sin, even * sin + odd * cos], dim=-1)


class KeyValueCache:
    """Keys and values of the tokens written so far, for one block.

    Parameters
    ----------
    num_tokens : int
        Tokens N that will be written in all.
    """

    def __init__(self, num_tokens: int) -> None:
        self.num_tokens = num_tokens
        self.store: tuple[Tensor, Tensor] | None = None

    def append(self, position: int, key: Tensor, value: Tensor, memory: int) -> tuple[Tensor, Tensor]:
        """Keep the token at ``position`` and return the keys and values (B, H, M, E) of the last ``memory`` tokens."""
        if self.store is None:
            shape = (*key.shape[:2], self.num_tokens, key.shape[3])
            self.store = key.new_empty(shape), value.new_empty(shape)
        first = max(0, position + 1 - memory)
        for kept, new in zip(self.store, (key, value), strict=True):
            kept[:, :, position] = new[:, :, 0]
        return self.store[0][:, :, first : position + 1], self.store[1][:, :, first : position + 1]


class Block(nn.Module):
    """Pre-norm attention with rotary positions, then a two-layer perceptron.

    Parameters
    ----------
    width, heads : int
        Token width D and number of heads H, which divides it into an even width.
    dropout : float
        Share of each branch's output that is dropped in training.
    """

    def __init__(self, width: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention, self.norm_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width, bias=False)
        self.project = nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.dropout = nn.Dropout(dropout)

    def _heads(self, x_BND: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        batch, tokens, width = x_BND.shape
        qkv = self.query_key_value(self.norm_attention(x_BND))
        return qkv.view(batch, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4).unbind(0)

    def _finish(self, x_BND: Tensor, attended_BHNE: Tensor) -> Tensor:
        x_BND = x_BND + self.dropout(self.project(attended_BHNE.transpose(1, 2).flatten(2)))
        return x_BND + self.dropout(self.mlp(self.norm_mlp(x_BND)))

    def forward(self, x_BND: Tensor, mask_NN: Tensor | None = None) -> Tensor:
        """Return the tokens (B, N, D) after one block; ``mask_NN`` is true where a row may look at a column."""
        query, key, value = self._heads(x_BND)
        angles = rotary_angles(x_BND.shape[1], query.shape[-1], x_BND.device)
        attended = F.scaled_dot_product_attention(rotate(query, angles), rotate(key, angles), value, attn_mask=mask_NN)
        return self._finish(x_BND, attended)

    def step(self, x_B1D: Tensor, position: int, cache: KeyValueCache, memory: int) -> Tensor:
        """Return the next token (B, 1, D) of a causal block, as `forward` would under `causal_mask`."""
        query, key, value = self._heads(x_B1D)
        angles = rotary_angles(1, query.shape[-1], x_B1D.device, position)
        keys, values = cache.append(position, rotate(key, angles), value, memory)
        return self._finish(x_B1D, F.scaled_dot_product_attention(rotate(query, angles), keys, values))


def causal_mask(num_tokens: int, memory: int, device: torch.device) -> Tensor:
    """Return (N, N), true where a token sees itself or one of the ``memory`` - 1 tokens before it."""
    lag = torch.arange(num_tokens, device=device)[:, None] - torch.arange(num_tokens, device=device)[None, :]
    return (lag >= 0) & (lag < memory)
