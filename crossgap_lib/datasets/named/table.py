"""One row for each data set of the papers: what it is, where its files lie, how it is split, how it gets here."""

from crossgap_lib.datasets.named.named_set import CTG, RE, NamedSet


def _tables(source: str, names: str) -> tuple[tuple[str, str], ...]:
    return tuple((source, name) for name in names.split())


_ELEVEN = _tables(CTG, "1 2-right 3 A3") + _tables(RE, "2 3")
_METRIC = _tables(CTG, "1 3 4 A6-image A7 A8 A9 A10")
_TRAIN_TEST = "queries: test, gallery: train (Cross the Gap, App. F); "
_DATASETS_MD = "links in DATASETS.md of KaiyangZhou/CoOp"


def _coop(
    name: str,
    what: str,
    published: str,
    split: str,
    pictures: str,
    example: str,
    template: str,
    *,
    folders: tuple[str, ...],
    torchvision: str = "",
    tables: tuple[tuple[str, str], ...] = _ELEVEN,
    also_by_hand: str = "",
    note: str = "",
) -> NamedSet:
    """A set with one of CoOp's split files."""
    file = f"split_zhou_{split}.json"
    return NamedSet(
        name,
        what,
        "coop",
        tables,
        (published,),
        f"{_TRAIN_TEST}CoOp's {file}{note}",
        f"PATH/{{{file}, {f'{pictures}/{example}' if pictures else example}}}",
        (file,),
        by_hand=f"{file}{also_by_hand} ({_DATASETS_MD})",
        folders=folders,
        pictures=pictures,
        template=template,
        splits=("test", "train", "val"),
        torchvision=torchvision,
    )


_CLASSIFICATION = [
    NamedSet(
        "imagenet",
        "1000 classes of objects (ILSVRC 2012)",
        "imagenet",
        _ELEVEN,
        ("ImageNet",),
        "queries: the 50 000 validation pictures, gallery: the 1.28 million of train (CoOp: val is the test split)",
        "PATH/{classnames.txt, images/train/n01440764/*.JPEG, images/val/n01440764/*.JPEG}",
        ("classnames.txt",),
        by_hand=f"classnames.txt ({_DATASETS_MD}) and the pictures of image-net.org",
        folders=("imagenet",),
        template="a photo of a {}.",
        splits=("test", "train", "val"),
    ),
    _coop(
        "caltech101",
        "100 classes of objects",
        "Caltech",
        "Caltech101",
        "101_ObjectCategories",
        "CLASS/*.jpg",
        "a photo of a {}.",
        folders=("caltech-101", "caltech101"),
        torchvision="Caltech101",
        note="; without BACKGROUND_Google and Faces_easy",
    ),
    _coop(
        "oxford-pets",
        "37 breeds of cats and dogs",
        "Pets",
        "OxfordPets",
        "images",
        "*.jpg",
        "a photo of a {}, a type of pet.",
        folders=("oxford_pets", "oxford-iiit-pet"),
        torchvision="OxfordIIITPet",
    ),
    _coop(
        "stanford-cars",
        "196 models of cars",
        "Cars",
        "StanfordCars",
        "",
        "cars_train/*.jpg, cars_test/*.jpg",
        "a photo of a {}.",
        folders=("stanford_cars",),
        tables=(*_METRIC, *_tables(CTG, "2-right A3"), *_tables(RE, "2 3")),
        also_by_hand=", cars_train and cars_test",
    ),
    _coop(
        "flowers102",
        "102 kinds of flowers",
        "Flowers",
        "OxfordFlowers",
        "jpg",
        "*.jpg",
        "a photo of a {}, a type of flower.",
        folders=("oxford_flowers", "flowers-102"),
        torchvision="Flowers102",
    ),
    _coop(
        "food101",
        "101 dishes",
        "Food101",
        "Food101",
        "images",
        "CLASS/*.jpg",
        "a photo of {}, a type of food.",
        folders=("food-101",),
        torchvision="Food101",
    ),
    NamedSet(
        "fgvc-aircraft",
        "100 variants of aircraft",
        "aircraft",
        _ELEVEN,
        ("Aircraft",),
        _TRAIN_TEST + "the set's own images_variant_{train,val,test}.txt",
        "PATH/{variants.txt, images_variant_{train,val,test}.txt, images/*.jpg}",
        ("variants.txt",),
        folders=("fgvc_aircraft", "fgvc-aircraft-2013b/data", "data"),
        pictures="images",
        template="a photo of a {}, a type of aircraft.",
        splits=("test", "train", "val"),
        torchvision="FGVCAircraft",
    ),
    _coop(
        "dtd",
        "47 textures",
        "DTD",
        "DescribableTextures",
        "images",
        "CLASS/*.jpg",
        "{} texture.",
        folders=("dtd", "dtd/dtd"),
        torchvision="DTD",
    ),
    _coop(
        "eurosat",
        "10 kinds of land use from above",
        "EuroSAT",
        "EuroSAT",
        "2750",
        "CLASS/*.jpg",
        "a centered satellite photo of {}.",
        folders=("eurosat",),
        torchvision="EuroSAT",
    ),
    _coop(
        "sun397",
        "397 scenes",
        "SUN397",
        "SUN397",
        "SUN397",
        "a/abbey/*.jpg",
        "a photo of a {}.",
        folders=("sun397",),
        torchvision="SUN397",
    ),
    _coop(
        "ucf101",
        "101 human actions, the middle frame of each clip",
        "UCF101",
        "UCF101",
        "UCF-101-midframes",
        "CLASS/*.jpg",
        "a photo of a person doing {}.",
        folders=("ucf101",),
        note="; middle frames",
        also_by_hand=" and UCF-101-midframes",
    ),
]


def _landmarks(name: str, what: str, published: tuple[str, str]) -> NamedSet:
    return NamedSet(
        name,
        what,
        "landmarks",
        _METRIC + _tables(RE, "3"),
        published,
        "70 queries cropped to their box, a gallery without them, Easy (Cross the Gap, App. F), Medium or Hard, with "
        "the 1M distractors where they are given",
        f"PATH/{{gnd_{name}.pkl, jpg/*.jpg}}",
        (f"gnd_{name}.pkl",),
        by_hand=f"gnd_{name}.pkl and the pictures (links in filipradenovic/revisitop)",
        folders=(name,),
        pictures="jpg",
        splits=("gallery", "queries"),
    )


_RETRIEVAL = [
    NamedSet(
        "cub",
        "11 788 birds of 200 species (CUB-200-2011)",
        "metric_learning",
        _METRIC,
        ("CUB",),
        "every picture against all others (Cross the Gap, App. F)",
        "PATH/{images.txt, image_class_labels.txt, train_test_split.txt, images/CLASS/*.jpg}",
        ("images.txt",),
        by_hand="all of CUB_200_2011.tgz (data.caltech.edu)",
        folders=("CUB_200_2011",),
        pictures="images",
        splits=("all", "train", "test"),
    ),
    NamedSet(
        "sop",
        "pictures of products for sale (Stanford Online Products)",
        "metric_learning",
        _METRIC,
        ("SOP",),
        "every test picture against all others of test (Cross the Gap, App. F)",
        "PATH/{Ebay_train.txt, Ebay_test.txt, bicycle_final/*.JPG, ...}",
        ("Ebay_test.txt",),
        by_hand="all of Stanford_Online_Products.zip (cvgl.stanford.edu/projects/lifted_struct)",
        folders=("Stanford_Online_Products",),
        splits=("test", "train", "all"),
    ),
    _landmarks("roxford5k", "landmarks of Oxford, revisited (Radenovic et al. 2018)", ("Oxford", "ROxford")),
    _landmarks("rparis6k", "landmarks of Paris, revisited (Radenovic et al. 2018)", ("Paris", "RParis")),
    NamedSet(
        "bdd100k",
        "driving scenes with weather, time of day and scene",
        "attributes",
        ((RE, "4.4 ablation"),),
        ("BDD100k weather", "BDD100k time of day"),
        "every picture against all others; split (val) and undefined values (left out) are not in the paper",
        "PATH/{labels/bdd100k_labels_images_{val,train}.json, images/100k/{val,train}/*.jpg}",
        ("labels",),
        by_hand="images/100k and the labels (bdd-data.berkeley.edu)",
        folders=("bdd100k",),
        pictures="images/100k",
        splits=("val", "train"),
    ),
]

_FIRST_CAPTION = "queries: first captions, gallery: all captions (Cross the Gap, Sec. 5.2), "


def _karpathy(name: str, what: str, published: str, tables: str, marker: str, pictures: str) -> NamedSet:
    recalls = tuple(f"{published} {way} R@{k}" for way in ("image-to-text", "text-to-image") for k in (1, 5, 10))
    return NamedSet(
        name,
        what,
        "captions",
        _tables(CTG, tables),
        (published, f"{published} val", *recalls),
        f"{_FIRST_CAPTION}Karpathy's test split (the released code: val)",
        f"PATH/{{{marker}, {pictures}}}",
        (marker,),
        by_hand=f"{marker} (Karpathy's caption_datasets.zip) and, for images, the pictures",
        folders=(name,),
        splits=("test", "val", "train"),
    )


_CAPTIONS = [
    _karpathy(
        "coco",
        "5000 photos with 5 captions each",
        "COCO",
        "2-left A2 A4 A6-text",
        "dataset_coco.json",
        "val2014/*.jpg, train2014/*.jpg",
    ),
    _karpathy(
        "flickr30k",
        "1000 photos with 5 captions each",
        "Flickr30k",
        "2-left A1 A4 A6-text",
        "dataset_flickr30k.json",
        "flickr30k-images/*.jpg",
    ),
    NamedSet(
        "nocaps",
        "4500 photos of novel objects with 10 captions each",
        "captions",
        _tables(CTG, "2-left A6-text"),
        ("nocaps",),
        f"{_FIRST_CAPTION}validation split",
        "PATH/{nocaps_val_4500_captions.json, images/*.jpg}",
        ("nocaps_val_4500_captions.json",),
        by_hand="nocaps_val_4500_captions.json (nocaps.org) and, for images, the pictures",
        folders=("nocaps",),
        splits=("val",),
    ),
]


def _nano(name: str, what: str, published: str, repository: str) -> NamedSet:
    return NamedSet(
        name,
        what,
        "beir",
        _tables(CTG, "A5"),
        (published,),
        "NanoBEIR's queries against its corpus; positives: its qrels",
        "PATH/{corpus,queries,qrels}/*.parquet (or .jsonl)",
        ("corpus", "corpus.jsonl"),
        folders=(repository,),
        hub=f"zeta-alpha-ai/{repository}",
        texts_only=True,
    )


_TEXTS = [
    _nano(
        "nano-climate-fever",
        "claims on the climate, and what speaks for or against",
        "ClimateFEVER",
        "NanoClimateFEVER",
    ),
    _nano("nano-dbpedia", "entities of DBpedia", "DBPedia", "NanoDBPedia"),
    _nano("nano-fever", "claims, and what speaks for or against", "FEVER", "NanoFEVER"),
    _nano("nano-nfcorpus", "medical articles", "NFCorpus", "NanoNFCorpus"),
    _nano("nano-nq", "questions to a search engine, and passages of Wikipedia", "NQ", "NanoNQ"),
    _nano("nano-scidocs", "titles of papers, and related papers", "SciDocs", "NanoSCIDOCS"),
    _nano("nano-scifact", "scientific claims, and abstracts", "SciFact", "NanoSciFact"),
    NamedSet(
        "20newsgroups",
        "posts to 20 newsgroups",
        "newsgroups",
        _tables(CTG, "A5"),
        ("20Newsgroups",),
        "queries: a sentence on each group (the paper prints one of its own), gallery: test posts (20news-bydate)",
        "PATH/20news-bydate-test/GROUP/NUMBER",
        ("20news-bydate-test", "20news-bydate-train"),
        splits=("test", "train"),
        texts_only=True,
    ),
    NamedSet(
        "imdb",
        "reviews of films, positive and negative",
        "imdb",
        _tables(CTG, "A5"),
        ("IMDB",),
        "queries: a sentence on each sentiment, gallery: test reviews (the released code: all 50 000)",
        "PATH/test/{pos,neg}/*.txt (aclImdb) or PATH/plain_text/test-*.parquet",
        ("test", "plain_text"),
        folders=("aclImdb",),
        splits=("test", "train", "all"),
        hub="stanfordnlp/imdb",
        texts_only=True,
    ),
]

SETS: dict[str, NamedSet] = {row.name: row for row in [*_CLASSIFICATION, *_RETRIEVAL, *_CAPTIONS, *_TEXTS]}
