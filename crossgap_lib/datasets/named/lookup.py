"""What the table says of a named data set: its prompt, how to get it, and the list of all."""

from collections.abc import Iterable

from crossgap_lib.datasets.named.table import CTG, PLAIN_TEMPLATE, RE, SETS, NamedSet
from crossgap_lib.errors import CrossgapError, did_you_mean

_OWN = {  # the specs of ``load_dataset`` for other pictures than the papers'
    "world:all": "the drawn world, nothing to download; also world:dogs-vs-cats",
    "dogs-vs-cats:PATH": "PetImages/{Cat,Dog}/*.jpg or train/{cat,dog}.*.jpg",
    "folder:PATH": "CLASS/*.jpg, a folder a class",
    "captions:FILE": "COCO or Karpathy JSON, Flickr8k tokens, a table (CSV, TSV, JSON) of pictures and captions",
    "wds:PATH/{00..09}.tar": "WebDataset tars, read in place",
}
_WIDTH = max(map(len, _OWN))


def find(name: str) -> NamedSet:
    """The row of this name. Raises CrossgapError, which suggests the closest names, if there is none."""
    if name not in SETS:
        raise unknown(name, SETS)
    return SETS[name]


def unknown(spec: str, known: Iterable[str]) -> CrossgapError:
    """The error for a spec, or a name, that starts with none of the known names; it suggests the closest of them."""
    known, name = list(known), spec.partition(":")[0]
    starts = ", ".join(f"{each}:" for each in known)
    return CrossgapError(f"Unknown dataset {spec!r}; it starts with one of {starts}.{did_you_mean(name, known)}")


def placement(name: str) -> str:
    """How to get a set, in one sentence: what ``crossgap fetch`` downloads, what to place by hand, and where."""
    row = find(name)
    by_command = f"`crossgap fetch {name}:PATH` downloads "
    if row.fetched_by and row.by_hand:
        how = f"{by_command}the pictures and {row.by_hand} must be placed by hand"
    else:
        how = f"{by_command}it" if row.fetched_by else f"{row.by_hand} must be placed by hand"
    return f"{name}: {how}; expected is {row.tree}"


def prompt_template(spec: str) -> str:
    """The prompt of a named data set (CoOp's) with {} for the class name; "a photo of a {}" for all other specs."""
    row = SETS.get(spec.partition(":")[0])
    return row.template if row else PLAIN_TEMPLATE


def listing() -> str:
    """What ``crossgap datasets`` prints: each set with the tables that it serves, its split, and how to get it."""
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
