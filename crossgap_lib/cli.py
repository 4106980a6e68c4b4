"""``crossgap``: the command line. Commands import what they need when they run, so that ``--help`` is quick."""

import datetime
import errno
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import yaml

from crossgap_lib.errors import CrossgapError, printable
from crossgap_lib.paths import MINIS, NOTEBOOKS

if TYPE_CHECKING:
    from crossgap_lib.embeddings.embeddings import Embeddings
    from crossgap_lib.runner.notebooks import Run

SAVED = (".npz", ".parquet", ".safetensors")  # what Embeddings.save writes, checked here before hours of encoding
FILE = click.Path(exists=True, dir_okay=False)
DEVICE = click.option("--device", metavar="DEVICE", help="cpu, cuda, cuda:1, ...; CUDA by default, if there is one.")
SKIP_BAD = click.option(
    "--skip-bad",
    is_flag=True,
    expose_value=False,
    callback=lambda ctx, _, skip: _skip_bad(ctx) if skip else None,
    help="Leave out what is bad among good rows (a missing picture, a broken line, a vector of zeros), and count it.",
)
MODEL_HELP = "mini-clip; NAME,TAG; NAME,PATH; NAME,random; local-dir:PATH or timm:NAME."
DATA_HELP = "world:all, folder:PATH, captions:FILE, wds:FILES or a named set, see `crossgap datasets`."


def _skip_bad(ctx: click.Context) -> None:
    """Tells the readers of this process, and of those that it starts, by the environment."""
    from crossgap_lib.processes import environment

    ctx.with_resource(environment(CROSSGAP_SKIP_BAD="1"))


def _echo(text: object, **how: bool) -> None:
    """Prints names of files and classes as they are written: a terminal would obey an escape sequence in one."""
    click.echo(printable(str(text)), **how)


def _in_a_line(text: object) -> str:
    return printable(" ".join(str(text).split()))


_OF_THE_DISK = (errno.ENOSPC, errno.EROFS, errno.EACCES)


class _Polite(click.Group):
    """Ends errors for people, and a disk that is full or can only be read, with one line and exit code 1.

    Ctrl-C is one line, too, and 130.

    All other errors are bugs, and keep their traceback.
    """

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except CrossgapError as error:
            raise click.ClickException(_in_a_line(error)) from error
        except OSError as error:
            if error.errno not in _OF_THE_DISK:
                raise
            where = error.filename or "a file"
            told = f"{where} can't be used ({error.strerror}): make room, or name another place."
            raise click.ClickException(_in_a_line(told)) from error
        except KeyboardInterrupt as stop:
            _echo(str(stop) or "Interrupted.", err=True)
            ctx.exit(130)


@click.group(cls=_Polite, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="crossgap", prog_name="crossgap")
def cli() -> None:
    """The modality gap and the intra-modal misalignment of CLIP-like models, in notebooks."""


def main() -> None:
    """What the command ``crossgap`` runs."""
    warnings.formatwarning = lambda message, *_: f"Warning: {_in_a_line(message)}\n"
    cli(prog_name="crossgap")


_WORDS = {"": "", "None": None, "null": None, "true": True, "True": True, "false": False, "False": False}


def typed(text: str) -> Any:
    """The value that ``-p NAME VALUE`` means: numbers, true, false and None as papermill reads them; lists as in YAML.

    All else stays text, also what YAML would take for something else: "a: b" is no mapping, "yes" no truth value,
    "1:30" no number, "2024-01-02" no date, and " #" starts no comment.
    """
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            pass
    if text in _WORDS:
        return _WORDS[text]
    try:
        value = yaml.safe_load(text) if text.startswith(("[", "'", '"')) else text
    except yaml.YAMLError:
        return text
    parts = value if isinstance(value, list) else [value]
    return text if any(isinstance(part, dict | set | datetime.date) for part in parts) else value


# ---------------------------------------------------------------- figures


@cli.command()
@click.option("--only", multiple=True, metavar="NN", help="A notebook by number or name; may be repeated.")
@click.option("--model", metavar="SPEC", help=MODEL_HELP)
@click.option("--models", metavar="SPEC;SPEC", help="Several models, for the notebooks that compare them.")
@click.option("--data", metavar="SPEC", help=DATA_HELP)
@click.option("--embeddings", type=FILE, metavar="FILE", help="A file of features, which takes the place of a model.")
@DEVICE
@SKIP_BAD
@click.option("-p", "extra", nargs=2, multiple=True, metavar="NAME VALUE", help="Any parameter of the notebooks.")
@click.option("--force", is_flag=True, help="Also run the notebooks whose figures are up to date.")
@click.option("--jobs", type=click.IntRange(1), default=1, metavar="N", help="So many notebooks run at the same time.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, writable=True, path_type=Path),
    metavar="DIR",
    help="Default: figures/; figures/runs/ if a parameter is set.",
)
def figures(
    only: tuple[str, ...], extra: tuple[tuple[str, str], ...], force: bool, jobs: int, out: Path | None, **flags: Any
) -> None:
    """Run the notebooks that are stale and write their figures.

    A run with other parameters than the notebooks' own goes to a folder of its own below figures/runs/.
    """
    from crossgap_lib.runner.notebooks import run_notebooks
    from crossgap_lib.runner.site import write_index

    parameters = {name: value for name, value in flags.items() if value is not None}
    more = {name: typed(value) for name, value in extra}
    how = {"force": force, "jobs": jobs, "notebooks": NOTEBOOKS, "out": out}
    runs = run_notebooks(only, parameters, more, **how, report=_say)
    _echo(f"Figures: {_near(write_index(runs[0].out, NOTEBOOKS))}")
    if any(run.status == "failed" for run in runs):
        sys.exit(1)


def _say(run: "Run") -> None:
    what = {"ran": f"ran in {run.seconds:.0f} s", "failed": f"failed in {run.message}"}
    what["left out"] = "left out, since nothing that was set changes it"
    _echo(f"{run.name:<29}{what.get(run.status, run.status)}")
    if (failed := run.out / f"{run.name}.failed.ipynb").exists():  # not where the disk is full, or its process died
        _echo(f"{'':<29}see {_near(failed)}")


def _near(path: Path) -> str:
    """The path, relative to the current folder if it lies in it."""
    path = Path(path).absolute()
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


# ---------------------------------------------------------------- embed, pretrain, zoo, fetch, datasets


@cli.command()
@click.option("--model", required=True, metavar="SPEC", help=MODEL_HELP)
@click.option("--data", metavar="SPEC", help=f"Encode its pictures: {DATA_HELP}")
@click.option("--texts", type=FILE, metavar="FILE", help="Encode its lines (UTF-8); blank ones are left out.")
@click.option("--out", required=True, type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help=".npz, ...")
@DEVICE
@SKIP_BAD
def embed(model: str, data: str | None, texts: str | None, out: Path, device: str | None) -> None:
    """Write the features of pictures or texts to a file."""
    if (data is None) == (texts is None):
        raise click.UsageError("Give either --data or --texts.")
    if out.suffix not in SAVED:
        raise CrossgapError(f"Can't save {out.name}: choose {', '.join(SAVED)}.")
    from crossgap_lib.store import check_writable

    check_writable(out)
    made = _embed(model, data, texts, device)
    made.save(out)
    n, d = made.features.shape
    _echo(f"{out}: n = {n}, d = {d}")


def _embed(model: str, data: str | None, texts: str | None, device: str | None) -> "Embeddings":
    from crossgap_lib.datasets.files import read_lines
    from crossgap_lib.datasets.load import load_dataset
    from crossgap_lib.embeddings.encode import encode_images, encode_texts, skip_report
    from crossgap_lib.models.load import load_model

    if texts is not None:
        lines = list(read_lines(Path(texts)).values())
        return encode_texts(load_model(model, device=device), lines)
    pictures = load_dataset(data)
    made = encode_images(load_model(model, device=device), pictures)
    _echo(skip_report(made))
    return made


@cli.command()
@click.argument("name", required=False)
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), metavar="DIR", help="Where the model goes.")
@DEVICE
@click.option("--set", "changes", multiple=True, metavar="KEY=VALUE", help="Another value for a field of the recipe.")
@click.option(
    "--grid",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Instead, the nanos of a TOML file; their measurements go beside it.",
)
@click.option(
    "--jobs", type=click.IntRange(1), default=1, metavar="N", help="Nanos of a grid at once, sharing the cores."
)
def pretrain(
    name: str | None, out: Path | None, device: str | None, changes: tuple[str, ...], grid: Path | None, jobs: int
) -> None:
    """Train a mini model from nothing, or a grid of nanos; an interrupted run goes on where it was."""
    from crossgap_lib.pretrain import pretrain

    if (name is None) == (grid is None) or (grid and (out or changes)):
        raise click.UsageError("Give either NAME, with --out and --set, or --grid.")
    if grid:
        from crossgap_lib.pretrain.grid import train_grid

        _echo(f"The measurements are in {_near(train_grid(grid, jobs=jobs, device=device, report=_echo))}")
        return
    folder = pretrain(name, out=out, device=device, overrides=dict(map(_change, changes)))
    _echo(f"{name} is in {_near(folder)}")


def _change(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals:
        raise CrossgapError(f"--set takes KEY=VALUE, not {text!r}.")
    return key, typed(value)


@cli.command()
@click.option("--measure", is_flag=True, help="Measure the numbers again, a minute for each model.")
def zoo(measure: bool) -> None:
    """Print the cards of the shipped minis, one column each."""
    from crossgap_lib.pretrain.cards import remeasure, zoo

    for folder in sorted(MINIS.glob("mini-*")) if measure else ():
        remeasure(folder)
    _echo(zoo().T.to_string(na_rep="-"))


@cli.command()
@click.argument("spec")
def fetch(spec: str) -> None:
    """Download a model (weights and tokenizer) or a data set (NAME:PATH), for offline use."""
    prefix, colon, _ = spec.partition(":")
    if colon and prefix not in ("timm", "local-dir") and "," not in prefix:
        from crossgap_lib.datasets.named.fetch import fetch_dataset as fetch_it
    else:
        from crossgap_lib.models.load import fetch_model as fetch_it
    _echo(fetch_it(spec))


@cli.command()
def datasets() -> None:
    """List the data sets: what they are, which tables of the papers they serve, how to get them."""
    from crossgap_lib.datasets.named.table import listing

    _echo(listing())


# ---------------------------------------------------------------- invert, bench


@cli.command()
@click.option("--model", required=True, metavar="SPEC", help=MODEL_HELP)
@click.option("--data", required=True, metavar="SPEC", help=f"{DATA_HELP} Or a file of embeddings, or texts (.txt).")
@click.option("--method", required=True, type=click.Choice(["oti", "ovi"]))
@click.option("--out", required=True, type=click.Path(file_okay=False, path_type=Path), metavar="DIR")
@click.option("--n", default=1, show_default=True, metavar="K", help="Pseudo-tokens (OTI) or pseudo-patches (OVI).")
@click.option("--steps", type=int, metavar="STEPS", help="Gradient steps; as published, 150 for OTI and 1000 for OVI.")
@click.option("--template", default="a photo of", show_default=True, help="The prompt before OTI's pseudo-tokens.")
@click.option("--snapshot", "snapshots", type=int, multiple=True, metavar="STEP", help="Also keep these features.")
@click.option("--seed", default=0, show_default=True)
@click.option("--accelerated", is_flag=True, help="Far fewer steps; not the published method.")
@click.option("--precision", type=click.Choice(["fp32", "bf16", "fp16"]), default="fp32", show_default=True)
@click.option("--shard-size", type=click.IntRange(1), metavar="ROWS", help="Rows in a file; 4096 for a new folder.")
@click.option("--batch", type=click.IntRange(1), metavar="N", help="Samples in a batch; 256 for a new folder.")
@click.option("--memory", metavar="BYTES", help="Choose --batch so that it takes at most this, as 800M or 2G.")
@click.option(
    "--compile/--no-compile",
    "compiled",
    default=None,
    help="Compile the encoder first, which takes a minute and then saves up to a third; fixed for a folder.",
)
@click.option("--engine", type=click.Choice(["local", "ray"]), default="local", show_default=True)
@click.option("--workers", type=click.IntRange(1), default=2, show_default=True, help="Processes of --engine ray.")
@click.option("--address", metavar="HOST:PORT", help="The Ray cluster; by default a local one is started.")
@DEVICE
@SKIP_BAD
def invert(out: Path, steps: int | None, snapshots: tuple[int, ...], **how: Any) -> None:
    """Invert a whole data set into a folder of shards; run it again to go on where it stopped."""
    import torch

    from crossgap_lib.inversion import fewer_steps
    from crossgap_lib.jobs.shards import STEPS, Plan, here, invert_to
    from crossgap_lib.memory import parse_bytes

    engine, workers, address = how.pop("engine"), how.pop("workers"), how.pop("address")
    cut = {name: how.pop(name) for name in ("shard_size", "batch", "compiled")}
    memory = how.pop("memory")
    if memory and cut["batch"]:
        raise click.UsageError("Give either --batch or --memory.")
    threads = torch.get_num_threads() if engine == "local" else max(1, torch.get_num_threads() // workers)
    steps = (fewer_steps.STEPS if how["accelerated"] else STEPS)[how["method"]] if steps is None else steps
    plan = Plan(**how, steps=steps, snapshots=tuple(sorted(snapshots)), threads=threads)
    if engine == "ray":
        from crossgap_lib.jobs.cluster import on_ray

        run = on_ray(workers, address)
    else:
        run = here
    _echo(str(invert_to(out, plan, **cut, budget=parse_bytes(memory) if memory else None, engine=run)))


JSON = click.option("--json", "json_out", metavar="FILE|-", help="Write all measurements as JSON; - prints them.")


@cli.group()
def bench() -> None:
    """Time the library beside a textbook implementation, in one run on this machine."""


def _bench_inversion(method: str, what: str) -> None:
    """Adds ``bench oti`` or ``bench ovi``, which take the same options."""

    @bench.command(method, help=f"Time the inversion engine beside the textbook loop: {what}.")
    @click.option("--arch", default="ViT-B-32", show_default=True, metavar="NAME", help="An open_clip name, or a mini.")
    @click.option("--batch", default="32,128,512", show_default=True, metavar="N,N,...", help="Batch sizes to time.")
    @click.option("--n", default=1, show_default=True, metavar="K", help="Pseudo-tokens (OTI) or pseudo-patches (OVI).")
    @click.option("--precision", type=click.Choice(["fp32", "bf16", "fp16"]), default="fp32", show_default=True)
    @click.option("--seconds", default=4.0, show_default=True, help="Each loop and batch is timed so long at least.")
    @click.option("--sweep/--no-sweep", default=True, help="Also over context lengths (OTI) or picture sizes (OVI).")
    @click.option("--compile", is_flag=True, help="The compiled engine as well; it takes up to a minute a batch size.")
    @JSON
    @click.option("--figure", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="PNG (and SVG).")
    @DEVICE
    def run(batch: str, json_out: str | None, figure: Path | None, seconds: float, **how: Any) -> None:
        from crossgap_lib import plots
        from crossgap_lib.runner import bench

        result = bench.bench(method, how.pop("arch"), _batches(batch), at_least=seconds, **how)
        _report(result, bench.summary(result), json_out)
        if figure:
            plots.save_figure(plots.bench_curves(result), figure.parent, figure.stem)


_bench_inversion("oti", "pictures to texts")
_bench_inversion("ovi", "texts to pictures")


@bench.command("retrieval")
@click.option("--queries", default=2000, show_default=True, metavar="N")
@click.option("--gallery", default=100_000, show_default=True, metavar="N", help="Items, written to a float16 file.")
@click.option("--dim", "d", default=512, show_default=True, metavar="D", help="Dimensions.")
@click.option("--classes", type=int, metavar="N", help="Of the items; by default, classes as large as ImageNet's.")
@click.option("--memory", default="512M", show_default=True, metavar="BYTES", help="Memory that retrieval may take.")
@JSON
@DEVICE
def bench_retrieval(json_out: str | None, memory: str, **how: Any) -> None:
    """Time exact retrieval from a large gallery beside a textbook that sorts each query's similarities."""
    from crossgap_lib.memory import parse_bytes
    from crossgap_lib.runner import bench_retrieval

    result = bench_retrieval.bench(**how, memory=parse_bytes(memory))
    _report(result, bench_retrieval.summary(result), json_out)


def _report(result: dict[str, Any], summary: str, json_out: str | None) -> None:
    import json

    _echo(summary, err=json_out == "-")
    if json_out == "-":
        _echo(json.dumps(result, indent=2))
    elif json_out:
        Path(json_out).parent.mkdir(parents=True, exist_ok=True)
        Path(json_out).write_text(json.dumps(result, indent=2) + "\n")


def _batches(text: str) -> list[int]:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts or not all(part.isdigit() and int(part) > 0 for part in parts):
        raise CrossgapError(f"--batch takes sizes such as 32,128,512, not {text!r}.")
    return sorted({int(part) for part in parts})


@cli.command()
@click.option("--d", default=512, show_default=True, type=click.IntRange(1), metavar="D", help="Dimensions.")
@click.option("--n", default=200_000, show_default=True, type=click.IntRange(1), metavar="N", help="Images, and texts.")
@click.option("--tolerance", default=1e-10, show_default=True, metavar="T", help="Of the least-squares iteration.")
@click.option("--seed", default=0, show_default=True)
def dof(d: int, n: int, tolerance: float, seed: int) -> None:
    """Recover image-image from image-text similarities at full size (notebook 07), and time it."""
    from crossgap_lib.tasks.degrees_of_freedom import benchmark

    for topic, found in benchmark(d, n, tolerance=tolerance, seed=seed).items():
        _echo(f"{topic + ':':<16}{found:.6g}" if found is not None else f"{topic + ':':<16}unknown")


# ---------------------------------------------------------------- doctor


@cli.command()
@click.option("--clear-cache", "clear", is_flag=True, help="Instead, remove the results kept in the cache.")
def doctor(clear: bool) -> None:
    """Say what this machine has: device, versions, cache, weights."""
    from crossgap_lib.runner.doctor import clear_cache, findings

    if clear:
        _echo("\n".join(clear_cache()))
        return
    for topic, found in findings().items():
        _echo(f"{topic + ':':<16}{found}")
