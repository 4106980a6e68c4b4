"""The minis' forward passes in training: the features of open_clip and timm, less what no loss looks at.

Each tower is pooled at one position, so its last block computes that position's query alone; captions are cropped to
their length, which changes nothing under a causal mask. A step of mini-clip takes four fifths of the time.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_CHUNKS = 4  # of a batch's captions, sorted by length


def image_features(net: nn.Module, images: Tensor) -> Tensor:
    """``net.encode_image``: (b, 3, h, w) -> (b, d)."""
    return pooled(net.visual, images) @ net.visual.proj


def pooled(visual: nn.Module, images: Tensor) -> Tensor:
    """The CLS output before the projection, of an open_clip image tower: (b, 3, h, w) -> (b, width).

    Smaller pictures than the tower's get its positions interpolated, as DINO's local crops do.
    """
    patches = visual.conv1(images)  # (b, width, rows, columns)
    cls = visual.class_embedding.expand(len(images), 1, -1).to(patches.dtype)
    x = torch.cat([cls, patches.flatten(2).transpose(1, 2)], dim=1)
    x = visual.ln_pre(x + _positions(visual.positional_embedding, patches.shape[-2:]))
    *blocks, last = visual.transformer.resblocks
    for block in blocks:
        x = _whole_block(block, x)
    at_cls = torch.zeros(len(x), dtype=torch.long, device=x.device)
    return visual.ln_post(_last_of_open_clip(last, x, at_cls))


def timm_pooled(net: nn.Module, images: Tensor) -> Tensor:
    """The CLS output of a timm ViT, ``net(images)``: (b, 3, h, w) -> (b, width)."""
    x = net.norm_pre(net._pos_embed(net.patch_embed(images)))
    x, last = net.blocks[:-1](x), net.blocks[-1]
    qkv, normed = last.attn.qkv, last.norm1(x)
    attended = _attend(normed[:, 0], normed, qkv.weight, qkv.bias, last.attn.num_heads)
    x = x[:, 0] + last.attn.proj(attended)
    return net.norm(x + last.mlp(last.norm2(x)))


def text_features(net: nn.Module, ids: Tensor) -> Tensor:
    """``net.encode_text`` of a causal text tower pooled at EOT, the highest id: (b, context) -> (b, d)."""
    eot = ids.argmax(dim=1)
    order = eot.argsort(stable=True)
    features = [_cropped(net, ids[rows], eot[rows]) for rows in order.chunk(_CHUNKS)]
    return torch.cat(features)[order.argsort()]


def _cropped(net: nn.Module, ids: Tensor, eot: Tensor) -> Tensor:
    """Nothing after the last EOT is computed: (b, context), (b,) -> (b, d)"""
    length = int(eot.max()) + 1
    x = net.token_embedding(ids[:, :length]) + net.positional_embedding[:length]
    *blocks, last = net.transformer.resblocks
    for block in blocks:
        x = _whole_block(block, x, net.attn_mask[:length, :length])
    return net.ln_final(_last_of_open_clip(last, x, eot)) @ net.text_projection


def _whole_block(block: nn.Module, x: Tensor, mask: Tensor | None = None) -> Tensor:
    """The block, without the copies that ``nn.MultiheadAttention`` makes of its inputs: (b, L, width)"""
    attn = block.attn
    qkv = F.linear(block.ln_1(x), attn.in_proj_weight, attn.in_proj_bias).unflatten(-1, (3, attn.num_heads, -1))
    attended = F.scaled_dot_product_attention(*qkv.permute(2, 0, 3, 1, 4), attn_mask=mask)  # (b, heads, L, head width)
    x = x + attn.out_proj(attended.transpose(1, 2).flatten(2))
    return x + block.mlp(block.ln_2(x))


def _last_of_open_clip(block: nn.Module, x: Tensor, at: Tensor) -> Tensor:
    """The block's output at one position of each sample, which sees those up to it, or all where that is CLS:
    (b, L, width), (b,) -> (b, width)"""
    attn, normed, rows = block.attn, block.ln_1(x), torch.arange(len(x), device=x.device)
    seen = None
    if at.any():
        seen = torch.arange(x.shape[1], device=x.device) <= at[:, None]  # (b, L)
    attended = _attend(normed[rows, at], normed, attn.in_proj_weight, attn.in_proj_bias, attn.num_heads, seen)
    x = x[rows, at] + attn.out_proj(attended)
    return x + block.mlp(block.ln_2(x))


def _attend(query: Tensor, x: Tensor, weight: Tensor, bias: Tensor, heads: int, seen: Tensor | None = None) -> Tensor:
    """Attention of one query a sample, (b, width), to (b, L, width), where ``seen`` (b, L) allows: (b, width)"""
    width = query.shape[-1]
    q = F.linear(query, weight[:width], bias[:width]).unflatten(-1, (heads, 1, -1))  # (b, heads, 1, head width)
    kv = F.linear(x, weight[width:], bias[width:]).unflatten(-1, (2, heads, -1))  # (b, L, 2, heads, head width)
    k, v = kv.permute(2, 0, 3, 1, 4)
    mask = None if seen is None else seen[:, None, None]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).flatten(1)


def _positions(embedding: Tensor, grid: tuple[int, int]) -> Tensor:
    """(1 + side^2, width) -> (1 + rows * columns, width)"""
    side = math.isqrt(len(embedding) - 1)
    if tuple(grid) == (side, side):
        return embedding
    square = embedding[1:].T.unflatten(1, (side, side))[None]  # (1, width, side, side)
    smaller = F.interpolate(square, size=tuple(grid), mode="bicubic", antialias=True, align_corners=False)
    return torch.cat([embedding[:1], smaller[0].flatten(1).T])
