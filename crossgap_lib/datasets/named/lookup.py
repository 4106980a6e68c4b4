"""Questions to the table of data sets: which one is meant, what it lacks, what there is."""

from collections.abc import Iterable

from crossgap_lib.datasets.named.named_set import CTG, PLAIN_TEMPLATE, RE, NamedSet
from crossgap_lib.datasets.named.table import SETS
from crossgap_lib.errors import CrossgapError, did_you_mean

_OWN = {  # specs of ``load_dataset`` that name no data set of the papers
    "world:all": "the drawn world, nothing to download; also world:dogs-vs-cats",
    "dogs-vs-cats:PATH": "PetImages/{Cat,Dog}/*.jpg or train/{cat,dog}.*.jpg",
    "folder:PATH": "CLASS/*.jpg, a folder a class",
    "captions:FILE": "COCO or Karpathy JSON, Flickr8k tokens, image,caption CSV",
    "wds:PATH/{00..09}.tar": "WebDataset tars, read in place",
}
_WIDTH = max(map(len, _OWN))


def find(name: str) -> NamedSet:
    """The row of this name. Raises CrossgapError with the closest names."""
    if name not in SETS:
        raise unknown(name, SETS)
    return SETS[name]


def unknown(spec: str, known: Iterable[str]) -> CrossgapError:
    """What to say of a spec, or name, that starts with none of the known names."""
    known, name = list(known), spec.partition(":")[0]
    starts = ", ".join(f"{each}:" for each in known)
    return CrossgapError(f"Unknown dataset {spec!r}; it starts with one of {starts}.{did_you_mean(name, known)}")


def placement(name: str) -> str:
    """One sentence: what ``crossgap fetch`` brings, what a person must place by hand, and the expected tree."""
    row = find(name)
    by_command = f"`crossgap fetch {name}:PATH` downloads "
    if row.fetched_by and row.by_hand:
        how = f"{by_command}the pictures and {row.by_hand} must be placed by hand"
    else:
        how = f"{by_command}it" if row.fetched_by else f"{row.by_hand} must be placed by hand"
    return f"{name}: {how}; expected is {row.tree}"


def prompt_template(spec: str) -> str:
    """The prompt with {} for the class name that goes with a data set (CoOp's), "a photo of a {}" for unnamed ones."""
    row = SETS.get(spec.partition(":")[0])
    return row.template if row else PLAIN_TEMPLATE


def listing() -> str:
    """All data sets with what they are, tables served, split and how they get here: ``crossgap datasets``."""
    own = [f"{spec:<{_WIDTH}} {what}" for spec, what in _OWN.items()]
    return "\n".join([*map(_entry, SETS.values()), "", "Anything else:", *own])


def _entry(row: NamedSet) -> str:
    papers = {CTG: "Cross the Gap", RE: "Reevaluating"}
    served = {paper: ", ".join(t for source, t in row.tables if source == key) for key, paper in papers.items()}
    facts = {
        "tables": "; ".join(f"{paper} {names}" for paper, names in served.items() if names),
        "split": row.protocol,
        "here": "; ".join(filter(None, [row.fetched_by, row.by_hand and f"by hand: {row.by_hand}"])),
        "files": row.tree,
    }
    return "\n".join(
        [f"{row.name:<{_WIDTH}} {row.what}", *(f"{'':<{_WIDTH}}   {key + ':':<8}{facts[key]}" for key in facts)]
    )
