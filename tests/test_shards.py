"""Long inversions: killed, resumed, refused, out of disk, twice at once; and the same on a Ray cluster."""

import errno
import multiprocessing
import os
import random
import signal
import time
from dataclasses import replace
from itertools import count

import numpy as np
import psutil
import pytest
import torch
from click.testing import CliRunner

from crossgap_lib import shard_files, shards
from crossgap_lib.cli import cli
from crossgap_lib.embeddings import Embeddings
from crossgap_lib.errors import CrossgapError
from crossgap_lib.inversion import oti, ovi
from crossgap_lib.shard_files import Interrupted, load_shards, shard_path
from crossgap_lib.shards import Plan, invert_to

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


def test_shards_hold_what_oti_returns(tmp_path, plan, cats_and_dogs):
    model, images, _ = cats_and_dogs
    report = invert_to(tmp_path, plan)
    assert (report.shards, report.done_before, report.rows) == (5, 0, N)
    whole, run = oti(model, images[:N], steps=6, snapshots=(2,), cache=False), load_shards(tmp_path)
    assert run.ids.tolist() == images.ids[:N].tolist()
    assert run.labels.tolist() == images.labels[:N].tolist()
    assert run.class_names == images.class_names
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
    assert run.tokens.shape == (3, 2, 128)
    from crossgap_lib.encoding import encode_texts

    texts = encode_texts(model, ["a photo of a dog", "a photo of a cat", "a red bird"], cache=False)
    torch.testing.assert_close(run.features, ovi(model, texts, n_patches=2, steps=3, cache=False).features)


def test_pictures_that_cannot_be_read_are_counted(tmp_path, cats_and_dogs):
    from crossgap_lib.datasets import load_dataset

    world, photos = load_dataset("world:dogs-vs-cats", n=6), tmp_path / "photos"
    for k in range(6):
        folder = photos / ("cat", "dog")[k % 2]
        folder.mkdir(parents=True, exist_ok=True)
        world.picture(k).save(folder / f"{k}.png")
    for name in ("cat/0.png", "cat/2.png"):  # the whole first shard
        (photos / name).write_bytes(b"no picture")
    report = invert_to(tmp_path / "out", Plan("mini-clip", f"folder:{photos}", "oti", steps=2, shard_size=2))
    assert report.rows == 4
    assert len(report.skipped) == 2
    assert "cat/0.png" in str(report)
    assert load_shards(tmp_path / "out").ids.tolist() == ["cat/4.png", "dog/1.png", "dog/3.png", "dog/5.png"]


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


# ---------------------------------------------------------------- killed and resumed


def invert_in_child(folder, plan):
    os.environ["CROSSGAP_HEADLESS"] = "1"
    invert_to(folder, plan)


@pytest.mark.slow
def test_killed_at_twenty_random_moments(tmp_path, plan):
    """SIGKILL, resume, and so on; in the end the same bytes, and no finished shard was written twice."""
    plan = replace(plan, steps=20, snapshots=())
    context = multiprocessing.get_context("forkserver")  # clean children that have torch loaded already
    context.set_forkserver_preload(["crossgap_lib.shards", "open_clip"])
    for name in ("warm", "whole"):  # the first one also starts the fork server
        started = time.monotonic()
        child = context.Process(target=invert_in_child, args=(tmp_path / name, plan))
        child.start()
        child.join()
    lasts, rng, kills, births = time.monotonic() - started, random.Random(0), 0, {}
    folders = (tmp_path / f"killed-{k}" for k in count())
    folder, finished = next(folders), []
    while kills < 20:
        child = context.Process(target=invert_in_child, args=(folder, plan))
        child.start()
        child.join(timeout=rng.uniform(0.1, 0.9) * lasts)
        if child.exitcode is None:
            os.kill(child.pid, signal.SIGKILL)
            kills += 1
        child.join()
        assert child.exitcode in (0, -signal.SIGKILL)
        now = {path: path.stat().st_mtime_ns for path in folder.glob("shard-*")}
        assert births.items() <= now.items()  # what was finished is untouched
        births = now
        if child.exitcode == 0:
            finished.append(folder)
            folder, births = next(folders), {}
    invert_to(folder, plan)
    for path in (*finished, folder):
        assert contents(path) == contents(tmp_path / "whole")


def test_only_missing_shards_are_computed(tmp_path, plan, monkeypatch):
    invert_to(tmp_path, plan)
    whole = contents(tmp_path)
    shard_path(tmp_path, 1).unlink()
    shard_path(tmp_path, 4).write_bytes(whole["shard-000004.safetensors"][:100])  # damaged
    asked, compute = [], shards.Worker.shard
    monkeypatch.setattr(shards.Worker, "shard", lambda self, k: asked.append(k) or compute(self, k))
    with pytest.raises(CrossgapError, match="2 of 5 shards are missing"):
        load_shards(tmp_path)
    assert invert_to(tmp_path, plan).done_before == 3
    assert asked == [1, 4]
    assert contents(tmp_path) == whole


def test_the_folder_keeps_its_cut(tmp_path, plan):
    """Shard size, batch and threads are the folder's own: what is asked later by default does not matter."""
    invert_to(tmp_path, plan)
    whole = contents(tmp_path)
    shard_path(tmp_path, 2).unlink()
    invert_to(tmp_path, replace(plan, shard_size=4096, batch=256, threads=2))
    assert contents(tmp_path) == whole
    with pytest.raises(CrossgapError, match="begun with batch 5, not 7"):
        invert_to(tmp_path, plan, batch=7)


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
    with shard_files.locked(tmp_path), pytest.raises(CrossgapError, match="Another process is writing"):
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

    monkeypatch.setattr(shard_files.os, "fsync", refuse)
    with pytest.raises(CrossgapError, match=f"{words}.*are kept"):
        invert_to(tmp_path, plan)
    assert len(contents(tmp_path)) == 2
    assert not list(tmp_path.glob(".*.part"))
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


@pytest.mark.parametrize(
    ("text", "words"), [("{", "damaged"), ('{"format": 99, "composition": {"shard_size": 1}}', "another version")]
)
def test_bad_manifests(tmp_path, plan, text, words):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(CrossgapError, match=words):
        invert_to(tmp_path, plan)


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


# ---------------------------------------------------------------- past one machine


@pytest.fixture(scope="module")
def cluster():
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield ray
    ray.shutdown()


@pytest.mark.slow
def test_ray_gives_the_same_bytes_though_a_worker_dies(tmp_path, plan, cluster):
    from crossgap_lib.cluster import on_ray

    plan = replace(plan, shard_size=4, steps=30, snapshots=())
    invert_to(tmp_path / "here", plan)
    engine, killed = on_ray(workers=2), []

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
