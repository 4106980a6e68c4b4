"""The parameters of a notebook: what it declares, and what it is handed, checked before anything is computed.

Each line of a ``parameters`` cell says the type and, in brackets, what else must hold:

    steps = 150  # type: int (1 or more; unless embeddings)

"1 or more", "above 0" and "0 to 1" are ranges; without one, a number must not be negative. "unless NAME" marks what has
no effect where NAME is given.
"""

import ast
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import Any

from crossgap_lib.errors import CrossgapError, did_you_mean, encodable
from crossgap_lib.paths import MINIS, NOTEBOOKS

_TYPE = re.compile(r"# type: (?P<kind>\S+)(?: \((?P<notes>[^()]*)\))?$")
_SPEC = re.compile(r"\s*(mini-|nano-|world:|folder:|captions:|wds:|timm:|local-dir:)")  # how a spec begins
_KINDS = {"int": "a whole number", "float": "a number", "str": "text", "bool": "true or false"}
_RANGES = {
    "": ("not negative", lambda number: number >= 0),
    "1 or more": ("1 or more", lambda number: number >= 1),
    "above 0": ("above 0", lambda number: number > 0),
    "0 to 1": ("between 0 and 1", lambda number: 0 <= number <= 1),
}


@dataclass(frozen=True)
class Parameter:
    """What a notebook declares of one parameter."""

    default: Any
    kind: str  # "int", "float", "str", "bool", or "list[...]" of one of them
    range: str = ""  # a key of ``_RANGES``
    unless: str = ""  # the parameter beside which this one has no effect


def declared_parameters(notebook: Path) -> dict[str, Parameter]:
    """Name -> what the notebook's ``parameters`` cell says of it. Raises CrossgapError where it can't be read."""
    try:
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]  # papermill takes seconds to import
        source = next(("".join(c["source"]) for c in cells if "parameters" in c["metadata"].get("tags", ())), "")
        statements = ast.parse(source).body
    except (OSError, ValueError, SyntaxError, KeyError, TypeError, AttributeError) as error:
        raise CrossgapError(f"{notebook} can't be read as a notebook: {shorten(str(error), 200)}") from error
    lines = source.splitlines()
    return {
        s.targets[0].id: _declared(s.value, lines[s.end_lineno - 1]) for s in statements if isinstance(s, ast.Assign)
    }


def _declared(value: ast.expr, line: str) -> Parameter:
    default, told = _value(ast.unparse(value)), _TYPE.search(line)
    notes = [note.strip() for note in (told["notes"] or "").split(";")] if told else []
    unless = next((note.removeprefix("unless ") for note in notes if note.startswith("unless ")), "")
    kind = told["kind"] if told else type(default).__name__
    return Parameter(default, kind, next((note for note in notes if note in _RANGES), ""), unless)


def _value(source: str) -> Any:
    try:
        return ast.literal_eval(source)
    except (ValueError, SyntaxError):
        return source


def checked(declared: Mapping[str, Parameter], given: Mapping[str, Any]) -> dict[str, Any]:
    """The given values as the notebook declares them.

    One value stands for a list of one. A text with semicolons is a list, too, and so is one with commas where these can
    be no part of a value: of numbers, or of minis.

    Raises:
        CrossgapError: a name that is not declared, another type, a number out of its range, or a parameter that has no
            effect beside another that is given.
    """
    values = {}
    for name, value in given.items():
        if name not in declared:
            raise CrossgapError(f"There is no parameter {name!r}.{did_you_mean(name, declared)}")
        asked = declared[name]
        values[name] = _as(asked.kind, value, name)
        words, lies_in = _RANGES[asked.range]
        if outside := [n for n in _numbers(values[name]) if not lies_in(n)]:
            raise CrossgapError(f"{name} must be {words}, but is {outside[0]:g}.")
        if given.get(asked.unless) and values[name] != asked.default:
            raise CrossgapError(f"{name} has no effect where {asked.unless} is given: leave one of the two out.")
    return values


def _as(kind: str, value: Any, name: str) -> Any:
    if kind.startswith("list["):
        inner = kind[len("list[") : -1]
        parts = _parts(value, inner, name) if isinstance(value, str) else value
        return [_as(inner, part, name) for part in (parts if isinstance(parts, list | tuple) else [parts])]
    if kind in ("int", "float") and isinstance(value, str):
        value = _value(value.strip())
    fits = {"int": int, "float": int | float, "str": str | int | float, "bool": bool}.get(kind, object)
    if not isinstance(value, fits) or (isinstance(value, bool) and kind != "bool"):
        raise CrossgapError(f"{name} must be {_KINDS[kind]}, but is {value!r}.")
    if isinstance(value, str) and encodable(value) != value:
        told = f"{name} is {encodable(value)}, which is not valid Unicode, so that no notebook can hold it"
        raise CrossgapError(f"{told}: name it otherwise, a file by a link to it.")
    return {"float": float, "str": str}.get(kind, lambda same: same)(value)


def _parts(text: str, inner: str, name: str) -> list[str]:
    """What a text that stands for a list holds. Specs of models may hold commas, so semicolons part them."""
    parts = [part.strip() for part in text.split(",")]
    if ";" in text or len(parts) == 1:
        return [part.strip() for part in text.split(";") if part.strip()]
    if inner != "str" or all((MINIS / part).is_dir() for part in parts if part):
        return [part for part in parts if part]
    if any(_SPEC.match(part) for part in parts[1:]):
        raise CrossgapError(f"{name} takes several values with a semicolon between them, but is {text!r}.")
    return [text]


def _numbers(value: Any) -> Iterable[float]:
    if isinstance(value, list):
        return [number for part in value for number in _numbers(part)]
    return [value] if isinstance(value, int | float) and not isinstance(value, bool) else []


def check_parameters(name: str, namespace: dict[str, Any]) -> None:
    """For the first cell after the parameters: checks what papermill, or a person, has set, as ``checked`` does it.

    Args:
        name: the notebook's, such as "02_loss_versus_steps".
        namespace: ``globals()`` of the notebook, in which values are replaced by what they stand for.

    Raises:
        CrossgapError: as ``checked``.
    """
    declared = declared_parameters(NOTEBOOKS / f"{name}.ipynb")
    injected = next((cell for cell in namespace.get("In", ()) if cell.startswith("# Parameters")), "")  # by papermill
    set_there = [statement.targets[0].id for statement in ast.parse(injected).body]
    names = dict.fromkeys([*declared, *set_there])
    namespace.update(checked(declared, {name: namespace[name] for name in names if name in namespace}))
