"""Collections of texts on miniatures in their real formats: NanoBEIR, newsgroups, IMDB, captions."""

import json
import re

import miniatures
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from miniatures import write

from crossgap_lib import metrics
from crossgap_lib.datasets.named.table import SETS
from crossgap_lib.datasets.text_sets import load_texts
from crossgap_lib.embeddings.embeddings import Embeddings
from crossgap_lib.errors import CrossgapError

MAKERS = {"nano-scifact": miniatures.nano, "20newsgroups": miniatures.newsgroups, "imdb": miniatures.imdb}


@pytest.mark.parametrize("form", ["parquet", "jsonl", "tsv"])
def test_nanobeir_in_every_form(tmp_path, form):
    found = load_texts(f"nano-scifact:{miniatures.nano(tmp_path, form)}")
    assert found.corpus == ("ice melts", "the sun is hot", "x")
    assert (found.query_ids, found.queries) == (("q2", "q1"), ("is the sun hot?", "does ice melt?"))
    assert found.relevant.tolist() == [[True, True, False], [True, False, False]]
    assert found.options()["self_match"] == "keep"


def test_titles_go_before_texts(tmp_path):
    miniatures.nano(tmp_path, "jsonl")
    rows = [{**row, "title": "On " + row["_id"]} for row in miniatures.NANO["corpus"]]
    write(tmp_path / "corpus.jsonl", "\n".join(map(json.dumps, rows)))
    assert load_texts(f"nano-scifact:{tmp_path}").corpus[0] == "On d1 ice melts"


@pytest.mark.parametrize(
    ("part", "rows", "why"),
    [
        ("corpus", [{"_id": "d1"}], "a row needs _id"),
        ("corpus", [{"text": "x"}], "a row needs _id"),
        ("corpus", [{"_id": "d1", "text": "x"}, {"_id": "d1", "text": "y"}], "id 'd1' repeats"),
        ("qrels", [{"query-id": "q1", "corpus-id": "d9"}], r"the pair \('q1', 'd9'\) is not among"),
        ("qrels", [{"query-id": "q1"}], "a judgement needs query-id and corpus-id"),
        ("qrels", [{"query-id": "q1", "corpus-id": "d1", "score": "high"}], "the score 'high' is no number"),
        ("qrels", [{"query-id": "q1", "corpus-id": "d1", "score": 0}], "holds 0 queries"),
        ("qrels", [{"query-id": "q1", "corpus-id": "d1", "score": 10**400}], "the score '10+' is no number"),
        ("qrels", ["q1"], "line 1 is .* no JSON object"),
    ],
)
def test_nanobeir_of_another_form(tmp_path, part, rows, why):
    miniatures.nano(tmp_path, "jsonl")
    write(tmp_path / f"{part}.jsonl", "\n".join(map(json.dumps, rows)))
    with pytest.raises(CrossgapError, match=why):
        load_texts(f"nano-scifact:{tmp_path}")


def test_bad_rows_of_a_collection_are_skipped_and_counted(tmp_path):
    root = miniatures.nano(tmp_path, "jsonl")
    for part, row in (
        ("corpus", '{"_id": "d9"}'),
        ("qrels", '{"query-id": "q1", "corpus-id": "d9"}'),
        ("queries", "{"),
    ):
        write(root / f"{part}.jsonl", f"{(root / f'{part}.jsonl').read_text()}\n{row}\n")
    with pytest.raises(CrossgapError, match=r"a row needs _id .*\(skip_bad=True"):
        load_texts(f"nano-scifact:{root}")
    with pytest.warns(UserWarning, match="3 bad rows are left out: .*a row needs _id.*line 4 can't be read.*the pair"):
        found = load_texts(f"nano-scifact:{root}", skip_bad=True)
    assert found.relevant.tolist() == [[True, True, False], [True, False, False]]


def test_damaged_files(tmp_path):
    write(miniatures.nano(tmp_path) / "corpus/train-00000-of-00001.parquet", b"PAR1 cut off")
    with pytest.raises(CrossgapError, match="can't be read as Parquet"):
        load_texts(f"nano-scifact:{tmp_path}")
    write(miniatures.nano(tmp_path / "b", "jsonl") / "corpus.jsonl", '{"_id": ')
    with pytest.raises(CrossgapError, match="line 1 can't be read as JSON"):
        load_texts(f"nano-scifact:{tmp_path / 'b'}")
    write(miniatures.nano(tmp_path / "c", "tsv") / "qrels/test.tsv", b"query-id\tcorpus-id\n\xe3\td1\n")
    with pytest.raises(CrossgapError, match="is not UTF-8 text"):
        load_texts(f"nano-scifact:{tmp_path / 'c'}")


def test_newsgroups(tmp_path):
    found = load_texts(f"20newsgroups:{miniatures.newsgroups(tmp_path)}")
    assert found.query_ids == ("rec.autos", "sci.space")
    assert found.queries == ("a post about cars", "a post about space travel and astronomy")
    assert found.corpus_ids == ("rec.autos/102894", "sci.space/9", "sci.space/60801")
    assert found.corpus_labels.tolist() == [0, 1, 1]
    assert found.corpus[1].endswith("Mars é")
    (tmp_path / "20news-bydate-test/alt.cats").mkdir()
    with pytest.warns(UserWarning, match=r"holds folders that are no classes and not used: alt\.cats"):
        assert load_texts(f"20newsgroups:{tmp_path}").corpus == found.corpus


def test_imdb_as_texts_and_as_parquet(tmp_path):
    found = load_texts(f"imdb:{miniatures.imdb(tmp_path / 'a')}")
    assert found.corpus_ids == ("test/neg/2_1.txt", "test/neg/10_2.txt", "test/pos/0_10.txt")
    assert (found.corpus[2], found.corpus_labels.tolist()) == ("Great.  Really.", [0, 0, 1])
    assert len(load_texts(f"imdb:{tmp_path / 'a'}/all").corpus) == 5
    other = load_texts(f"imdb:{miniatures.imdb_parquet(tmp_path / 'b')}")
    assert (other.corpus, other.corpus_labels.tolist()) == (("Bad.", "Great."), [0, 1])
    pq.write_table(pa.table({"text": ["Bad."], "label": [0]}), tmp_path / "b/plain_text/test-00000-of-00001.parquet")
    with pytest.raises(CrossgapError, match="No test texts of two classes"):
        load_texts(f"imdb:{tmp_path / 'b'}")
    pq.write_table(pa.table({"review": ["Bad."]}), tmp_path / "b/plain_text/test-00000-of-00001.parquet")
    with pytest.raises(CrossgapError, match=r"a review needs a label .* but is \{'review': 'Bad\.'\}"):
        load_texts(f"imdb:{tmp_path / 'b'}")
    for labels in ([0, None], [0.0, 1.0], [False, True], [0, 2], ["0", "1"]):
        table = pa.table({"text": ["Bad.", "Great."], "label": labels})
        pq.write_table(table, tmp_path / "b/plain_text/test-00000-of-00001.parquet")
        with pytest.raises(
            CrossgapError, match=r"a review needs a label .* but is \{'text': '(Bad|Great)\.', 'label': "
        ):
            load_texts(f"imdb:{tmp_path / 'b'}")


def test_first_captions_ask_for_the_others_without_pictures(tmp_path):
    found = load_texts(f"nocaps:{miniatures.nocaps(tmp_path)}")
    assert (len(found.queries), len(found.corpus)) == (3, 30)
    assert found.queries[1] == "caption 1.0"
    assert found.options() == {"self_match": "remove"}
    q, c = embedded(found)
    assert metrics.retrieval(q, c, **found.options()).n_relevant.tolist() == [9, 9, 9]
    miniatures.karpathy(tmp_path, "dataset_coco.json", "val2014")
    assert load_texts(f"coco:{tmp_path}").queries == ("caption 0.0", "caption 1.0")
    assert load_texts(f"coco:{tmp_path}/val").queries == ("caption 2.0",)


def embedded(found) -> tuple[Embeddings, Embeddings]:
    """Random features in the place of an encoder's."""
    generator = torch.Generator().manual_seed(0)
    return tuple(
        Embeddings(torch.randn(len(ids), 4, generator=generator), ids=ids, labels=labels, modality="text")
        for ids, labels in ((found.query_ids, found.query_labels), (found.corpus_ids, found.corpus_labels))
    )


@pytest.mark.parametrize("name", MAKERS)
def test_relevance_of_every_collection_fits_metrics(name, tmp_path):
    found = load_texts(f"{name}:{MAKERS[name](tmp_path)}")
    q, c = embedded(found)
    result = metrics.retrieval(q, c, **found.options())
    wanted = {"nano-scifact": [2, 1], "20newsgroups": [1, 2], "imdb": [2, 1]}
    assert result.n_relevant.tolist() == wanted[name]


def test_summaries_and_queries_of_ones_own(tmp_path):
    spec = f"nano-scifact:{miniatures.nano(tmp_path / 'set')}"
    lines = [{"id": f"d{k}", "summary": f"s{k}"} for k in (1, 2, 3)]
    write(tmp_path / "s.jsonl", "\n".join(map(json.dumps, lines)))
    write(tmp_path / "q.jsonl", '{"id": "q1", "text": "ice?"}\n')
    assert load_texts(spec, summaries=tmp_path / "s.jsonl").corpus == ("s1", "s2", "s3")
    with pytest.warns(UserWarning, match="replaces 1 of 2 texts; 1 stay as they are"):
        assert load_texts(spec, queries=tmp_path / "q.jsonl").queries == ("is the sun hot?", "ice?")
    write(tmp_path / "s.jsonl", '{"id": "d9", "text": "x"}')
    with pytest.raises(CrossgapError, match="1 ids, such as 'd9', are not in this collection"):
        load_texts(spec, summaries=tmp_path / "s.jsonl")
    with pytest.raises(CrossgapError, match="can't be read: No such file"):
        load_texts(spec, summaries=tmp_path / "none.jsonl")


@pytest.mark.parametrize("name", [name for name, row in SETS.items() if row.texts_only or row.family == "captions"])
def test_a_missing_collection_is_answered_by_its_placement(name, tmp_path):
    with pytest.raises(CrossgapError, match=re.escape(SETS[name].placement)):
        load_texts(f"{name}:{tmp_path}")


@pytest.mark.parametrize("spec", ["cub:x", "nano-scifac:x", "imdb", "imdb:", ""])
def test_what_is_no_collection_of_texts(spec):
    with pytest.raises(CrossgapError, match="it starts with one of coco:, flickr30k:, nocaps:, nano-climate-fever:"):
        load_texts(spec)


@pytest.mark.parametrize("name", ["20newsgroups", "imdb"])
def test_unknown_splits(name, tmp_path):
    with pytest.raises(CrossgapError, match=f"{name} has no split 'dev'; there are test, train"):
        load_texts(f"{name}:{MAKERS[name](tmp_path)}", split="dev")
