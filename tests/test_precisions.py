"""Average precisions against retrieval by hand, the same features asked other questions, and words of tokenizers."""

from types import SimpleNamespace

import numpy as np
import open_clip
import pytest

from crossgap_lib import tasks
from crossgap_lib.datasets.load import load_dataset
from crossgap_lib.embeddings.embeddings import Embeddings
from crossgap_lib.errors import CrossgapError
from crossgap_lib.tasks.words import _whole_words


def some(n, d=6, seed=0, classes=3, **columns):
    rng = np.random.default_rng(seed)
    return Embeddings(rng.normal(size=(n, d)) + 0.5, labels=rng.integers(0, classes, n), **columns)


GALLERY = some(40)
QUERIES = GALLERY[:9]
OTHER = Embeddings(some(9, seed=2).features, QUERIES.ids, QUERIES.labels, modality="oti")
PAIRS = {"Original": (QUERIES, GALLERY), "OTI": (OTHER, GALLERY), 3: (OTHER, GALLERY[::-1])}


def by_hand(queries, gallery, labels):
    """AP of each query, where ``labels`` (id -> label) say what is relevant; its own picture is left out."""
    found = []
    for q, name in enumerate(queries.ids):
        scores = gallery.features.double().numpy() @ queries.features.double().numpy()[q]
        order = [other for other in gallery.ids[np.argsort(-scores)] if other != name]
        hits = np.array([labels[other] == labels[name] for other in order])
        found.append(np.mean([hits[: k + 1].mean() for k in np.flatnonzero(hits)]))
    return found


def test_average_precisions_by_hand():
    labels = dict(zip(GALLERY.ids, GALLERY.labels, strict=True))
    found = tasks.average_precisions(PAIRS)
    assert list(found) == list(PAIRS)
    for method, pair in PAIRS.items():
        np.testing.assert_allclose(found[method], by_hand(*pair, labels), atol=1e-6)


def test_other_queries_are_refused():
    with pytest.raises(CrossgapError, match="'less' does not answer the same queries"):
        tasks.average_precisions(PAIRS | {"less": (QUERIES[:8], GALLERY)})


def test_another_task_is_other_labels_on_the_same_features():
    """The labels of a task come in another order of the pictures, and belong to them by their ids."""
    asked = {"kind": GALLERY, "colour": some(40, seed=7, classes=2)[np.random.default_rng(1).permutation(40)]}
    found = tasks.by_task(PAIRS, asked)
    assert list(found) == ["kind", "colour"]
    for task, pictures in asked.items():
        labels = dict(zip(pictures.ids, pictures.labels, strict=True))
        for method, pair in PAIRS.items():
            np.testing.assert_allclose(found[task][method], by_hand(*pair, labels), atol=1e-6)
    assert not np.allclose(found["kind"]["OTI"], found["colour"]["OTI"])


def test_words_of_tokenizers(mini):
    assert _whole_words(["dog</w>", "ca", "cat</w>", "a</w>", "Dog</w>", "3rd</w>"]) == {"dog", "cat"}
    assert _whole_words(["▁dog", "cat", "▁ab", "<pad>"]) == {"dog"}
    assert _whole_words(["<sot>", "dog", "of"]) == {"dog"}
    assert _whole_words([]) == set()
    kinds = load_dataset("world:all", n=1).class_names
    words = tasks.tokenizer_words(mini, 12, exclude=kinds)
    assert words == tasks.tokenizer_words(mini, 12, exclude=kinds)
    assert words != tasks.tokenizer_words(mini, 12, exclude=kinds, seed=1)
    assert len(set(words)) == 12
    assert not set(words) & set(kinds)
    with pytest.raises(CrossgapError, match="words to draw 999 from"):
        tasks.tokenizer_words(mini, 999)
    with pytest.raises(CrossgapError, match="shows 0 words"):
        tasks.tokenizer_words(SimpleNamespace(name="none", tokenizer=len), 1)


def test_photographs_are_projected_on_imagenets_names_and_drawings_on_kinds(capsys, tmp_path):
    def asked(class_names, data, *own):
        words = tasks.projection_words(class_names, data, own)
        return words, capsys.readouterr().out

    own, file = ("a pug", "a tabby"), tmp_path / "words.txt"
    file.write_text("\ufefféclair\r\n\r\n  mug \n", encoding="utf-8")
    kinds, said = asked("", "world:dogs-vs-cats", *own)
    assert kinds == list(load_dataset("world:all", n=1).class_names)
    assert said == "world:dogs-vs-cats: the projection is spanned by 24 names, the kinds of the drawn world.\n"
    names, said = asked("", "folder:pets", *own)
    assert tuple(names) == open_clip.IMAGENET_CLASSNAMES
    assert "1000 names, ImageNet's classes" in said
    assert asked("imagenet", "world:all")[0] == names
    assert asked("own", "folder:pets", *own) == (
        list(own),
        "folder:pets: the projection is spanned by 2 names, the classes of the data set.\n",
    )
    words, said = asked(str(file), "world:all", *own)
    assert (words, str(file) in said) == (["éclair", "mug"], True)
    for class_names, message in (("own", "two words or more, and there are 0"), ("no-such.txt", "can't be read")):
        with pytest.raises(CrossgapError, match=message):
            tasks.projection_words(class_names, "folder:pets")
