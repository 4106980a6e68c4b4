"""Long inversions: killed, resumed, refused, out of disk, twice at once; and the same on a Ray cluster."""

import errno
import json
import multiprocessing
import os
import shutil
import signal
import sys
from dataclasses import replace
from itertools import count
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from crossgap_lib import memory
from crossgap_lib.cli import cli
from crossgap_lib.datasets.load import load_dataset
from crossgap_lib.embeddings.embeddings import Embeddings
from crossgap_lib.embeddings.encode import encode_images, skip_report
from crossgap_lib.embeddings.vector_files import of_json
from crossgap_lib.errors import CrossgapError
from crossgap_lib.inversion.fewer_steps import accelerate
from crossgap_lib.inversion.oti_ovi import oti, ovi
from crossgap_lib.jobs import cluster as on_cluster
from crossgap_lib.jobs import shards
from crossgap_lib.jobs.shard_files import Interrupted, load_shards, shard_path
from crossgap_lib.jobs.shards import Plan, invert_to
from crossgap_lib.jobs.sources import open_source
from crossgap_lib.processes import locked
from crossgap_lib.store import SEAL

N, SHARD = 36, 8  # five shards, the last one half full


@pytest.fixture(scope="module")
def vectors(tmp_path_factory, cats_and_dogs):
    """A file of image features of the mini."""
    _, images, _ = cats_and_dogs
    path = tmp_path_factory.mktemp("vectors") / "images.safetensors"
    images[:N].save(path)
    return path


@pytest.fixture
def plan(vectors):
    return Plan("mini-clip", str(vectors), "oti", steps=6, snapshots=(2,), shard_size=SHARD, batch=5, device="cpu")


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.glob("shard-*"))}


# ---------------------------------------------------------------- what comes out


def test_the_papers_batch_is_that_of_oti(tmp_path, cats_and_dogs):
    """With ``paper`` results depend on the batch; of 70 rows the released code takes 64 and 6 at a time."""
    model, images, _ = cats_and_dogs
    some = Embeddings(np.random.default_rng(0).normal(size=(70, images.features.shape[1])))
    how = {"steps": 2, "paper": True}
    invert_to(tmp_path / "out", Plan("mini-clip", str(some.save(tmp_path / "v.npz")), "oti", device="cpu", **how))
    torch.testing.assert_close(
        load_shards(tmp_path / "out").features, oti(model, some, cache=False, **how).features, atol=1e-5, rtol=0
    )
    assert (Plan("m", "d", "oti").batch, Plan("m", "d", "oti", paper=True, batch=7).batch) == (256, 7)


def test_shards_hold_what_oti_returns(tmp_path, plan, cats_and_dogs):
    model, images, _ = cats_and_dogs
    report = invert_to(tmp_path, plan)
    assert (report.shards, report.done_before, report.rows) == (5, 0, N)
    whole, run = oti(model, images[:N], steps=6, snapshots=(2,), cache=False), load_shards(tmp_path)
    assert run.ids.tolist() == images.ids[:N].tolist()
    assert run.labels.tolist() == images.labels[:N].tolist()
    assert run.class_names == images.class_names
    assert run.texts.tolist() == images.texts[:N].tolist()
    assert (run.modality, sorted(run.snapshots)) == ("oti", [2, 6])
    for name in ("features", "tokens", "losses"):
        torch.testing.assert_close(getattr(run, name), getattr(whole, name), atol=1e-5, rtol=0)
    torch.testing.assert_close(run.at(2).features, whole.at(2).features, atol=1e-5, rtol=0)


def test_ovi_of_lines_of_text(tmp_path, cats_and_dogs):
    model, _, _ = cats_and_dogs
    (tmp_path / "lines.txt").write_text("a photo of a dog\n\na photo of a cat\na red bird\n")
    invert_to(tmp_path / "out", Plan("mini-clip", str(tmp_path / "lines.txt"), "ovi", n=2, steps=3, device="cpu"))
    run = load_shards(tmp_path / "out")
    assert run.ids.tolist() == ["text-000000", "text-000001", "text-000002"]
    assert run.texts.tolist() == ["a photo of a dog", "a photo of a cat", "a red bird"]
    assert run.tokens.shape == (3, 2, 128)
    from crossgap_lib.embeddings.encode import encode_texts

    texts = encode_texts(model, ["a photo of a dog", "a photo of a cat", "a red bird"], cache=False)
    torch.testing.assert_close(run.features, ovi(model, texts, n_patches=2, steps=3, cache=False).features)


def write_photos(photos, n, broken):
    """n drawn cats and dogs in two class folders, of which those named in ``broken`` can't be read."""
    world = load_dataset("world:dogs-vs-cats", n=n)
    for k in range(n):
        folder = photos / ("cat", "dog")[k % 2]
        folder.mkdir(parents=True, exist_ok=True)
        world.picture(k).save(folder / f"{k}.png")
    for name in broken:
        (photos / name).write_bytes(b"no picture")


def test_pictures_that_cannot_be_read_are_counted(tmp_path, cats_and_dogs):
    photos = tmp_path / "photos"
    write_photos(photos, 6, ("cat/0.png", "cat/2.png"))  # the whole first shard
    report = invert_to(tmp_path / "out", Plan("mini-clip", f"folder:{photos}", "oti", steps=2, shard_size=2))
    assert report.rows == 4
    assert len(report.skipped) == 2
    assert "cat/0.png" in str(report)
    run = load_shards(tmp_path / "out")
    assert run.ids.tolist() == ["cat/4.png", "dog/1.png", "dog/3.png", "dog/5.png"]
    native = encode_images(cats_and_dogs[0], load_dataset(f"folder:{photos}"), cache=False)
    assert run.meta["skipped"] == report.skipped == native.meta["skipped"]
    assert skip_report(run) == skip_report(native)
    assert "2 of 6 pictures could not be decoded" in skip_report(run)


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".parquet"])
def test_every_kind_of_file_gives_the_same(tmp_path, plan, vectors, suffix):
    images = Embeddings.load(vectors)
    path = tmp_path / f"images{suffix}"
    np.save(path, images.features.numpy()) if suffix == ".npy" else images.save(path)
    invert_to(tmp_path / "out", replace(plan, data=str(path), steps=2, snapshots=()))
    invert_to(tmp_path / "reference", replace(plan, steps=2, snapshots=()))
    run, reference = load_shards(tmp_path / "out"), load_shards(tmp_path / "reference")
    if suffix == ".npy":  # other ids, other noise
        assert run.ids.tolist() == [f"row-{k:06d}" for k in range(N)]
    else:
        assert torch.equal(run.features, reference.features)


# ---------------------------------------------------------------- the accelerated start


def test_an_accelerated_run_is_what_accelerate_and_oti_give(tmp_path, plan, cats_and_dogs, monkeypatch):
    """Its start is fitted on rows from the whole source, with the run's template."""
    monkeypatch.setattr(shards, "FIT_SAMPLES", 20)
    asked, fit = [], shards.accelerate
    monkeypatch.setattr(shards, "accelerate", lambda *a, **how: asked.append(how) or fit(*a, **how))
    model, images, _ = cats_and_dogs
    words = {"template": "{} with a hat", "seed": 3}
    invert_to(tmp_path, replace(plan, steps=1, snapshots=(), accelerated=True, **words))
    sample = asked[0]["fit_on"]
    assert len(sample) == 20
    assert set(sample.ids) != set(images.ids[:20])
    assert asked[0]["batch_size"] == 5
    fast = accelerate(model, "oti", fit_on=sample, **words)
    whole = oti(model, images[:N], steps=1, accelerated=fast, cache=False, **words)
    torch.testing.assert_close(load_shards(tmp_path).tokens, whole.tokens, atol=1e-4, rtol=0)


def test_enough_pictures_are_drawn_for_the_start_though_some_cannot_be_read(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "FIT_SAMPLES", 18)
    asked, fit = [], shards.accelerate
    monkeypatch.setattr(shards, "accelerate", lambda *a, **how: asked.append(how["fit_on"]) or fit(*a, **how))
    photos = tmp_path / "photos"
    write_photos(photos, 40, [f"cat/{k}.png" for k in range(0, 20, 2)])
    plan = Plan("mini-clip", f"folder:{photos}", "oti", steps=0, accelerated=True, device="cpu")
    assert invert_to(tmp_path / "out", plan).rows == 30
    assert 18 <= len(asked[0]) <= 30
    assert np.bincount(asked[0].labels).min() >= 3
    for k in range(20):
        (photos / f"dog/{2 * k + 1}.png").write_bytes(b"no picture")
    with pytest.raises(CrossgapError, match="fitted on image features: give 16 or more"):  # 10 are left
        invert_to(tmp_path / "few", plan)


@pytest.mark.parametrize("kind", [".npy", ".npz", ".safetensors", "folder", ".txt"])
def test_sources_give_the_rows_that_are_asked_for(tmp_path, cats_and_dogs, vectors, kind):
    model, images, _ = cats_and_dogs
    spec, method = str(tmp_path / f"rows{kind}"), "oti"
    if kind == "folder":
        write_photos(tmp_path / "photos", 8, ())
        spec = f"folder:{tmp_path / 'photos'}"
    elif kind == ".txt":
        (tmp_path / "rows.txt").write_text("\n".join(f"a photo of {k} dogs" for k in range(8)))
        method = "ovi"
    elif kind == ".npy":
        np.save(spec, images[:8].features.numpy())
    else:
        images[:8].save(spec)
    source = open_source(model, spec, method)
    whole, some = source.read(slice(0, 8)).features, source.read(np.array([5, 0, 7])).features
    expected = whole[[5, 0, 7]]
    assert (source.ids is None) == (kind == ".npy")
    assert source.ids is None or source.ids.tolist() == whole.ids.tolist()
    torch.testing.assert_close(some.features, expected.features, atol=1e-5, rtol=0)
    for column in ("ids", "labels", "texts"):
        np.testing.assert_array_equal(getattr(some, column), getattr(expected, column))


# ---------------------------------------------------------------- resumed (tests/faults.py kills)


def test_only_missing_shards_are_computed(tmp_path, plan, monkeypatch):
    invert_to(tmp_path, plan)
    whole = contents(tmp_path)
    shard_path(tmp_path, 1).unlink()
    shard_path(tmp_path, 4).write_bytes(whole["shard-000004.safetensors"][:100])  # damaged
    asked, compute = [], shards.Worker.shard
    monkeypatch.setattr(shards.Worker, "shard", lambda self, k: asked.append(k) or compute(self, k))
    with pytest.raises(CrossgapError, match="1 of 5 shards are missing"):
        load_shards(tmp_path)
    assert invert_to(tmp_path, plan).done_before == 3
    assert asked == [1, 4]
    assert contents(tmp_path) == whole


def raising(error):
    def call(*_):
        raise error

    return call


def uncompiled(monkeypatch, sizes):
    """torch.compile that compiles nothing, and notes the batches that reach the encoder."""

    def compiled(encode, **_):
        return lambda tokens: sizes.append(len(tokens)) or encode(tokens)

    monkeypatch.setattr(torch, "compile", compiled)


def test_whether_it_is_compiled_is_decided_once(tmp_path, plan, monkeypatch):
    sizes = []
    uncompiled(monkeypatch, sizes)
    invert_to(tmp_path, plan, compiled=True)
    assert set(sizes) == {8}, "every batch, of 5 and of 3, is padded to the one size that is compiled for"
    assert json.loads((tmp_path / "manifest.json").read_text())["composition"]["compiled"] is True
    before = contents(tmp_path)
    shard_path(tmp_path, 1).unlink()
    sizes.clear()
    invert_to(tmp_path, plan)
    assert sizes, "the folder's own decision holds"
    assert contents(tmp_path) == before
    with pytest.raises(CrossgapError, match=r"begun with compiled True, not False, which is decided once\."):
        invert_to(tmp_path, plan, compiled=False)


def test_what_cannot_be_compiled_is_one_sentence(tmp_path, plan, monkeypatch):
    def refuse(encode, **_):
        return raising(RuntimeError("no compiler"))

    monkeypatch.setattr(torch, "compile", refuse)
    with pytest.raises(CrossgapError, match="can't be compiled here, so leave --compile out: no compiler"):
        invert_to(tmp_path, plan, compiled=True)
    assert not list(tmp_path.glob("manifest*"))


@pytest.mark.slow
def test_a_compiled_run_goes_on_with_the_same_bits(tmp_path, plan):
    """The compiler runs twice, as in two processes, and the shards are those of the uncompiled run to 1e-5."""
    invert_to(tmp_path / "compiled", plan, compiled=True)
    before = contents(tmp_path / "compiled")
    shard_path(tmp_path / "compiled", 2).unlink()
    invert_to(tmp_path / "compiled", plan)
    assert contents(tmp_path / "compiled") == before
    invert_to(tmp_path / "plain", plan)
    torch.testing.assert_close(
        load_shards(tmp_path / "compiled").features, load_shards(tmp_path / "plain").features, atol=1e-5, rtol=0
    )


def test_the_folder_keeps_its_cut(tmp_path, plan):
    """Shard size, batch and threads are the folder's own: what is asked later by default does not matter."""
    invert_to(tmp_path, plan)
    whole = contents(tmp_path)
    shard_path(tmp_path, 2).unlink()
    invert_to(tmp_path, replace(plan, shard_size=4096, batch=256, threads=2))
    assert contents(tmp_path) == whole
    with pytest.raises(CrossgapError, match="begun with batch 5, not 7"):
        invert_to(tmp_path, plan, batch=7)


def as_format_1(folder):
    """The folder as older versions wrote it: ids and the like as a string of metadata, and no texts."""
    for path in folder.glob("shard-*"):
        tensors = load_file(path)
        facts = of_json(tensors.pop("crossgap_json"))
        del facts["texts"]
        save_file(tensors, path, {"crossgap": json.dumps(facts)})
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"format": 1}))


def test_folders_of_older_versions_are_read_but_not_gone_on_with(tmp_path, plan):
    invert_to(tmp_path, plan)
    new = load_shards(tmp_path)
    as_format_1(tmp_path)
    old = load_shards(tmp_path)
    assert old.ids.tolist() == new.ids.tolist()
    assert torch.equal(old.features, new.features)
    assert old.texts is None
    with pytest.raises(CrossgapError, match="begun by an older version of crossgap"):
        invert_to(tmp_path, plan)


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"steps": 7}, "inversion steps was 6 and is 7"),
        ({"n": 2}, "inversion n was 1 and is 2"),
        ({"seed": 3}, "inversion seed was 0 and is 3"),
        ({"snapshots": ()}, "inversion snapshots"),
        ({"template": "a drawing of"}, "inversion template was a photo of and is a drawing of"),
        ({"precision": "bf16"}, "model precision was fp32 and is bf16"),
    ],
)
def test_another_run_does_not_mix(tmp_path, plan, change, words):
    invert_to(tmp_path, plan)
    whole = contents(tmp_path)
    with pytest.raises(CrossgapError, match=words):
        invert_to(tmp_path, replace(plan, **change))
    assert contents(tmp_path) == whole


def test_another_data_set_or_model_does_not_mix(tmp_path, plan, vectors, monkeypatch):
    invert_to(tmp_path / "out", plan)
    other = Embeddings.load(vectors)[:20]
    other.save(tmp_path / "fewer.safetensors")
    with pytest.raises(CrossgapError, match=r"data fingerprint was .*; data rows was 36 and is 20"):
        invert_to(tmp_path / "out", replace(plan, data=str(tmp_path / "fewer.safetensors")))
    monkeypatch.setattr(shards, "load_model", other_weights(shards.load_model))
    with pytest.raises(CrossgapError, match="model fingerprint was"):
        invert_to(tmp_path / "out", plan)


def other_weights(load):
    def changed(*args, **kwargs):
        model = load(*args, **kwargs)
        model.net.text_projection.data[0, 0] += 1
        return model

    return changed


def test_another_machine_is_said(tmp_path, plan, monkeypatch):
    invert_to(tmp_path, plan)
    shard_path(tmp_path, 0).unlink()
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "ABACUS")
    assert "not bit for bit" in str(invert_to(tmp_path, plan))


def test_two_at_once(tmp_path, plan):
    tmp_path.mkdir(exist_ok=True)
    with locked(tmp_path), pytest.raises(CrossgapError, match="Another process is writing"):
        invert_to(tmp_path, plan)
    invert_to(tmp_path, plan)


@pytest.mark.parametrize(("code", "words"), [(errno.ENOSPC, "No space is left"), (errno.EROFS, "Can't write into")])
def test_full_and_read_only_disks(tmp_path, plan, monkeypatch, code, words):
    """The disk refuses the third shard; the two that are there stay, and the run goes on once there is room."""
    real, calls = os.fsync, count()

    def refuse(descriptor):
        if next(calls) == 3:  # the manifest comes first
            raise OSError(code, os.strerror(code))
        real(descriptor)

    monkeypatch.setattr("os.fsync", refuse)
    with pytest.raises(CrossgapError, match=f"{words}.*are kept"):
        invert_to(tmp_path, plan)
    assert len(contents(tmp_path)) == 2
    assert not list(tmp_path.glob(".shard*"))
    assert invert_to(tmp_path, plan).done_before == 2


def test_a_disk_that_is_really_full(tmp_path, plan):
    """The kernel's own refusal: no file of the child may pass a few bytes."""
    context = multiprocessing.get_context("forkserver")
    child = context.Process(target=invert_with_small_files, args=(tmp_path, plan))
    child.start()
    child.join()
    assert child.exitcode == 7
    assert contents(tmp_path) == {}


def invert_with_small_files(folder, plan):
    import resource

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
    try:
        invert_to(folder, plan)
    except CrossgapError as error:
        os._exit(7 if "No space is left" in str(error) else 8)


def test_a_folder_that_cannot_be_made(plan):
    with pytest.raises(CrossgapError, match="Can't write into"):
        invert_to("/proc/nowhere/out", plan)


def test_interrupted(tmp_path, plan, monkeypatch):
    compute = shards.Worker.shard

    def stop(self, k):
        if k == 2:
            raise KeyboardInterrupt
        return compute(self, k)

    monkeypatch.setattr(shards.Worker, "shard", stop)
    with pytest.raises(Interrupted, match="goes on from there"):
        invert_to(tmp_path, plan)
    assert len(contents(tmp_path)) == 2
    monkeypatch.setattr(shards.Worker, "shard", compute)
    assert invert_to(tmp_path, plan).done_before == 2


def flipped(content: bytes, at: int) -> bytes:
    """With one bit that differs."""
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


def test_shards_that_do_not_hold_what_was_written_are_named_and_done_again(tmp_path, plan):
    """A flipped bit, a shard over another, one of another run, and a link to nowhere."""
    invert_to(tmp_path / "out", plan)
    invert_to(tmp_path / "other", replace(plan, seed=1))
    whole, other = contents(tmp_path / "out"), contents(tmp_path / "other")
    shards = [shard_path(tmp_path / "out", k) for k in range(5)]
    shards[0].write_bytes(flipped(whole[shards[0].name], 5_000))
    shards[1].write_bytes(whole[shards[2].name])
    shards[3].write_bytes(other[shards[3].name])
    shards[4].unlink()
    shards[4].symlink_to(tmp_path / "nowhere")
    with pytest.raises(CrossgapError, match=r"shard-000000\.safetensors is damaged, or was changed.*makes it anew"):
        load_shards(tmp_path / "out")
    report = invert_to(tmp_path / "out", plan)
    assert report.done_before == 1
    named = ", ".join(shards[k].name for k in (0, 1, 3, 4))
    assert f"Done again, since 4 did not hold what was written there: {named}." in str(report)
    assert contents(tmp_path / "out") == whole
    assert not (tmp_path / "nowhere").exists()


def edited(*path, value=None):
    """A change of a manifest: the value at ``path`` becomes another, or is left out."""

    def edit(manifest):
        *parents, last = path
        for name in parents:
            manifest = manifest[name]
        manifest.pop(last)
        manifest.update({} if value is None else {last: value})

    return edit


EDITS = {
    "no data": edited("data"),
    "no rows": edited("data", "rows"),
    "rows without end": edited("data", "rows", value=10**18),
    "rows as a word": edited("data", "rows", value="36"),
    "rows as a fraction": edited("data", "rows", value=36.0),
    "no shard size": edited("composition", "shard_size", value=0),
    "shards of one": edited("composition", "shard_size", value=1),
    "a list of parts": edited("inversion", value=["steps", 6]),
    "steps that were not taken": edited("inversion", "steps", value=5),
    "another method": edited("inversion", "method", value={"oti": 1}),
    "threads without end": edited("composition", "threads", value=10**9),
    "no format": edited("format"),
    "another format": edited("format", value=99),
    "a list as format": edited("format", value=[3]),
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory, vectors):
    folder = tmp_path_factory.mktemp("finished")
    invert_to(folder, Plan("mini-clip", str(vectors), "oti", steps=6, snapshots=(2,), shard_size=SHARD, device="cpu"))
    return folder


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
@pytest.mark.parametrize("older", [False, True])
def test_edited_manifests_are_refused_in_a_sentence(tmp_path, plan, finished, edit, older):
    """Those of older versions carry no seal, so what they say is taken, but each reading comes to an end."""
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    manifest = json.loads((out / "manifest.json").read_text())
    if older:
        del manifest[SEAL]
        manifest["format"] = 2
    edit(manifest)
    (out / "manifest.json").write_text(json.dumps(manifest))
    for read in (lambda: load_shards(out), lambda: invert_to(out, plan)):
        try:
            read()
            refused = ""
        except CrossgapError as error:
            refused = str(error)
        assert (refused and "\n" not in refused) or older
    assert contents(out) == contents(finished)


@pytest.mark.parametrize("content", [b"{", b"\xff", b"[" * 100_000, b"[]", b"", b"3"])
def test_damaged_manifests_are_refused(tmp_path, plan, content):
    (tmp_path / "manifest.json").write_bytes(content)
    for read in (lambda: load_shards(tmp_path), lambda: invert_to(tmp_path, plan)):
        with pytest.raises(CrossgapError, match=r"manifest\.json"):
            read()


def test_what_cannot_be_inverted(tmp_path, plan, vectors):
    Embeddings(torch.eye(128)[:4], modality="text").save(tmp_path / "texts.safetensors")
    np.save(tmp_path / "wide.npy", np.ones((3, 17), np.float32))
    np.save(tmp_path / "objects.npy", np.array([{}, {}]), allow_pickle=True)
    (tmp_path / "empty.txt").write_text("\n\n")
    cases = [
        ({"data": str(tmp_path / "texts.safetensors")}, "holds those of modality 'text'"),
        ({"data": str(tmp_path / "wide.npy")}, "features of the model itself"),
        ({"data": str(tmp_path / "objects.npy")}, "pickled"),
        ({"data": str(tmp_path / "none.npz")}, "no embeddings file"),
        ({"data": str(tmp_path / "empty.txt")}, "holds texts"),
        ({"data": str(tmp_path / "empty.txt"), "method": "ovi"}, "holds no text"),
        ({"n": 99}, "don't fit"),
        ({"model": "mini-clop"}, "mini-clip"),
    ]
    for k, (change, words) in enumerate(cases):
        with pytest.raises(CrossgapError, match=words):
            invert_to(tmp_path / f"out-{k}", replace(plan, **change))
    with pytest.raises(CrossgapError, match="no inversion"):
        load_shards(tmp_path)


# ---------------------------------------------------------------- the command, the budget


def test_the_command(tmp_path, vectors):
    out = str(tmp_path / "out")
    args = ["invert", "--model", "mini-clip", "--data", str(vectors), "--method", "oti", "--out", out, "--steps", "2"]
    made = CliRunner().invoke(cli, [*args, "--shard-size", "20", "--memory", "100M"])
    assert made.exit_code == 0, made.output
    assert "36 rows in 2 shards (0 were there)" in made.output
    again = CliRunner().invoke(cli, args)
    assert "(2 were there)" in again.output
    other = CliRunner().invoke(cli, [*args[:-1], "3"])
    assert other.exit_code == 1
    assert "inversion steps was 2 and is 3" in other.output
    both = CliRunner().invoke(cli, [*args, "--memory", "1G", "--batch", "8"])
    assert both.exit_code == 2


def test_a_budget_that_is_too_small_is_refused_and_marks_nothing(tmp_path, plan, monkeypatch):
    """A pretended 10 MiB + 1 MiB a sample; the 36 rows are one shard, and sizes beyond them are not tried."""
    asked = []
    monkeypatch.setattr(memory, "_peak", lambda run, n, device: asked.append(n) or (10 + n) * 2**20)
    plan = replace(plan, shard_size=1000, steps=1, snapshots=())
    with pytest.raises(CrossgapError, match="8 samples take 18 MiB here, more than the budget of 2 MiB"):
        invert_to(tmp_path, plan, budget=2 * 2**20)
    assert not (tmp_path / "manifest.json").exists()
    assert invert_to(tmp_path, plan, budget=30 * 2**20).batch == 16
    assert invert_to(tmp_path / "more", plan, budget=500 * 2**20).batch == N
    assert max(asked) == N


# ---------------------------------------------------------------- past one machine


def fake_ray(failures):
    """A Ray whose ``init`` fails so often, as on a machine too busy to start it in time, and the calls it got."""
    calls = []

    def init(**_):
        calls.append("init")
        if calls.count("init") <= failures:
            raise RuntimeError("The current node timed out during startup.")

    return SimpleNamespace(init=init, shutdown=lambda: calls.append("shutdown")), calls


def test_a_cluster_on_this_machine_gets_a_second_chance():
    ray, calls = fake_ray(failures=1)
    on_cluster._connect(ray, None, 2)
    assert calls == ["init", "shutdown", "init"]
    ray, calls = fake_ray(failures=2)
    with pytest.raises(CrossgapError, match="No Ray cluster answers at this machine: The current node timed out"):
        on_cluster._connect(ray, None, 2)
    assert calls.count("init") == 2
    ray, calls = fake_ray(failures=1)
    with pytest.raises(CrossgapError, match="answers at head:6379"):
        on_cluster._connect(ray, "head:6379", 2)
    assert calls == ["init"]


def test_without_ray_the_command_says_how_to_get_it(tmp_path, vectors, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)  # importing it fails
    args = ["--model", "mini-clip", "--data", str(vectors), "--method", "oti", "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(cli, ["invert", *args, "--engine", "ray"])
    assert done.exit_code == 1
    assert "pip install -e '.[cluster]' in the checkout" in done.output


@pytest.fixture(scope="module")
def cluster():
    ray = pytest.importorskip("ray")
    on_cluster._connect(ray, None, 2)
    yield ray
    ray.shutdown()


@pytest.mark.slow
def test_ray_gives_the_same_bytes_though_a_worker_dies(tmp_path, plan, cluster):
    plan = replace(plan, shard_size=4, steps=30, snapshots=())
    invert_to(tmp_path / "here", plan)
    engine, killed = on_cluster.on_ray(workers=2), []

    def with_a_murder(worker, todo):
        for done, (k, content) in enumerate(engine(worker, todo)):
            if done == 1:
                killed.extend(kill_one_worker())
            yield k, content

    report = invert_to(tmp_path / "ray", plan, engine=with_a_murder)
    assert len(killed) == 1
    assert report.rows == N
    assert contents(tmp_path / "ray") == contents(tmp_path / "here")


def kill_one_worker():
    """SIGKILL to one of the processes that hold an actor of ours; returns its pid."""
    actors = [p for p in psutil.process_iter(["cmdline"]) if "MapWorker" in " ".join(p.info["cmdline"] or ())]
    actors[0].kill()
    return [actors[0].pid]
