"""The forward pass of Qwen3 (arXiv:2505.09388) over a preallocated cache of keys and values, in float32 on the CPU.

Two entries. `prefill` takes chunks of several rows packed end to end, so nothing is padded, and fills the cache only: the last layer's
attention is not needed, because a prefix's last id is always left to `decode`. `decode` feeds one id to each of the first R rows of
the cache and gives the next logits. Rows are addressed by position; what lies past a row's own length is never attended to.

Sizes: L layers, R rows, N packed tokens, T positions, H query heads, K key heads, G = H / K, D head size, d hidden, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from services.engine.weights import Layer, Qwen3Shape, Qwen3Weights


@dataclass(frozen=True)
class Chunk:
    """Ids that go to positions [start, start + S) of one row."""

    row: int
    start: int
    ids_S: np.ndarray


class KvCache:
    """Keys and values of `rows` × `context` positions. Pages are touched only when they are written."""

    def __init__(self, shape: Qwen3Shape, rows: int, context: int) -> None:
        size = (shape.layers, rows, shape.kv_heads, context, shape.head_dim)
        # numpy asks for zeroed pages lazily; zeros matter, because a masked NaN would still spoil a sum
        self.keys_LRKTD = torch.from_numpy(np.zeros(size, np.float32))
        self.values_LRKTD = torch.from_numpy(np.zeros(size, np.float32))

    def write(self, layer: int, rows_N: torch.Tensor, positions_N: torch.Tensor, keys_NKD: torch.Tensor, values_NKD: torch.Tensor) -> None:
        """Stores the keys and values of N tokens."""
        self.keys_LRKTD[layer][rows_N, :, positions_N] = keys_NKD
        self.values_LRKTD[layer][rows_N, :, positions_N] = values_NKD

    def copy(self, source: int, target: int, length: int) -> None:
        """Copies the first `length` positions of one row to another."""
        for store in (self.keys_LRKTD, self.values_LRKTD):
            store[:, target, :, :length] = store[:, source, :, :length]

    def swap(self, one: int, other: int, length: int) -> None:
        """Exchanges the first `length` positions of two rows."""
        for store in (self.keys_LRKTD, self.values_LRKTD):
            kept = store[:, one, :, :length].clone()
            store[:, one, :, :length] = store[:, other, :, :length]
            store[:, other, :, :length] = kept


class Qwen3:
    """One policy's forward pass. Holds weights and rotary tables, no state of any request."""

    def __init__(self, weights: Qwen3Weights, context: int) -> None:
        self.weights, self.shape = weights, weights.shape
        D = self.shape.head_dim
        inverse = 1.0 / (self.shape.rope_theta ** (torch.arange(0, D, 2).float() / D))
        angles_TD = (torch.arange(context).float()[:, None] * inverse).repeat(1, 2)
        self.cos_TD, self.sin_TD = angles_TD.cos(), angles_TD.sin()

    @torch.inference_mode()
    def prefill(self, cache: KvCache, chunks: Sequence[Chunk]) -> None:
        """Fills the cache with the keys and values of every chunk. Chunks are of different rows."""
        ids_N = torch.from_numpy(np.concatenate([chunk.ids_S for chunk in chunks]).astype(np.int64))
        rows_N = torch.from_numpy(np.concatenate([np.full(len(chunk.ids_S), chunk.row) for chunk in chunks]))
        positions_N = torch.from_numpy(np.concatenate([chunk.start + np.arange(len(chunk.ids_S)) for chunk in chunks]))
        hidden_Nd = self.weights.embedding_Vd[ids_N]
        for index, layer in enumerate(self.weights.layers):
            query_NHD, key_NKD, value_NKD = self._project(layer, hidden_Nd, positions_N)
            cache.write(index, rows_N, positions_N, key_NKD, value_NKD)
            if index == self.shape.layers - 1:
                return
            hidden_Nd = self._finish(layer, hidden_Nd, self._attend_chunks(cache, index, chunks, query_NHD))

    @torch.inference_mode()
    def decode(self, cache: KvCache, ids_R: torch.Tensor, positions_R: torch.Tensor) -> torch.Tensor:
        """Feeds `ids_R` at `positions_R` to rows 0 … R-1 and gives `logits_RV` of the next ids."""
        R, K, D = len(ids_R), self.shape.kv_heads, self.shape.head_dim
        rows_R, T = torch.arange(R), int(positions_R.max()) + 1
        future_R11T = (torch.arange(T) > positions_R[:, None])[:, None, None]
        hidden_Rd = self.weights.embedding_Vd[ids_R]
        for index, layer in enumerate(self.weights.layers):
            query_RHD, key_RKD, value_RKD = self._project(layer, hidden_Rd, positions_R)
            cache.write(index, rows_R, positions_R, key_RKD, value_RKD)
            keys_RKTD, values_RKTD = cache.keys_LRKTD[index, :R, :, :T], cache.values_LRKTD[index, :R, :, :T]
            scores_RKGT = torch.matmul(query_RHD.view(R, K, -1, D) * D**-0.5, keys_RKTD.transpose(-1, -2))
            scores_RKGT = scores_RKGT.masked_fill_(future_R11T, -torch.inf).softmax(-1)
            hidden_Rd = self._finish(layer, hidden_Rd, torch.matmul(scores_RKGT, values_RKTD).reshape(R, -1))
        return functional.linear(self._norm(hidden_Rd, self.weights.final_norm_d), self.weights.head_Vd)

    def _project(self, layer: Layer, hidden_Nd: torch.Tensor, positions_N: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Queries (N, H, D), keys and values (N, K, D) of N tokens, normalised and rotated."""
        H, K, D = self.shape.heads, self.shape.kv_heads, self.shape.head_dim
        qkv_NPD = functional.linear(self._norm(hidden_Nd, layer.attention_norm_d), layer.qkv_Pd).view(len(hidden_Nd), H + 2 * K, D)
        query_NHD, key_NKD, value_NKD = qkv_NPD.split([H, K, K], 1)
        cos_N1D, sin_N1D = self.cos_TD[positions_N][:, None], self.sin_TD[positions_N][:, None]
        query_NHD = _rotate(self._norm(query_NHD, layer.query_norm_D), cos_N1D, sin_N1D)
        return query_NHD, _rotate(self._norm(key_NKD, layer.key_norm_D), cos_N1D, sin_N1D), value_NKD

    def _attend_chunks(self, cache: KvCache, index: int, chunks: Sequence[Chunk], query_NHD: torch.Tensor) -> torch.Tensor:
        """Attention of every chunk over its own row, packed again: (N, H·D)."""
        K, D = self.shape.kv_heads, self.shape.head_dim
        G, outs, first = self.shape.heads // K, [], 0
        for chunk in chunks:
            S, stop = len(chunk.ids_S), chunk.start + len(chunk.ids_S)
            query_GKSD = query_NHD[first : first + S].view(S, K, G, D).permute(2, 1, 0, 3)
            keys_GKTD = cache.keys_LRKTD[index, chunk.row, :, :stop].expand(G, -1, -1, -1)
            values_GKTD = cache.values_LRKTD[index, chunk.row, :, :stop].expand(G, -1, -1, -1)
            past_ST = None if chunk.start == 0 else torch.ones(S, stop, dtype=torch.bool).tril(chunk.start)
            out_GKSD = functional.scaled_dot_product_attention(
                query_GKSD, keys_GKTD, values_GKTD, attn_mask=past_ST, is_causal=past_ST is None
            )
            outs.append(out_GKSD.permute(2, 1, 0, 3).reshape(S, -1))
            first += S
        return torch.cat(outs)

    def _finish(self, layer: Layer, hidden_Nd: torch.Tensor, attended_NA: torch.Tensor) -> torch.Tensor:
        """The rest of a layer: output projection, then the gated MLP, both residual."""
        hidden_Nd = hidden_Nd + functional.linear(attended_NA, layer.out_dA)
        gate_NF, up_NF = functional.linear(self._norm(hidden_Nd, layer.mlp_norm_d), layer.gate_up_Fd).chunk(2, -1)
        return hidden_Nd + functional.linear(functional.silu(gate_NF) * up_NF, layer.down_dF)

    def _norm(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return functional.rms_norm(x, weight.shape, weight, self.shape.norm_eps)


def _rotate(x_NHD: torch.Tensor, cos_N1D: torch.Tensor, sin_N1D: torch.Tensor) -> torch.Tensor:
    """Rotary positions in the half-split layout that Qwen3's checkpoints use (arXiv:2104.09864)."""
    first, second = x_NHD.chunk(2, -1)
    return x_NHD * cos_N1D + torch.cat([-second, first], -1) * sin_N1D
