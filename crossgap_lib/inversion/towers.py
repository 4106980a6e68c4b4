"""One face over the encoders' insides: embeddings in, shared-space features out.

Modality inversion feeds a frozen encoder with vectors that no tokenizer or camera made, so it enters the tower
after the token embedding (OTI) or the patch embedding (OVI). A tower is chosen by its structure, never by a
model's name, and skips exactly what can't change the result:

* causal text towers pooled at EOT (CLIP): nothing after EOT is computed, and the keys and values of the constant
  prefix "SOT a photo of" are computed once;
* bidirectional text towers (SigLIP): every position counts, so the whole context is kept;
* wherever a single position is pooled, the last block computes that position's query alone.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crossgap_lib.errors import CrossgapError
from crossgap_lib.inversion.frozen_linear import FrozenLinear, prefers_own_kernels
from crossgap_lib.inversion.prefix_attention import prefix_attention

Encode = Callable[[Tensor], Tensor]  # (b, n_pseudo, width) -> (b, d)
KeyValue = tuple[Tensor, Tensor]  # each (b, heads, L, head_width)


class Block:
    """A pre-norm residual block of open_clip: x + ls_1(attn(ln_1 x)), then x + ls_2(mlp(ln_2 x))."""

    def __init__(self, module: nn.Module):
        if not isinstance(getattr(module, "attn", None), nn.MultiheadAttention) or hasattr(module, "ln_1_kv"):
            raise CrossgapError(f"Inversion can't enter blocks of type {type(module).__name__}: not a plain ViT.")
        self.module, self.attn = module, module.attn
        self.linear: dict[tuple[int, int], FrozenLinear] = {}  # of q, k, v: from, to
        self.out_proj = FrozenLinear(self.attn.out_proj.weight, self.attn.out_proj.bias)
        self.mlp = [FrozenLinear(m.weight, m.bias) if type(m) is nn.Linear else m for m in module.mlp]

    def project(self, normed: Tensor, first: int, last: int) -> Tensor:
        """Of [q, k, v] those from ``first`` to ``last``: (b, L, width) -> (b, L, parts, heads, head_width)."""
        width, heads = self.attn.embed_dim, self.attn.num_heads
        if (first, last) not in self.linear:
            rows, weight, bias = slice(first * width, last * width), self.attn.in_proj_weight, self.attn.in_proj_bias
            self.linear[first, last] = FrozenLinear(weight[rows], None if bias is None else bias[rows])
        return self.linear[first, last](normed).unflatten(-1, (last - first, heads, width // heads))

    def __call__(
        self, x: Tensor, *, past: KeyValue | None = None, mask: Tensor | None = None, only: int | None = None
    ) -> tuple[Tensor, KeyValue | None]:
        """(b, L, width) -> the block's output and, for a prefix, its keys and values.

        ``past`` is a constant prefix's keys and values, which go before this block's own: attention is causal then.
        With ``only``, the one position whose output is wanted is computed: (b, 1, width).
        """
        normed, own = self.module.ln_1(x), None
        if past is not None and only is None and prefers_own_kernels(x):
            qkv = self.project(normed, 0, 3)
            attended = prefix_attention(qkv, *(part[0] for part in past))  # (b, L, heads, dh)
        else:
            if only is None:
                q, *own = (part.transpose(1, 2) for part in self.project(normed, 0, 3).unbind(2))
            else:
                own = [part.transpose(1, 2) for part in self.project(normed, 1, 3).unbind(2)]
                rows = slice(only, None if only == -1 else only + 1)
                x, normed = x[:, rows], normed[:, rows]
                q = self.project(normed, 0, 1)[:, :, 0].transpose(1, 2)  # (b, heads, 1, dh)
            k, v = own
            if past is not None:
                k, v = (torch.cat([p.expand(len(x), -1, -1, -1), o], dim=2) for p, o in zip(past, own, strict=True))
            attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2)
        x = self._residual(self.out_proj, attended.flatten(2), x, self.module.ls_1)
        inner = self.module.ln_2(x)
        for layer in self.mlp[:-1]:
            inner = layer(inner)
        return self._residual(self.mlp[-1], inner, x, self.module.ls_2), own and tuple(own)

    @staticmethod
    def _residual(last: Callable, inner: Tensor, x: Tensor, scale: nn.Module) -> Tensor:
        """x + scale(last(inner))"""
        fused = isinstance(last, FrozenLinear) and isinstance(scale, nn.Identity)
        return last(inner, add=x) if fused else x + scale(last(inner))


def _run(blocks: list[Block], x: Tensor, pooled: int | None, pasts: list | None = None, mask=None) -> Tensor:
    """All blocks over (b, L, width); with ``pooled``, only that position leaves: (b, 1, width)."""
    pasts = pasts or [None] * len(blocks)
    for block, past in zip(blocks[:-1], pasts[:-1], strict=True):
        x, _ = block(x, past=past, mask=mask)
    if pooled is not None and mask is not None:
        mask = mask[pooled : pooled + 1] if pooled != -1 else mask[-1:]
    return blocks[-1](x, past=pasts[-1], mask=mask, only=pooled)[0]


def _project(features: Tensor, projection: nn.Module | Tensor | None) -> Tensor:
    if projection is None:
        return features
    return projection(features) if isinstance(projection, nn.Module) else features @ projection


# ---------------------------------------------------------------- text


class TextTower:
    """open_clip's text encoder (CLIP's own or ``TextTransformer``), entered after the token embedding."""

    def __init__(self, net: nn.Module):
        tower = getattr(net, "text", net)
        needed = ("token_embedding", "positional_embedding", "transformer", "ln_final", "text_projection")
        if not all(hasattr(tower, name) for name in needed):
            raise CrossgapError(
                f"OTI needs a transformer text encoder, and {type(tower).__name__} is not one it knows."
            )
        if getattr(tower, "cls_emb", None) is not None or getattr(tower, "use_pad_mask", False):
            raise CrossgapError("OTI does not cover text encoders with an appended class token or a padding mask.")
        self.tower = tower
        self.blocks = [Block(b) for b in tower.transformer.resblocks]
        self.width = tower.token_embedding.embedding_dim
        self.context_length = tower.positional_embedding.shape[0]
        self.causal = _is_causal(tower.attn_mask)
        self.pool_type = getattr(tower, "pool_type", None) or tower.text_pool_type
        self.eos_id = getattr(tower, "eos_id", None) or getattr(tower, "text_eos_id", None)

    def _pooled_position(self, ids: Tensor) -> int:
        """Where (L,) ids are pooled; pseudo-tokens stand there as id -1."""
        if self.pool_type in ("first", "last"):
            return 0 if self.pool_type == "first" else len(ids) - 1
        found = ids.argmax() if self.pool_type == "argmax" else (ids == self.eos_id).int().argmax()
        return int(found)

    def _filled(self, ids: Tensor) -> int:
        """How many of (L,) ids are no padding: up to EOT, or up to the first of equal ids at the end."""
        if self.pool_type not in ("first", "last"):
            return self._pooled_position(ids) + 1
        others = (ids != ids[-1]).nonzero()
        return int(others[-1]) + 2 if len(others) else 1

    def encoder(self, template: tuple[Tensor, Tensor], n_tokens: int) -> Encode:
        """The map from pseudo-tokens (b, n_tokens, width) to features (b, d), the rest of the prompt being constant.

        ``template`` holds the token ids before and after the pseudo-tokens, padding included.

        Raises:
            CrossgapError: the prompt does not fit into the context.
        """
        before, after = (part.to(self.tower.positional_embedding.device) for part in template)
        slots = torch.full((n_tokens,), -1, device=before.device)
        ids = torch.cat([before, slots, after])
        if (needed := self._filled(ids)) > self.context_length:
            room = max(0, self.context_length - needed + n_tokens)
            raise CrossgapError(f"{n_tokens} pseudo-tokens don't fit: beside the template there is room for {room}.")
        ids = ids[: self.context_length]  # the padding gives way
        pooled = self._pooled_position(ids)
        if self.causal:  # positions after the pooled one change nothing
            ids = ids[: pooled + 1]
        constants = self.tower.token_embedding(ids.clamp_min(0)) + self.tower.positional_embedding[: len(ids)]
        return (
            self._causal_encoder(constants, len(before), n_tokens)
            if self.causal
            else (self._full_encoder(constants, len(before), n_tokens, pooled))
        )

    def _suffix(self, tokens: Tensor, constants: Tensor, start: int) -> Tensor:
        """Pseudo-tokens at their positions, then the constant rest: (b, L - start, width)."""
        end = start + tokens.shape[1]
        placed = tokens.to(constants.dtype) + self.tower.positional_embedding[start:end]
        rest = constants[end:].expand(len(tokens), -1, -1)
        return torch.cat([placed, rest], dim=1)

    def _causal_encoder(self, constants: Tensor, start: int, n_tokens: int) -> Encode:
        """Only [pseudo-tokens, ..., EOT] go through the layers; the prefix is cached as keys and values."""
        length = len(constants)
        mask = torch.ones(length, length, dtype=torch.bool, device=constants.device).tril()
        pasts, prefix = [], constants[None, :start]  # (1, start, width)
        for block in self.blocks if start else ():
            prefix, past = block(prefix, mask=mask[:start, :start])
            pasts.append(past)

        def encode(tokens: Tensor) -> Tensor:
            x = self._suffix(tokens, constants, start)
            return self._finish(_run(self.blocks, x, -1, pasts, mask[start:]))

        return encode

    def _full_encoder(self, constants: Tensor, start: int, n_tokens: int, pooled: int) -> Encode:
        """No causal mask: every position sees the pseudo-tokens, so all of the context is computed."""

        def encode(tokens: Tensor) -> Tensor:
            before = constants[:start].expand(len(tokens), -1, -1)
            x = torch.cat([before, self._suffix(tokens, constants, start)], dim=1)  # (b, context, width)
            return self._finish(_run(self.blocks, x, pooled))

        return encode

    def _finish(self, x: Tensor) -> Tensor:
        return _project(self.tower.ln_final(x[:, 0]), self.tower.text_projection)  # (b, d)


def _is_causal(mask: Tensor | None) -> bool:
    if mask is None:
        return False
    if not torch.equal(mask == 0, torch.ones_like(mask, dtype=torch.bool).tril()):
        raise CrossgapError("OTI knows causal text encoders and unmasked ones; this one's mask is neither.")
    return True


# ---------------------------------------------------------------- image


def _repeats(n_patches: int, n_slots: int) -> Tensor:
    """Nearest-neighbour interpolation in raster order (Cross the Gap, Eq. 3): (n_slots,) indices below n_patches.

    4 patches in 49 slots give runs of 13, 12, 12, 12.
    """
    return torch.arange(n_slots) * n_patches // n_slots


class ImageTower:
    """A ViT image encoder (open_clip's, or timm's inside open_clip), entered after the patch embedding."""

    def __init__(self, net: nn.Module):
        self.visual = net.visual
        trunk = getattr(self.visual, "trunk", None)
        self.is_timm = trunk is not None and all(
            hasattr(trunk, n) for n in ("_pos_embed", "blocks", "norm_pre", "patch_embed")
        )
        if not self.is_timm and not (hasattr(self.visual, "class_embedding") and hasattr(self.visual, "transformer")):
            kind = type(trunk or self.visual).__name__
            raise CrossgapError(f"OVI learns pseudo-patches, so it needs a ViT image encoder, not {kind}.")
        if self.is_timm:
            self.n_slots, self.width = trunk.patch_embed.num_patches, trunk.embed_dim
        else:
            self.blocks = [Block(b) for b in self.visual.transformer.resblocks]
            self.n_slots = self.visual.positional_embedding.shape[0] - 1
            self.width = self.visual.positional_embedding.shape[1]

    def encoder(self, n_patches: int) -> Encode:
        """The map from pseudo-patches (b, n_patches, width) to features (b, d); CLS and positions stay the model's.

        Raises:
            CrossgapError: more pseudo-patches than the encoder has patches.
        """
        if n_patches > self.n_slots:
            raise CrossgapError(f"This encoder sees {self.n_slots} patches; {n_patches} pseudo-patches don't fit.")
        index = _repeats(n_patches, self.n_slots).to(next(self.visual.parameters()).device)
        forward = self._timm_forward if self.is_timm else self._open_clip_forward
        return lambda patches: forward(patches[:, index].to(next(self.visual.parameters()).dtype))

    def _open_clip_forward(self, patches: Tensor) -> Tensor:
        visual = self.visual
        cls = visual.class_embedding.expand(len(patches), 1, -1)
        x = visual.ln_pre(torch.cat([cls, patches], dim=1) + visual.positional_embedding)
        at_cls = visual.attn_pool is None and visual.pool_type == "tok"
        x = _run(self.blocks, x, 0 if at_cls else None)
        return _project(visual._pool(x)[0], visual.proj)  # (b, d)

    def _timm_forward(self, patches: Tensor) -> Tensor:
        trunk = self.visual.trunk
        if trunk.dynamic_img_size:
            patches = patches.unflatten(1, trunk.patch_embed.grid_size)
        x = trunk.norm_pre(trunk.patch_drop(trunk._pos_embed(patches)))
        return self.visual.head(trunk.forward_head(trunk.norm(trunk.blocks(x))))  # (b, d)
