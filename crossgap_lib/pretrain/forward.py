"""The minis' forward passes in training: the features of open_clip and timm, less what no loss looks at.

The blocks are those of inversion (``inversion/towers.py``), here with weights that are trained. An image is pooled at
CLS, so the last block computes that position alone; captions are cropped to their length, which changes nothing under
a causal mask. A step of mini-clip takes three quarters of the time that open_clip's own modules take.
"""

import torch
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from crossgap_lib.inversion.towers import Block, Linear, block, read_block, read_norm, transformer

_CHUNKS = 4  # of a batch's captions, sorted by length


def image_features(net: nn.Module, images: Tensor) -> Tensor:
    """``net.encode_image``: (b, 3, h, w) -> (b, d)."""
    return pooled(net.visual, images) @ net.visual.proj


def pooled(visual: nn.Module, images: Tensor) -> Tensor:
    """The CLS output before the projection, of an open_clip image tower: (b, 3, h, w) -> (b, width).

    Smaller pictures than the tower's get its positions interpolated, as DINO's local crops do.
    """
    patches = visual.conv1(images)  # (b, width, rows, columns)
    cls = visual.class_embedding.expand(len(images), 1, -1)
    x = torch.cat([cls, patches.flatten(2).transpose(1, 2)], dim=1)
    x = visual.ln_pre(x + resample_abs_pos_embed(visual.positional_embedding[None], patches.shape[-2:]))
    return visual.ln_post(transformer(x, _blocks(visual), causal=False, pooled=0)[:, 0])


def timm_pooled(net: nn.Module, images: Tensor) -> Tensor:
    """The CLS output of a timm ViT, ``net(images)``: (b, 3, h, w) -> (b, width)."""
    x = net.norm_pre(net._pos_embed(net.patch_embed(images)))
    x, _, _ = block(net.blocks[:-1](x), _timm_block(net.blocks[-1]), only=0)
    return net.norm(x[:, 0])


def text_features(net: nn.Module, ids: Tensor) -> Tensor:
    """``net.encode_text`` of a causal text tower pooled at EOT, the highest id: (b, context) -> (b, d)."""
    eot = ids.argmax(dim=1)
    order = eot.argsort(stable=True)
    at_eot = torch.cat([_at_eot(net, ids[rows], eot[rows]) for rows in order.chunk(_CHUNKS)])
    return net.ln_final(at_eot[order.argsort()]) @ net.text_projection


def _at_eot(net: nn.Module, ids: Tensor, eot: Tensor) -> Tensor:
    """The last block's output at each caption's EOT, nothing after the last of them computed: (b, width)."""
    length = int(eot.max()) + 1
    x = net.token_embedding(ids[:, :length]) + net.positional_embedding[:length]
    x = transformer(x, _blocks(net), causal=True, pooled=None)
    return x[torch.arange(len(x), device=x.device), eot]


def _blocks(tower: nn.Module) -> list[Block]:
    return [read_block(module, torch.float32) for module in tower.transformer.resblocks]


def _timm_block(module: nn.Module) -> Block:
    """The weights of timm's plain ViT block."""
    attn, mlp, width = module.attn, module.mlp, module.attn.qkv.in_features
    return Block(
        heads=attn.num_heads,
        norm_1=read_norm(module.norm1),
        query=Linear(attn.qkv.weight[:width], attn.qkv.bias[:width]),
        keys_values=Linear(attn.qkv.weight[width:], attn.qkv.bias[width:]),
        out=Linear(attn.proj.weight, attn.proj.bias),
        scale_1=None,
        norm_2=read_norm(module.norm2),
        up=Linear(mlp.fc1.weight, mlp.fc1.bias),
        activation=mlp.act,
        down=Linear(mlp.fc2.weight, mlp.fc2.bias),
        scale_2=None,
    )
