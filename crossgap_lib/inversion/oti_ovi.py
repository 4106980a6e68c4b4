"""OTI and OVI over Embeddings: ``loop.Loop`` in batches, and the cache of what it has found.

OTI learns pseudo-tokens after "a photo of", which enter the text encoder; OVI learns pseudo-patches, each repeated over
some positions, which enter the image encoder.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from crossgap_lib.embeddings.embeddings import Embeddings
from crossgap_lib.errors import CrossgapError, one_sentence
from crossgap_lib.inversion.loop import EPS, AdamW, Encode, Loop, ScaledGradient, gradient, initial_noise
from crossgap_lib.inversion.result import Inversion
from crossgap_lib.inversion.towers import ImageTower, TextTower
from crossgap_lib.progress import bar
from crossgap_lib.store import keep, kept

if TYPE_CHECKING:
    from crossgap_lib.inversion.accelerated import Accelerated
    from crossgap_lib.models.encoder import DualEncoder

TEMPLATE = "a photo of"
BATCH, PAPER_BATCH = 256, 64  # samples at a time; what the released OTI optimises together
MIN_ROWS = 8  # smaller batches take other CPU kernels and differ in the last bits, so they are padded
_VERSION = 5  # part of every cache key: raise it whenever a result would change

Template = str | tuple[Tensor, Tensor]  # words, or the token ids before and after the pseudo-tokens


# ---------------------------------------------------------------- the two methods


def oti(
    model: "DualEncoder",
    images: Embeddings,
    *,
    n_tokens: int = 1,
    steps: int = 150,
    template: Template = TEMPLATE,
    snapshots: Iterable[int] = (),
    seed: int = 0,
    batch_size: int | None = None,
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
        snapshots: steps after which the features are kept, besides the last; 0 is the start.
        seed: each sample's starting noise is drawn from the seed and its id, so neither order nor batch matters.
        batch_size: samples optimised at a time; by default 256, and with ``paper`` the released code's 64.
        paper: minimise the mean over the batch, as the released code does: results then depend on the batch.
        accelerated: another start and other, far fewer steps, made by ``accelerate``.
        cache: whether a result that was kept earlier is read, and a new one is kept.

    Raises:
        CrossgapError: features of another width, a text encoder that can't be entered, a prompt that doesn't fit.
    """
    job = job_for(
        model,
        "oti",
        n_tokens,
        steps,
        template=template,
        snapshots=snapshots,
        seed=seed,
        paper=paper,
        accelerated=accelerated,
    )
    return run(model, images, job, batch_size or (PAPER_BATCH if paper else BATCH), cache=cache)


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
    job = job_for(model, "ovi", n_patches, steps, snapshots=snapshots, seed=seed, paper=paper, accelerated=accelerated)
    return run(model, texts, job, batch_size, cache=cache)


def template_ids(model: "DualEncoder", template: str) -> tuple[Tensor, Tensor]:
    """Token ids before and after the pseudo-tokens, which stand at "{}" or else at the end of the template.

    Raises:
        CrossgapError: more than one "{}", a template that fills the context, or one whose words before the "{}" are
            tokenised otherwise when more words follow.
    """
    if template.count("{}") > 1:
        raise CrossgapError(f"The template {template!r} has more than one place for the pseudo-tokens.")
    head, _, tail = (part.strip() for part in template.partition("{}"))
    prompts = (head, f"{head} x", f"{head} {tail}")
    alone, with_a_word, prompt = model.tokenize([words.strip() for words in prompts]).cpu()  # (L,) each
    differing = (alone != with_a_word).nonzero()
    if len(differing) == 0:
        raise CrossgapError(f"The template {template!r} fills the whole context; there is no room for pseudo-tokens.")
    place = int(differing[0])  # the first id that changes when a word is added: there the pseudo-tokens go
    if not torch.equal(alone[:place], prompt[:place]):
        raise CrossgapError(f"The tokenizer of {model.name} joins what stands around the {{}} of {template!r}.")
    return prompt[:place], prompt[place:]


# ---------------------------------------------------------------- jobs


@dataclass(frozen=True)
class Job:
    """One inversion, of any number of samples.

    Attributes:
        encode: what the encoder does after its embedding layer, (b, *shape) -> (b, d).
        shape: (k, width) of a sample's pseudo-vectors.
        purpose: method, model, number of pseudo-vectors and template: part of the cache's key, and what an accelerated
            start must have been fitted for.
        half: whether ``encode`` computes in fp16, whose gradients need scaling.
        min_batch: smaller batches are padded to this number of samples.
        loops: the loop for batches of the last shape, by their samples without and with padding. (On a GPU a captured
            step holds the memory that it needs, so another shape takes its place.)
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
    min_batch: int = 0
    loops: dict[tuple[int, int], Loop] = field(default_factory=dict, init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "snapshots", frozenset(self.snapshots))
        if self.steps < (0 if self.accelerated else 1) or self.shape[0] < 1:
            raise CrossgapError(
                "Inversion needs at least one step (0 if accelerated) and at least one pseudo-token or pseudo-patch."
            )
        if self.accelerated:
            self.accelerated.check(self.purpose)
        if any(not 0 <= s <= self.steps for s in self.snapshots):
            raise CrossgapError(f"Snapshots lie between 0 and {self.steps} steps, not at {sorted(self.snapshots)}.")


def job_for(model: "DualEncoder", method: str, n: int, steps: int, *, template: Template = TEMPLATE, **how: Any) -> Job:
    """What ``method``, "oti" or "ovi", optimises with n pseudo-vectors a sample.

    ``template`` is for OTI alone. ``how``: snapshots, seed, paper and accelerated, as ``oti`` takes them.

    Raises:
        CrossgapError: an image-only model, and as ``oti`` and ``ovi`` do.
    """
    model.need_text()
    purpose = {"method": method, "model": model.fingerprint, "number of pseudo-vectors": n}
    if method == "oti":
        tower = TextTower(model.net, model.dtype)
        ids = template_ids(model, template) if isinstance(template, str) else template
        purpose["template"], encode = [part.tolist() for part in ids], tower.encoder(ids, n)
    else:
        tower = ImageTower(model.net, model.dtype)
        encode = tower.encoder(n)
    return Job(encode, (n, tower.width), steps, purpose, half=model.dtype == torch.float16, **how)


def why_not(model: "DualEncoder", method: str) -> str | None:
    """Why ``method``, "oti" or "ovi", can't enter this model's encoder, in a sentence; None where it can."""
    try:
        job_for(model, method, 1, 1)
    except CrossgapError as reason:
        return str(reason)
    return None


def compiled(job: Job, batch: int, device: str) -> Job:
    """The same job through ``torch.compile``, which takes up to a minute.

    The encoder is compiled for ``batch`` samples alone, so smaller batches will be padded to that number.

    Raises:
        CrossgapError: the encoder, or this machine, can't be compiled for.
    """
    size, encode = max(batch, MIN_ROWS), torch.compile(job.encode, fullgraph=True, dynamic=False)
    tokens = torch.zeros(size, *job.shape, device=device)
    with one_sentence("The encoder can't be compiled here, so leave --compile out"):
        with torch.no_grad():
            encode(tokens)
        encode(tokens.requires_grad_())
    return replace(job, encode=encode, min_batch=size)


# ---------------------------------------------------------------- running them


def run(model: "DualEncoder", source: Embeddings, job: Job, batch_size: int, *, cache: bool) -> Inversion:
    """Inverts all rows of ``source``, or reads what the cache holds of the same job on the same rows.

    Raises:
        CrossgapError: features of another width than the model's.
    """
    if source.features.shape[1] != model.embed_dim:
        raise CrossgapError(
            f"These features have {source.features.shape[1]} dimensions and {model.name} has {model.embed_dim}: "
            "inversion needs features of the model itself."
        )
    facts = _facts(model, source, job, batch_size) if cache else ()
    arrays = kept("inversions", facts) if cache else None
    if arrays is not None:
        found = {name: torch.from_numpy(array) for name, array in arrays.items()}
    else:
        found = _all_batches(source, job, batch_size, model.device)
        if cache:
            keep("inversions", facts, {name: tensor.numpy() for name, tensor in found.items()})
    own = {"modality": job.purpose["method"], "tokens": found.pop("tokens"), "losses": found.pop("losses")}
    shots = {int(step): found[step] for step in sorted(found, key=int)}
    return Inversion(**source.columns() | own | {"features": shots[job.steps], "snapshots": shots})


def _all_batches(source: Embeddings, job: Job, batch_size: int, device: str) -> dict[str, Tensor]:
    """Runs the job on all rows, ``batch_size`` at a time.

    Returns "tokens" (n, k, width), "losses" (steps, n) and, under the number of updates, features (n, d); on the CPU.
    """
    parts = []
    progress = bar(total=len(source), desc=f"{job.purpose['method'].upper()}, {job.steps} steps", unit="sample")
    for start in range(0, len(source), batch_size):
        batch = source[start : start + batch_size]
        parts.append(invert_batch(job, batch, device))
        progress.update(len(batch))
    tokens, losses, kept = zip(*parts, strict=True)
    features = {str(step): torch.cat([part[step] for part in kept]) for step in kept[0]}
    return {"tokens": torch.cat(tokens), "losses": torch.cat(losses, dim=1), **features}


def invert_batch(job: Job, batch: Embeddings, device: str | torch.device) -> tuple[Tensor, Tensor, dict[int, Tensor]]:
    """The loop over one batch on the device, its results on the CPU.

    A batch that is too small is padded with copies of its last row, which are cut off again.
    """
    n, fast = len(batch), job.accelerated
    copies = max(0, job.min_batch - n, MIN_ROWS - n)
    rows = [*range(n), *[n - 1] * copies]
    targets = batch.features[rows].to(device)
    start = fast.begin(targets) if fast else initial_noise(batch.ids, job.shape, job.seed)[rows].to(device)
    if (n, len(rows)) not in job.loops:
        job.loops.clear()
        stepper = fast.stepper if fast else partial(AdamW, eps=n * EPS if job.paper else EPS)
        backward = ScaledGradient(len(rows), device) if job.half else gradient
        job.loops[n, len(rows)] = Loop(job.encode, (targets, start), job.steps, stepper=stepper, backward=backward)
    tokens, losses, kept = job.loops[n, len(rows)](targets, start, job.snapshots)
    return tokens[:n].cpu(), losses[:, :n].cpu(), {step: features[:n].cpu() for step, features in kept.items()}


def _facts(model: "DualEncoder", source: Embeddings, job: Job, batch_size: int) -> tuple[object, ...]:
    """All that the result depends on; the batch size is part of that only in ``paper`` mode."""
    how = (sorted(job.purpose.items()), job.steps, sorted(job.snapshots), job.seed, model.precision)
    batch = batch_size if job.paper else None
    start = job.accelerated and job.accelerated.fingerprint
    rows = (source.features.numpy().tobytes(), source.ids.tolist())
    return _VERSION, *how, job.paper, batch, start, *rows
