"""The encoders as functions of their input vectors: pseudo-tokens or pseudo-patches in, features out.

Inversion feeds a frozen encoder with vectors that come from no text and no picture. So open_clip's transformers are
written out here as functions of plain tensors, which begin where the token embedding (OTI) or the patch embedding (OVI)
ends. They leave out exactly what can't change the result:

* A causal text encoder that is pooled at EOT (CLIP): nothing after EOT is computed, and the keys and values of the
  constant prefix "SOT a photo of" are computed once.
* Wherever a single position is pooled, the last block computes the query of that position alone.

A text encoder without a causal mask (SigLIP) sees its whole context, so all of it is computed. Which of these
applies is read from the encoder's modules, never from a model's name.

Shapes: b samples, L positions, h heads of width w each; width = h * w.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from timm.models.eva import Eva
from torch import Tensor, nn
from torch.nn import functional as F

from crossgap_lib.errors import CrossgapError
from crossgap_lib.inversion.loop import Encode

KeysValues = tuple[Tensor, Tensor]  # of the P positions that come first and are the same in all samples: (P, h, w) each


# ---------------------------------------------------------------- a transformer, as functions of tensors


@dataclass(frozen=True)
class Norm:
    """A layer norm, computed in float32."""

    weight: Tensor  # (width,)
    bias: Tensor  # (width,)
    eps: float

    def __call__(self, x: Tensor) -> Tensor:
        return F.layer_norm(x.float(), self.weight.shape, self.weight, self.bias, self.eps)


@dataclass(frozen=True)
class Linear:
    """A linear layer, computed in the type of its weights."""

    weight: Tensor  # (out, in)
    bias: Tensor | None  # (out,)

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(x.to(self.weight.dtype), self.weight, self.bias)


@dataclass(frozen=True)
class Block:
    """The weights of one residual block, which takes the layer norm before attention and before the MLP."""

    heads: int
    norm_1: Norm
    query: Linear  # width -> width
    keys_values: Linear  # width -> 2 width
    out: Linear  # width -> width
    scale_1: Tensor | None  # (width,) of layer scale, where the encoder has it
    norm_2: Norm
    up: Linear  # width -> 4 width
    activation: Callable[[Tensor], Tensor]
    down: Linear  # 4 width -> width
    scale_2: Tensor | None


def block(
    x: Tensor, weights: Block, past: KeysValues | None = None, *, causal: bool = False, only: int | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """x + attention(norm(x)), then x + mlp(norm(x)).

    Args:
        x: (b, L, width).
        past: keys and values of the positions that come before these L (the KV cache).
        causal: whether each position sees only itself and those before it.
        only: the one position whose output is wanted; with ``causal`` it must be the last.

    Returns:
        The output (b, L, width), or (b, 1, width) with ``only``; keys and values of these positions, (b, L, h, w) each.
    """
    normed = weights.norm_1(x)
    keys, values = weights.keys_values(normed).unflatten(-1, (2, weights.heads, -1)).unbind(2)  # (b, L, h, w)
    if only is not None:
        x, normed = x[:, only : only + 1], normed[:, only : only + 1]
    queries = weights.query(normed).unflatten(-1, (weights.heads, -1))
    attended = attention(queries, keys, values, past, causal).flatten(2)
    x = x + _scaled(weights.out(attended), weights.scale_1)
    inner = weights.down(weights.activation(weights.up(weights.norm_2(x))))
    return x + _scaled(inner, weights.scale_2), keys, values


def _scaled(x: Tensor, scale: Tensor | None) -> Tensor:
    return x if scale is None else x * scale


def attention(queries: Tensor, keys: Tensor, values: Tensor, past: KeysValues | None, causal: bool) -> Tensor:
    """softmax(q k^T / sqrt(w)) v over the past and the sample's own positions: (b, Q, h, w).

    Queries (b, Q, h, w) are those of the last Q of the L positions; keys and values are (b, L, h, w). The past is the
    same in all samples, so it enters as one matrix a head and is not copied for each sample.
    """
    if past is None and not causal:
        of_heads = (part.transpose(1, 2) for part in (queries, keys, values))
        return F.scaled_dot_product_attention(*of_heads).transpose(1, 2)
    n_queries, n_own = queries.shape[1], keys.shape[1]
    queries = queries * queries.shape[-1] ** -0.5
    # True where a key comes after its query
    later = torch.ones(n_queries, n_own, dtype=torch.bool, device=keys.device).triu(n_own - n_queries + 1)
    scores = torch.einsum("bqhw,bkhw->bhqk", queries, keys).masked_fill(later, -torch.inf)
    if past is not None:
        scores = torch.cat([torch.einsum("bqhw,phw->bhqp", queries, past[0]), scores], dim=-1)
    shares = scores.float().softmax(dim=-1).to(values.dtype)  # (b, h, Q, P + L)
    mixed = torch.einsum("bhqk,bkhw->bqhw", shares[..., -n_own:], values)
    if past is not None:
        mixed = mixed + torch.einsum("bhqp,phw->bqhw", shares[..., :-n_own], past[1])
    return mixed


def transformer(
    x: Tensor, blocks: list[Block], pasts: list[KeysValues] | None = None, *, causal: bool, pooled: int | None
) -> Tensor:
    """All blocks applied to x (b, L, width); of the last one, the ``pooled`` position alone if given: (b, 1, width)."""
    pasts = pasts or [None] * len(blocks)
    for weights, past in zip(blocks[:-1], pasts[:-1], strict=True):
        x, _, _ = block(x, weights, past, causal=causal)
    return block(x, blocks[-1], pasts[-1], causal=causal, only=pooled)[0]


# ---------------------------------------------------------------- weights, read from open_clip's modules


def read_block(module: nn.Module, dtype: torch.dtype) -> Block:
    """The weights of open_clip's ``ResidualAttentionBlock``; linear layers compute in ``dtype``.

    Raises:
        CrossgapError: another kind of block.
    """
    attn = getattr(module, "attn", None)
    if not isinstance(attn, nn.MultiheadAttention) or hasattr(module, "ln_1_kv"):  # the latter: cross-attention (CoCa)
        raise CrossgapError(f"Inversion can't enter blocks of type {type(module).__name__}: not a plain ViT.")
    width, weight, bias = attn.embed_dim, attn.in_proj_weight, attn.in_proj_bias
    linear = partial(_linear, dtype=dtype)
    return Block(
        heads=attn.num_heads,
        norm_1=read_norm(module.ln_1),
        query=linear(weight[:width], None if bias is None else bias[:width]),
        keys_values=linear(weight[width:], None if bias is None else bias[width:]),
        out=linear(attn.out_proj.weight, attn.out_proj.bias),
        scale_1=getattr(module.ls_1, "gamma", None),
        norm_2=read_norm(module.ln_2),
        up=linear(module.mlp.c_fc.weight, module.mlp.c_fc.bias),
        activation=module.mlp.gelu,
        down=linear(module.mlp.c_proj.weight, module.mlp.c_proj.bias),
        scale_2=getattr(module.ls_2, "gamma", None),
    )


def read_norm(layer: nn.LayerNorm) -> Norm:
    """The weights of a layer norm."""
    return Norm(layer.weight, layer.bias, layer.eps)


def _linear(weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Linear:
    return Linear(weight.to(dtype), None if bias is None else bias.to(dtype))


def _read_projection(projection: nn.Module | Tensor | None, dtype: torch.dtype) -> Encode:
    """The encoder's last map, (b, width) -> (b, d): a linear layer, a matrix (width, d), or nothing."""
    if projection is None:
        return lambda x: x
    if isinstance(projection, nn.Linear):
        return _linear(projection.weight, projection.bias, dtype)
    return _linear(projection.T, None, dtype)


# ---------------------------------------------------------------- text


class TextTower:
    """open_clip's text encoder (CLIP's own or ``TextTransformer``), entered after the token embedding."""

    def __init__(self, net: nn.Module, dtype: torch.dtype = torch.float32):
        tower = getattr(net, "text", net)
        needed = ("token_embedding", "positional_embedding", "transformer", "ln_final", "text_projection")
        if not all(hasattr(tower, name) for name in needed):
            raise CrossgapError(
                f"OTI needs a transformer text encoder, and {type(tower).__name__} is not one it knows."
            )
        if getattr(tower, "cls_emb", None) is not None or getattr(tower, "use_pad_mask", False):
            raise CrossgapError("OTI does not cover text encoders with an appended class token or a padding mask.")
        mask = tower.attn_mask  # (L, L), added to the scores: 0 where a position is seen
        if mask is not None and not torch.equal(mask == 0, torch.ones_like(mask).tril().bool()):
            raise CrossgapError("OTI knows causal text encoders and unmasked ones; this one's mask is neither.")
        self.tower, self.dtype, self.causal = tower, dtype, mask is not None
        self.width = tower.token_embedding.embedding_dim
        self.context_length = tower.positional_embedding.shape[0]
        self.pool_type = getattr(tower, "pool_type", None) or tower.text_pool_type
        self.eos_id = getattr(tower, "eos_id", None) or getattr(tower, "text_eos_id", None)

    def encoder(self, template: tuple[Tensor, Tensor], n_tokens: int) -> Encode:
        """The map from pseudo-tokens (b, n_tokens, width) to features (b, d), the rest of the prompt being constant.

        ``template`` holds the token ids before and after the pseudo-tokens, padding included.

        Raises:
            CrossgapError: the prompt does not fit into the context.
        """
        ids, pooled = self._prompt(template, n_tokens)
        start, end = len(template[0]), len(template[0]) + n_tokens
        positions = self.tower.positional_embedding[: len(ids)]
        # (L, width); a pseudo-token, -1, is looked up as id 0, and encode leaves that row out
        constants = self.tower.token_embedding(ids.clamp_min(0)) + positions
        blocks = [read_block(module, self.dtype) for module in self.tower.transformer.resblocks]
        norm, project = read_norm(self.tower.ln_final), _read_projection(self.tower.text_projection, self.dtype)
        pasts = _prefix(constants[:start], blocks) if self.causal and start else None
        before = constants[: 0 if pasts else start]

        def encode(tokens: Tensor) -> Tensor:
            ahead, behind = (part.expand(len(tokens), -1, -1) for part in (before, constants[end:]))
            x = torch.cat([ahead, tokens + positions[start:end], behind], dim=1)  # (b, L or L - start, width)
            x = transformer(x, blocks, pasts, causal=self.causal, pooled=pooled - (start if pasts else 0))
            return project(norm(x[:, 0])).float()  # only the pooled position is left

        return encode

    def _prompt(self, template: tuple[Tensor, Tensor], n_tokens: int) -> tuple[Tensor, int]:
        """(ids (L,) with -1 for the pseudo-tokens, the pooled position); a causal encoder needs no ids after that."""
        before, after = (part.to(self.tower.positional_embedding.device) for part in template)
        ids = torch.cat([before, torch.full((n_tokens,), -1, device=before.device), after])
        if self.pool_type in ("first", "last"):
            other = (ids != ids[-1]).nonzero()  # the equal ids at the end are padding, of which one must fit
            needed = int(other[-1]) + 2 if len(other) else 1
            pooled = 0 if self.pool_type == "first" else min(len(ids), self.context_length) - 1
        else:
            pooled = int(ids.argmax() if self.pool_type == "argmax" else (ids == self.eos_id).int().argmax())
            needed = pooled + 1
        if needed > self.context_length:
            room = max(0, self.context_length - needed + n_tokens)
            raise CrossgapError(f"{n_tokens} pseudo-tokens don't fit: beside the template there is room for {room}.")
        # without the padding that the pseudo-tokens pushed out of the context
        return ids[: pooled + 1 if self.causal else self.context_length], pooled


def _prefix(constants: Tensor, blocks: list[Block]) -> list[KeysValues]:
    """Keys and values of the constant positions (P, width) in each block of a causal encoder."""
    x, pasts = constants[None], []
    for weights in blocks:
        x, keys, values = block(x, weights, causal=True)
        pasts.append((keys[0], values[0]))
    return pasts


# ---------------------------------------------------------------- image


def _repeats(n_patches: int, n_slots: int) -> Tensor:
    """Nearest-neighbour interpolation in raster order (Cross the Gap, Eq. 3): (n_slots,) indices below n_patches.

    4 patches in 49 slots give runs of 13, 12, 12, 12.
    """
    return torch.arange(n_slots) * n_patches // n_slots


class ImageTower:
    """A ViT image encoder (open_clip's, or timm's inside open_clip), entered after the patch embedding.

    Raises:
        CrossgapError: an image encoder of another kind.
    """

    def __init__(self, net: nn.Module, dtype: torch.dtype = torch.float32):
        self.visual, self.dtype = net.visual, dtype
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
            slots, self.width = self.visual.positional_embedding.shape
            self.n_slots = slots - 1  # one is CLS

    def encoder(self, n_patches: int) -> Encode:
        """The map from pseudo-patches (b, n_patches, width) to features (b, d); CLS and positions stay the model's.

        Raises:
            CrossgapError: more pseudo-patches than the encoder has patches, or blocks of another kind.
        """
        if n_patches > self.n_slots:
            raise CrossgapError(f"This encoder sees {self.n_slots} patches; {n_patches} pseudo-patches don't fit.")
        index = _repeats(n_patches, self.n_slots).to(next(self.visual.parameters()).device)
        forward = self._of_timm() if self.is_timm else self._of_open_clip()
        return lambda patches: forward(patches[:, index])

    def _of_open_clip(self) -> Encode:
        visual = self.visual
        blocks = [read_block(module, self.dtype) for module in visual.transformer.resblocks]
        norm = read_norm(visual.ln_pre) if isinstance(visual.ln_pre, nn.LayerNorm) else visual.ln_pre
        project = _read_projection(visual.proj, self.dtype)
        at_cls = visual.attn_pool is None and visual.pool_type == "tok"

        def encode(patches: Tensor) -> Tensor:  # (b, n_slots, width)
            cls = visual.class_embedding.expand(len(patches), 1, -1)
            x = norm(torch.cat([cls, patches], dim=1) + visual.positional_embedding)
            x = transformer(x, blocks, causal=False, pooled=0 if at_cls else None)
            return project(visual._pool(x)[0]).float()

        return encode

    def _of_timm(self) -> Encode:
        """timm's own modules under autocast: its blocks come in too many kinds to be written out.

        Eva (EVA01, EVA02, PE-Core) tells every block the positions once more, as a rotation of queries and keys.
        """
        trunk, head, dtype = self.visual.trunk, self.visual.head, self.dtype

        def of_vit(patches: Tensor) -> Tensor:
            return trunk.blocks(trunk.norm_pre(trunk.patch_drop(trunk._pos_embed(patches))))

        def of_eva(patches: Tensor) -> Tensor:
            x, rotation = trunk._pos_embed(patches)
            x = trunk.norm_pre(x)
            for number, module in enumerate(trunk.blocks):
                x = module(x, rope=rotation[number] if trunk.rope_mixed else rotation)  # mixed: each block has its own
            return x

        through_blocks = of_eva if isinstance(trunk, Eva) else of_vit

        def encode(patches: Tensor) -> Tensor:  # (b, n_slots, width)
            if trunk.dynamic_img_size:
                patches = patches.unflatten(1, trunk.patch_embed.grid_size)
            with torch.autocast(patches.device.type, dtype, enabled=dtype != torch.float32):
                return head(trunk.forward_head(trunk.norm(through_blocks(patches)))).float()

        return encode
