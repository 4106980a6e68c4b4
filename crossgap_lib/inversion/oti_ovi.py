"""OTI and OVI over Embeddings: ``loop.invert`` in batches, and the cache of what it has found.

* OTI, Optimization-based Textual Inversion: pseudo-tokens after "a photo of" enter the text encoder.
* OVI, Optimization-based Visual Inversion: pseudo-patches, each repeated over some positions, enter the image encoder.

``accelerated`` is not in the paper: see ``fewer_steps``.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from crossgap_lib.embeddings.embeddings import Embeddings
from crossgap_lib.errors import CrossgapError
from crossgap_lib.inversion.loop import EPS, Encode, ScaledGradient, adamw, gradient, initial_noise, invert
from crossgap_lib.inversion.result import Inversion
from crossgap_lib.inversion.towers import ImageTower, TextTower
from crossgap_lib.progress import bar
from crossgap_lib.store import cached, whole

if TYPE_CHECKING:
    from crossgap_lib.inversion.accelerated import Accelerated
    from crossgap_lib.models.encoder import DualEncoder

TEMPLATE = "a photo of"
MIN_ROWS = 8  # smaller batches take other CPU kernels and differ in the last bits, so they are padded
_VERSION = 4  # part of every cache key: raise it whenever a result would change


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
    """Optimization-based Textual Inversion: the text features of the images (Cross the Gap, Sec. 4.1, Algorithm 1).

    Args:
        images: (n, d) image features of the same model.
        n_tokens: pseudo-tokens, learned together.
        steps: gradient steps; the paper uses 150.
        template: the prompt before the pseudo-tokens, or around them where it holds a "{}" (Cross the Gap, Table A9);
            or its token ids (before, after) without a tokenizer.
        snapshots: numbers of updates after which the features are kept as well.
        seed: noise is drawn from (seed, id) for each sample, so neither order nor batch matters.
        batch_size: samples optimised at a time.
        paper: the released code's mean over the batch, by which a sample's result depends on its batch.
        accelerated: another start and other steps, far fewer; made by ``accelerate``.
        cache: whether the result is kept and, where it was kept before, read.

    Raises:
        CrossgapError: features of another width, a text encoder that can't be entered, a prompt that doesn't fit.
    """
    how = {"snapshots": snapshots, "seed": seed, "paper": paper, "accelerated": accelerated}
    return run(model, images, oti_job(model, n_tokens, steps, template=template, **how), batch_size, cache=cache)


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
    """Optimization-based Visual Inversion: the image features of the texts (Cross the Gap, Sec. 4.2, Algorithm 2).

    Args as for ``oti``; ``n_patches`` pseudo-patches are repeated over all positions (Eq. 3). The paper takes 1 for
    CLIP and OpenCLIP B/32 (OpenCLIP L/14: 2, CLIP L/14 and SigLIP B/16: 4; Table A1) and 1000 steps.

    Raises:
        CrossgapError: features of another width, an image encoder that is no ViT, too many pseudo-patches.
    """
    how = {"snapshots": snapshots, "seed": seed, "paper": paper, "accelerated": accelerated}
    return run(model, texts, ovi_job(model, n_patches, steps, **how), batch_size, cache=cache)


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
    """Where a further word would be inserted, found by inserting one."""
    without, with_word = model.tokenize([text, f"{text} x".strip()]).cpu()
    differing = (without != with_word).nonzero()
    if len(differing) == 0:
        raise CrossgapError(f"The template {text!r} fills the whole context; there is no room for pseudo-tokens.")
    return int(differing[0])


# ---------------------------------------------------------------- jobs


@dataclass(frozen=True)
class Job:
    """One inversion, of any number of samples.

    Attributes:
        encode: the encoder behind its first layer, (b, *shape) -> (b, d).
        shape: (k, width) of a sample's pseudo-vectors.
        purpose: method, model, number of pseudo-vectors and template: what an accelerated start must be fitted for.
        half: whether ``encode`` computes in fp16, whose gradients need scaling.
        least: samples to which smaller batches are padded, where that is more than 8.
    """

    encode: Encode
    shape: tuple[int, int]
    steps: int
    purpose: dict[str, Any]
    snapshots: Iterable[int] = ()
    seed: int = 0
    paper: bool = False
    accelerated: "Accelerated | None" = None
    half: bool = False
    least: int = 0

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
    tower = TextTower(model.net, model.dtype)
    ids = template_ids(model, template) if isinstance(template, str) else template
    purpose = _purpose(model, "oti", n_tokens) | {"template": [part.tolist() for part in ids]}
    half = model.dtype == torch.float16
    return Job(tower.encoder(ids, n_tokens), (n_tokens, tower.width), steps, purpose, half=half, **how)


def ovi_job(model: "DualEncoder", n_patches: int, steps: int, **how: Any) -> Job:
    """What ``ovi`` optimises; ``how``: snapshots, seed, paper, accelerated."""
    tower = ImageTower(model.net, model.dtype)
    purpose, half = _purpose(model, "ovi", n_patches), model.dtype == torch.float16
    return Job(tower.encoder(n_patches), (n_patches, tower.width), steps, purpose, half=half, **how)


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


# ---------------------------------------------------------------- running them


def run(model: "DualEncoder", source: Embeddings, job: Job, batch_size: int, *, cache: bool) -> Inversion:
    """Inverts all rows of ``source``, or reads what was kept of the same job on the same rows."""
    check_width(model, source)
    path = _cache_path(model, source, job, batch_size) if cache else None
    found = path and _load(path)
    if found is None:
        found = all_batches(source, job, batch_size, model.device)
        if path:
            _save(path, *found)
    tokens, losses, kept = found
    columns = {name: getattr(source, name) for name in ("ids", "labels", "class_names", "texts", "meta")}
    how = {"modality": job.purpose["method"], "tokens": tokens, "losses": losses, "snapshots": kept}
    return Inversion(kept[job.steps], **how, **columns)


def check_width(model: "DualEncoder", source: Embeddings) -> None:
    if source.features.shape[1] != model.embed_dim:
        raise CrossgapError(
            f"These features have {source.features.shape[1]} dimensions and {model.name} has {model.embed_dim}: "
            "inversion needs features of the model itself."
        )


Found = tuple[Tensor, Tensor, dict[int, Tensor]]  # tokens (n, k, width), losses (steps, n), updates -> features (n, d)


def all_batches(source: Embeddings, job: Job, batch_size: int, device: str) -> Found:
    """Runs the job on all rows, ``batch_size`` at a time; what comes back lies on the CPU."""
    parts = []
    progress = bar(total=len(source), desc=f"{job.purpose['method'].upper()}, {job.steps} steps", unit="sample")
    for start in range(0, len(source), batch_size):
        batch = source[start : start + batch_size]
        parts.append(invert_batch(job, batch, device))
        progress.update(len(batch))
    tokens, losses, kept = zip(*parts, strict=True)
    features = {step: torch.cat([part[step] for part in kept]) for step in sorted(kept[0])}
    return torch.cat(tokens), torch.cat(losses, dim=1), features


def invert_batch(job: Job, batch: Embeddings, device: str | torch.device) -> Found:
    """One batch on the device, its results on the CPU. A small batch is padded by repeating its last row."""
    n, fast = len(batch), job.accelerated
    rows = [*range(n), *[-1] * (max(job.least, MIN_ROWS) - n)]
    targets = batch.features[rows].to(device)
    start = fast.begin(targets) if fast else initial_noise(batch.ids, job.shape, job.seed)[rows].to(device)
    stepper = fast.stepper if fast else partial(adamw, eps=n * EPS if job.paper else EPS)
    slope = ScaledGradient(len(rows), device) if job.half else gradient
    how = {"keep": job.snapshots, "stepper": stepper, "gradient": slope}
    tokens, losses, kept = invert(job.encode, targets, start, job.steps, **how)
    return tokens[:n].cpu(), losses[:, :n].cpu(), {step: features[:n].cpu() for step, features in kept.items()}


# ---------------------------------------------------------------- cache


def _cache_path(model: "DualEncoder", source: Embeddings, job: Job, batch_size: int) -> Path:
    """Named by all that the result depends on; by the batch size only in ``paper`` mode."""
    how = (sorted(job.purpose.items()), job.steps, sorted(job.snapshots), job.seed, model.precision)
    batch = batch_size if job.paper else None
    start = job.accelerated and job.accelerated.fingerprint
    rows = (source.features.numpy().tobytes(), source.ids.tolist())
    return cached("inversions", (_VERSION, *how, job.paper, batch, start, *rows), ".safetensors")


def _save(path: Path, tokens: Tensor, losses: Tensor, kept: dict[int, Tensor]) -> None:
    with whole(path) as part:
        save_file({"tokens": tokens, "losses": losses, **{str(step): f for step, f in kept.items()}}, part)


def _load(path: Path) -> Found | None:
    """What was kept there; a damaged file counts as absent."""
    if not path.exists():
        return None
    try:
        with safe_open(path, "pt") as archive:
            tensors = {name: archive.get_tensor(name) for name in archive.keys()}  # noqa: SIM118
    except (SafetensorError, OSError):
        return None
    tokens, losses = tensors.pop("tokens"), tensors.pop("losses")
    return tokens, losses, {int(step): tensors[step] for step in sorted(tensors, key=int)}
