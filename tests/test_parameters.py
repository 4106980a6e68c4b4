"""Parameters of notebooks: checked by type, range and effect, before a kernel starts and inside one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossgap_lib.errors import CrossgapError
from crossgap_lib.paths import NOTEBOOKS
from crossgap_lib.runner.notebooks import list_notebooks
from crossgap_lib.runner.parameters import Parameter, check_parameters, checked, declared_parameters

DECLARED = {
    "model": Parameter("mini-clip", "str", unless="embeddings"),
    "embeddings": Parameter("", "str"),
    "models": Parameter(["mini-clip"], "list[str]"),
    "siblings": Parameter([["a", "b"]], "list[list[str]]"),
    "n_tokens": Parameter([1, 2], "list[int]", "1 or more"),
    "steps": Parameter(150, "int", "1 or more"),
    "seed": Parameter(0, "int"),
    "strengths": Parameter([0.0, 1.0], "list[float]", "0 to 1"),
    "rate": Parameter(0.02, "float", "above 0"),
    "cache": Parameter(True, "bool"),
}


@pytest.mark.parametrize(
    ("name", "value", "meant"),
    [
        ("models", "mini-slip", ["mini-slip"]),
        ("models", "mini-slip;ViT-B-32,openai", ["mini-slip", "ViT-B-32,openai"]),
        ("models", "ViT-B-32,openai", ["ViT-B-32,openai"]),
        ("models", " mini-clip , mini-siglip ", ["mini-clip", "mini-siglip"]),  # no spec has minis on both sides
        ("models", ["mini-slip"], ["mini-slip"]),
        ("siblings", [["a", "b"], ["c", "d"]], [["a", "b"], ["c", "d"]]),
        ("n_tokens", 1, [1]),
        ("n_tokens", "1,2", [1, 2]),
        ("n_tokens", "1; 2", [1, 2]),
        ("n_tokens", (1, 2), [1, 2]),
        ("strengths", 1, [1.0]),
        ("strengths", "0,0.5", [0.0, 0.5]),
        ("rate", 1, 1.0),
        ("steps", "12", 12),
        ("model", 5, "5"),  # a folder may be called 5
        ("seed", 0, 0),
        ("cache", False, False),
    ],
)
def test_values_become_what_is_declared(name, value, meant):
    found = checked(DECLARED, {name: value})[name]
    assert found == meant
    assert type(found) is type(meant)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"steps": "ten"}, "steps must be a whole number, but is 'ten'"),
        ({"steps": 1.5}, "steps must be a whole number, but is 1.5"),
        ({"steps": True}, "steps must be a whole number, but is True"),
        ({"steps": None}, "steps must be a whole number, but is None"),
        ({"steps": 0}, "steps must be 1 or more, but is 0"),
        ({"seed": -1}, "seed must be not negative, but is -1"),
        ({"n_tokens": "1,two"}, "n_tokens must be a whole number, but is 'two'"),
        ({"n_tokens": [4, 0]}, "n_tokens must be 1 or more, but is 0"),
        ({"strengths": [0.5, 1.5]}, "strengths must be between 0 and 1, but is 1.5"),
        ({"rate": 0}, "rate must be above 0"),
        ({"rate": float("nan")}, "rate must be above 0, but is nan"),
        ({"cache": 1}, "cache must be true or false"),
        ({"model": ["a", "b"]}, "model must be text, but is"),
        ({"models": "ViT-B-32,openai,mini-clip"}, "models takes several values with a semicolon between them"),
        ({"models": ["mini-clip", "local-dir:b\udce9d"]}, r"models is local-dir:b\\udce9d, which is not valid Unicode"),
        ({"stesp": 3}, "There is no parameter 'stesp'. Did you mean: steps"),
        ({"model": "mini-slip", "embeddings": "f.npz"}, "model has no effect where embeddings is given"),
    ],
)
def test_what_was_not_declared_is_refused_in_a_sentence(given, message):
    with pytest.raises(CrossgapError, match=message):
        checked(DECLARED, given)


def test_a_default_beside_what_takes_its_place_is_no_contradiction():
    assert checked(DECLARED, {"model": "mini-clip", "embeddings": "f.npz"})["embeddings"] == "f.npz"
    assert checked(DECLARED, {"model": "mini-slip", "embeddings": ""})["model"] == "mini-slip"


@given(st.sampled_from(sorted(DECLARED)), st.none() | st.booleans() | st.integers() | st.floats() | st.text())
def test_any_value_is_taken_as_declared_or_refused_in_a_sentence(name, value):
    try:
        found = checked(DECLARED, {name: value})[name]
    except CrossgapError:
        return
    assert isinstance(found, type(DECLARED[name].default))


@pytest.mark.parametrize("notebook", list_notebooks(), ids=lambda path: path.stem)
def test_every_notebook_takes_its_own_defaults(notebook):
    declared = declared_parameters(notebook)
    assert declared["seed" if "seed" in declared else "seeds"].kind in ("int", "list[int]")
    assert checked(declared, {name: asked.default for name, asked in declared.items()})
    assert all(asked.unless in ("", *declared) for asked in declared.values())


def test_a_notebook_checks_what_papermill_put_into_it():
    name = "02_loss_versus_steps"
    namespace = {k: asked.default for k, asked in declared_parameters(NOTEBOOKS / f"{name}.ipynb").items()}
    namespace |= {"n_tokens": 3, "In": ["", "# Parameters\nn_tokens = 3\n"], "stamp": "of a cell that ran before"}
    check_parameters(name, namespace)
    assert namespace["n_tokens"] == [3]
    with pytest.raises(CrossgapError, match="steps must be a whole number"):
        check_parameters(name, namespace | {"steps": "ten"})
    typo = {"stesp": 3, "In": ["", "# Parameters\nstesp = 3\n"]}
    with pytest.raises(CrossgapError, match="There is no parameter 'stesp'"):
        check_parameters(name, namespace | typo)
