"""Modality inversion: OTI turns image features into text features, OVI text features into image features.

Both learn a few input vectors of a frozen encoder by gradient descent, so that its output comes close to a given
feature of the other modality (Cross the Gap, Sec. 4, Algorithms 1 and 2):

* OTI: n_tokens pseudo-tokens after "a photo of" enter the text encoder; 150 steps in the paper.
* OVI: n_patches pseudo-patches, each repeated over a run of positions, enter the image encoder; 1000 steps.

Reference: pseudo-tokens ~ N(0, 0.02^2), AdamW with lr 0.02, betas (0.9, 0.999), weight decay 0.01, no schedule,
loss 1 - cos (Eq. 2), the last step kept. The released code minimises the *mean* over the batch, so AdamW's eps
makes a sample's result depend on its batch; here the loss is a *sum* over samples and every sample is on its own.
``paper=True`` gives the released behaviour back: mean with eps 1e-8 is the sum with eps n * 1e-8.

``accelerated`` is not in the paper: see fewer_steps.py.
"""

import os
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from crossgap_lib.embeddings.embeddings import Embeddings
from crossgap_lib.errors import CrossgapError
from crossgap_lib.inversion.towers import Encode, ImageTower, TextTower
from crossgap_lib.memory import keep_freed_memory
from crossgap_lib.paths import cache_dir
from crossgap_lib.progress import bar

if TYPE_CHECKING:
    from crossgap_lib.inversion.accelerated import Accelerated
    from crossgap_lib.models.encoder import DualEncoder

TEMPLATE = "a photo of"
_STD, _LR, _BETAS, _EPS, _DECAY = 0.02, 0.02, (0.9, 0.999), 1e-8, 0.01
_MIN_ROWS = 8  # smaller batches take other CPU kernels and differ in the last bits, so they are padded
_VERSION = 3  # part of every cache key: raise it whenever a result would change
# In fp16 the gradients of activations vanish below 6e-8 and are coarse below 6e-5, so the loss is multiplied by a
# constant before the backward pass and the gradient divided by it afterwards; both are exact for a power of two. On the
# mini and on CLIP's and SigLIP's architectures the error of the gradient no longer falls from 2^4 on, and nothing
# overflows up to 2^20: this is the middle.
_LOSS_SCALE = 2.0**12


@dataclass(eq=False, repr=False)
class Inversion(Embeddings):
    """Inverted features with the path that led to them.

    Attributes (beside those of Embeddings; n samples, k pseudo-tokens or pseudo-patches):
        tokens: (n, k, width) the learned vectors after the last step.
        losses: (steps, n) 1 - cos; losses[s] precedes update s.
        snapshots: step -> (n, d) unit-norm features after that many updates; always holds the last step.
    """

    tokens: Tensor = field(default_factory=lambda: torch.empty(0))
    losses: Tensor = field(default_factory=lambda: torch.empty(0))
    snapshots: dict[int, Tensor] = field(default_factory=dict)

    @property
    def steps(self) -> int:
        return len(self.losses)

    def __repr__(self) -> str:
        return f"{super().__repr__()[:-1]}, {self.tokens.shape[1]} pseudo-vectors, {self.steps} steps)"

    def at(self, step: int) -> Embeddings:
        """The features after ``step`` updates.

        Raises:
            CrossgapError: no snapshot was taken there.
        """
        if step not in self.snapshots:
            raise CrossgapError(f"No snapshot at step {step}; there are {sorted(self.snapshots)}.")
        plain = {name: getattr(self, name) for name in ("ids", "labels", "class_names", "modality", "texts", "meta")}
        return Embeddings(self.snapshots[step], **plain)

    def _rows(self, index: np.ndarray) -> dict[str, Any]:
        rows = torch.from_numpy(index)
        shots = {step: features[rows] for step, features in self.snapshots.items()}
        own = {"tokens": self.tokens[rows], "losses": self.losses[:, rows], "snapshots": shots}
        return super()._rows(index) | own


# ---------------------------------------------------------------- the two methods


def oti(
    model: "DualEncoder",
    images: Embeddings,
    *,
    n_tokens: int = 1,
    steps: int = 150,
    template: str | tuple[Tensor, Tensor] = TEMPLATE,
    snapshots: Iterable[int] = (),
    seed: int = 0,
    batch_size: int = 256,
    paper: bool = False,
    accelerated: "Accelerated | None" = None,
    cache: bool = True,
) -> Inversion:
    """Optimization-based Textual Inversion (Cross the Gap, Sec. 4.1 and Algorithm 1).

    Args:
        images: (n, d) image features of the same model.
        n_tokens: pseudo-tokens, learned together.
        steps: gradient steps; the paper uses 150.
        template: the prompt before the pseudo-tokens, or around them where it holds a "{}" (Cross the Gap, Table A9);
            or its token ids (before, after) without a tokenizer.
        snapshots: numbers of updates after which the features are kept as well.
        seed: noise is drawn from (seed, id) for each sample, so neither order nor batch matters.
        paper: the released code's batch-dependent eps.
        accelerated: another start and other steps, far fewer; made by ``accelerate``.

    Raises:
        CrossgapError: features of another width, a text encoder that can't be entered, a prompt that doesn't fit.
    """
    facts = ("oti", n_tokens, template if isinstance(template, str) else [part.tolist() for part in template])
    job = oti_job(
        model, n_tokens, steps, template=template, snapshots=snapshots, seed=seed, paper=paper, accelerated=accelerated
    )
    return invert(model, images, job, batch_size, "oti", facts if cache else None)


def ovi(
    model: "DualEncoder",
    texts: Embeddings,
    *,
    n_patches: int = 1,
    steps: int = 1000,
    snapshots: Iterable[int] = (),
    seed: int = 0,
    batch_size: int = 64,
    paper: bool = False,
    accelerated: "Accelerated | None" = None,
    cache: bool = True,
) -> Inversion:
    """Optimization-based Visual Inversion (Cross the Gap, Sec. 4.2, Eq. 3 and Algorithm 2).

    Args as for ``oti``; ``n_patches`` pseudo-patches are repeated over all positions. The paper takes 1 for CLIP
    and OpenCLIP B/32 (OpenCLIP L/14: 2, CLIP L/14 and SigLIP B/16: 4; Table A1) and 1000 steps.

    Raises:
        CrossgapError: features of another width, an image encoder that is no ViT, too many pseudo-patches.
    """
    job = ovi_job(model, n_patches, steps, snapshots=snapshots, seed=seed, paper=paper, accelerated=accelerated)
    return invert(model, texts, job, batch_size, "ovi", ("ovi", n_patches) if cache else None)


def template_ids(model: "DualEncoder", template: str) -> tuple[Tensor, Tensor]:
    """Token ids before and after the pseudo-tokens, which stand at "{}" or else at the end of the template.

    Raises:
        CrossgapError: more than one "{}", a template that fills the context, or one whose words before the "{}" are
            tokenised otherwise when more words follow.
    """
    if template.count("{}") > 1:
        raise CrossgapError(f"The template {template!r} has more than one place for the pseudo-tokens.")
    head, _, tail = (part.strip() for part in template.partition("{}"))
    at = _end_of(model, head)
    alone, whole = model.tokenize([head, f"{head} {tail}".strip()]).cpu()
    if not torch.equal(alone[:at], whole[:at]):
        raise CrossgapError(f"The tokenizer of {model.name} joins what stands around the {{}} of {template!r}.")
    return whole[:at], whole[at:]


def _end_of(model: "DualEncoder", text: str) -> int:
    """Where a further word would be inserted, seen by trying it."""
    without, with_word = model.tokenize([text, f"{text} x".strip()]).cpu()
    differing = (without != with_word).nonzero()
    if len(differing) == 0:
        raise CrossgapError(f"The template {text!r} fills the whole context; there is no room for pseudo-tokens.")
    return int(differing[0])


# ---------------------------------------------------------------- the loop


@dataclass(frozen=True)
class Job:
    """What to optimise: pseudo-vectors of ``shape`` (k, width) through ``encode``."""

    encode: Encode
    autocast: Callable[[], AbstractContextManager]  # the model's precision
    shape: tuple[int, int]
    steps: int
    snapshots: Iterable[int] = ()
    seed: int = 0
    paper: bool = False
    accelerated: "Accelerated | None" = None
    purpose: dict[str, Any] = field(default_factory=dict)  # what an accelerated start must have been fitted for

    def __post_init__(self) -> None:
        object.__setattr__(self, "snapshots", frozenset(self.snapshots))
        if self.steps < (0 if self.accelerated else 1) or self.shape[0] < 1:
            raise CrossgapError("Inversion needs at least one step and one pseudo-token or pseudo-patch.")
        if self.accelerated:
            self.accelerated.check(self.purpose)
        if any(not 0 <= s <= self.steps for s in self.snapshots):
            raise CrossgapError(f"Snapshots lie between 0 and {self.steps} steps, not at {sorted(self.snapshots)}.")


def oti_job(
    model: "DualEncoder", n_tokens: int, steps: int, *, template: str | tuple[Tensor, Tensor] = TEMPLATE, **how: Any
) -> Job:
    """What ``oti`` optimises; ``how``: snapshots, seed, paper, accelerated."""
    tower = TextTower(model.net)
    ids = template_ids(model, template) if isinstance(template, str) else template
    purpose = _purpose(model, "oti", n_tokens) | {"template": [part.tolist() for part in ids]}
    return Job(tower.encoder(ids, n_tokens), model.autocast, (n_tokens, tower.width), steps, purpose=purpose, **how)


def ovi_job(model: "DualEncoder", n_patches: int, steps: int, **how: Any) -> Job:
    """What ``ovi`` optimises; ``how``: snapshots, seed, paper, accelerated."""
    tower = ImageTower(model.net)
    purpose = _purpose(model, "ovi", n_patches)
    return Job(tower.encoder(n_patches), model.autocast, (n_patches, tower.width), steps, purpose=purpose, **how)


def job_for(
    model: "DualEncoder",
    method: str,
    n: int,
    steps: int,
    *,
    template: str | tuple[Tensor, Tensor] = TEMPLATE,
    **how: Any,
) -> Job:
    """What ``method`` optimises, "oti" or "ovi", which has no template; ``how`` as for ``oti_job``."""
    if method == "oti":
        return oti_job(model, n, steps, template=template, **how)
    return ovi_job(model, n, steps, **how)


def _purpose(model: "DualEncoder", method: str, n: int) -> dict[str, Any]:
    return {"method": method, "model": model.fingerprint, "number of pseudo-vectors": n}


def initial_noise(ids: Iterable[str], shape: tuple[int, int], seed: int) -> Tensor:
    """(n, *shape) from N(0, 0.02^2), each row drawn from (seed, id) alone."""
    generator, rows = torch.Generator(), []
    for name in ids:
        digest = blake2b(f"{seed}/{name}".encode(), digest_size=8).digest()
        generator.manual_seed(int.from_bytes(digest, "little"))
        rows.append(torch.empty(shape).normal_(0.0, _STD, generator=generator))
    return torch.stack(rows)


def optimise(job: Job, targets: Tensor, noise: Tensor, samples: int) -> tuple[Tensor, Tensor, dict[int, Tensor]]:
    """One batch: targets (b, d) unit norm, noise (b, k, width) -> tokens, losses (steps, b), snapshots.

    No step waits for the device: losses and snapshots stay there until the end.
    """
    keep_freed_memory()
    fast, half = job.accelerated, _in_fp16(job, targets.device)
    scale = torch.full((len(targets),), _LOSS_SCALE, device=targets.device) if half else None  # (b,)
    tokens = (fast.begin(targets) if fast else noise.clone()).requires_grad_()
    eps = _EPS * samples if job.paper else _EPS
    adamw = torch.optim.AdamW([tokens], lr=_LR, betas=_BETAS, eps=eps, weight_decay=_DECAY)
    losses, kept = torch.empty(job.steps, len(targets), device=targets.device), {}
    for step in range(job.steps + 1):
        last = step == job.steps
        with torch.set_grad_enabled(not last), job.autocast():
            features = F.normalize(job.encode(tokens).float(), dim=-1)  # (b, d)
        if last or step in job.snapshots:
            kept[step] = features.detach()
        if last:
            break
        loss = 1 - (features * targets).sum(dim=-1)  # (b,)  Eq. 2
        losses[step] = loss.detach()
        (tokens.grad,) = torch.autograd.grad((loss * scale).sum() if half else loss.sum(), tokens)
        if half:
            scale = _unscale(tokens.grad, scale)
        if fast:
            fast.update(tokens, step, job.steps)
        else:
            adamw.step()
    return tokens.detach(), losses, kept


def _in_fp16(job: Job, device: torch.device) -> bool:
    with job.autocast():
        return torch.is_autocast_enabled(device.type) and torch.get_autocast_dtype(device.type) is torch.float16


def _unscale(grad: Tensor, scale: Tensor) -> Tensor:
    """Divides ``grad`` (b, k, width) by ``scale`` (b,) in place and returns the scale of the next step.

    A gradient that overflowed would make its pseudo-vectors NaN for good. It counts as zero for this step, and the
    sample's scale is halved, so that it moves again once its gradient fits. Each sample has its own scale: what
    overflows in one changes no other, and nothing waits for the device, as torch's GradScaler would.
    """
    finite = grad.isfinite().flatten(1).all(dim=1)  # (b,)
    grad.div_(scale[:, None, None]).masked_fill_(~finite[:, None, None], 0.0)
    return torch.where(finite, scale, scale / 2)


def invert_batch(job: Job, batch: Embeddings, device: str | torch.device) -> tuple[Tensor, Tensor, dict[int, Tensor]]:
    """Pads small batches by repeating the last row, optimises, and cuts the padding off."""
    n, padding = len(batch), [-1] * max(0, _MIN_ROWS - len(batch))
    rows = [*range(n), *padding]
    noise = initial_noise(batch.ids, job.shape, job.seed)
    tokens, losses, kept = optimise(job, batch.features[rows].to(device), noise[rows].to(device), n)
    return tokens[:n].cpu(), losses[:, :n].cpu(), {step: f[:n].cpu() for step, f in kept.items()}


def invert(
    model: "DualEncoder", source: Embeddings, job: Job, batch_size: int, modality: str, cache_facts: tuple | None = None
) -> Inversion:
    """Runs ``job`` over all rows; ``cache_facts``: what else the result depends on, or None to keep nothing."""
    check_width(model, source)
    key = None
    if cache_facts is not None:
        features = blake2b(source.features.numpy().tobytes(), digest_size=16).hexdigest()
        batch = batch_size if job.paper else None  # the default result does not depend on it
        made_from = (model.fingerprint, model.precision, features, source.ids.tolist(), batch)
        facts = (_VERSION, *cache_facts, job.shape, job.steps, sorted(job.snapshots), job.seed, job.paper, *made_from)
        if job.accelerated:
            facts += (job.accelerated.fingerprint,)
        if model.precision == "fp16":
            facts += (_LOSS_SCALE,)
        key = blake2b(repr(facts).encode(), digest_size=16).hexdigest()
        if kept := _load_cached(key, source, modality):
            return kept
    parts = []
    progress = bar(total=len(source), desc=f"{modality.upper()}, {job.steps} steps", unit="sample")
    for start in range(0, len(source), batch_size):
        batch = source[start : start + batch_size]
        parts.append(invert_batch(job, batch, model.device))
        progress.update(len(batch))
    tokens, losses = (
        torch.cat(piece, dim=dim) for piece, dim in zip(list(zip(*parts, strict=True))[:2], (0, 1), strict=True)
    )
    shots = {step: torch.cat([part[2][step] for part in parts]) for step in sorted(parts[0][2])}
    if key:
        _save_cached(key, tokens, losses, shots)
    return _result(source, modality, tokens, losses, shots)


def check_width(model: "DualEncoder", source: Embeddings) -> None:
    if source.features.shape[1] != model.embed_dim:
        raise CrossgapError(
            f"These features have {source.features.shape[1]} dimensions and {model.name} has {model.embed_dim}: "
            "inversion needs features of the model itself."
        )


def _result(source: Embeddings, modality: str, tokens: Tensor, losses: Tensor, shots: dict[int, Tensor]) -> Inversion:
    columns = {name: getattr(source, name) for name in ("ids", "labels", "class_names", "texts", "meta")}
    return Inversion(shots[len(losses)], modality=modality, tokens=tokens, losses=losses, snapshots=shots, **columns)


# ---------------------------------------------------------------- cache


def _cache_path(key: str):
    return cache_dir() / "inversions" / f"{key}.safetensors"


def _save_cached(key: str, tokens: Tensor, losses: Tensor, shots: dict[int, Tensor]) -> None:
    path = _cache_path(key)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}.part")  # notebooks that run side by side make the same ones
    save_file({"tokens": tokens, "losses": losses, **{str(s): f for s, f in shots.items()}}, part)
    part.replace(path)


def _load_cached(key: str, source: Embeddings, modality: str) -> Inversion | None:
    """What was kept under this key; a damaged file counts as absent."""
    path = _cache_path(key)
    if not path.exists():
        return None
    try:
        with safe_open(path, "pt") as archive:
            tensors = {name: archive.get_tensor(name) for name in archive.keys()}  # noqa: SIM118
    except (SafetensorError, OSError):
        return None
    tokens, losses = tensors.pop("tokens"), tensors.pop("losses")
    return _result(
        source, modality, tokens, losses, {int(s): f for s, f in sorted(tensors.items(), key=lambda i: int(i[0]))}
    )
