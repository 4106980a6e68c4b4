"""How people write the name of a model, and how ``load_model`` does."""

import re
from pathlib import Path

import open_clip
import timm
from huggingface_hub import constants as hub

TRANSFORMERS = {  # repositories that hold, for transformers, the weights that open_clip or timm know under other names
    "openai/clip-vit-base-patch32": "ViT-B-32-quickgelu,openai",
    "openai/clip-vit-base-patch16": "ViT-B-16-quickgelu,openai",
    "openai/clip-vit-large-patch14": "ViT-L-14-quickgelu,openai",
    "openai/clip-vit-large-patch14-336": "ViT-L-14-336-quickgelu,openai",
    "google/siglip-base-patch16-224": "ViT-B-16-SigLIP,webli",
    "google/siglip2-base-patch16-224": "ViT-B-16-SigLIP2,webli",
    "facebook/dinov2-small": "timm:vit_small_patch14_dinov2.lvd142m",
    "facebook/dinov2-base": "timm:vit_base_patch14_dinov2.lvd142m",
    "facebook/dinov2-large": "timm:vit_large_patch14_dinov2.lvd142m",
}


def spelled(spec: str) -> str:
    """``spec`` as ``load_model`` documents it, where people write the same model otherwise."""
    name, comma, weights = spec.removeprefix(f"{hub.ENDPOINT}/").partition(",")
    flat = name.replace("/", "-").replace("@", "-").removesuffix("px")  # OpenAI writes ViT-L/14@336px
    if flat in open_clip.list_models():
        return flat + comma + weights
    if "/" in spec and Path(spec).expanduser().is_dir():
        return f"local-dir:{spec}"
    on_hub = re.fullmatch(r"(timm:)?(hf[-_]hub:)?([\w.-]+/[\w.-]+)", name)
    if on_hub is None or (weights and not any(on_hub.groups()[:2])):
        return spec
    of_timm, _, repo = on_hub.groups()
    as_timm, published = f"timm:{repo.removeprefix('timm/')}", _published_in(repo)
    if as_timm in timm_names() and (of_timm or not published):
        return as_timm + comma + weights
    return (published[0] if published else TRANSFORMERS.get(repo, f"hf-hub:{repo}")) + comma + weights


def _published_in(repo: str) -> list[str]:
    """NAME,TAG of the published weights that lie in a repository of the hub, that of its own name first."""
    found = [pair for pair in open_clip.list_pretrained() if _repo(*pair) == repo]
    return [f"{arch},{tag}" for arch, tag in sorted(found, key=lambda pair: pair[0] != repo.partition("/")[2])]


def _repo(arch: str, tag: str) -> str:
    return open_clip.get_pretrained_cfg(arch, tag).get("hf_hub", "").strip("/")


def timm_names() -> list[str]:
    return [f"timm:{name}" for name in [*timm.list_models(), *timm.list_pretrained()]]
