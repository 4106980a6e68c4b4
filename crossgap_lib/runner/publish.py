"""``make publish``: what README shows of the default run, copied from ``figures/`` to ``figures/published/``.

Those files are tracked, so that README has pictures and verdicts where nothing was run; all other figures are made by
``make figures`` and stay out of the repository. ``run.json`` says when, where and with what they were made.
"""

import json
import re
import shutil
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from crossgap_lib.errors import CrossgapError
from crossgap_lib.paths import ROOT
from crossgap_lib.runner.bench import device_name
from crossgap_lib.runner.site import scoreboard
from crossgap_lib.store import whole
from crossgap_lib.tasks.claims import read_claims

_PICTURE = re.compile(r"\(figures/published/(\d\d_\w+/[\w-]+\.png)\)")
_BOARD = re.compile(r"(<!-- scoreboard -->\n).*?(<!-- end of scoreboard -->)", re.DOTALL)
_PACKAGES = ("torch", "open_clip_torch", "numpy", "umap-learn", "scikit-learn", "matplotlib")


def publish(root: Path = ROOT) -> list[Path]:
    """Copies README's pictures and all claims to figures/published and writes README's scoreboard; returns the files.

    Args:
        root: the checkout.

    Raises:
        CrossgapError: a picture that README shows, or the claims, are not among the figures.
    """
    readme, out, published = root / "README.md", root / "figures", root / "figures" / "published"
    text = readme.read_text(encoding="utf-8")
    wanted = [*dict.fromkeys(_PICTURE.findall(text)), "claims.csv"]
    if missing := [name for name in wanted if not (out / name).is_file()]:
        raise CrossgapError(f"{', '.join(missing)} can't be published before `make figures` has made it.")
    for name in wanted:
        (published / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(out / name, published / name)
    facts = {"published": datetime.now(UTC).date().isoformat(), "machine": device_name("cpu")}
    facts |= {package: metadata.version(package) for package in _PACKAGES}
    with whole(published / "run.json") as part:
        part.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    board = scoreboard(read_claims(published / "claims.csv"), root / "notebooks", "notebooks/")
    with whole(readme) as part:
        part.write_text(_BOARD.sub(lambda found: f"{found[1]}\n{board}\n\n{found[2]}", text), encoding="utf-8")
    return [published / name for name in (*wanted, "run.json")]


if __name__ == "__main__":
    for path in publish():
        print(path.relative_to(ROOT))
