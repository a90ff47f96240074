"""Inputs altered at random: a few hundred for each reader with ``make test``, 10,000 with ``make soak``."""

import warnings
from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.faults.fuzz_targets import TARGETS, Target, altered, paths, survives

QUICK, LONG = 150, 10_000
EDITS = ("flip", "set", "insert", "delete", "cut", "repeat", "number")
NUMBERS = [value.to_bytes(4, "little", signed=True) for value in (0, 1, -1, 2**31 - 1, -(2**31), 65536)]

junk = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**70), 2**70),
        st.floats(),
        st.text(max_size=12),
        st.binary(max_size=8),
        st.sampled_from([(1, 2, 3), {1, 2}, "3d_fullres", "CTNormalization", "ZScoreNormalization", "zyx", 0, -1, 3]),
        st.sampled_from(
            [
                torch.zeros(3),
                torch.zeros(0),
                torch.zeros(2, 1, 3, 3, 3),
                torch.zeros(2, 1, 3, 3),
                torch.full((2,), float("nan")),
                torch.zeros(1).expand(9, 9),
                torch.zeros(3, dtype=torch.complex64),
            ]
        ),
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def altered_bytes(draw: st.DrawFn, seeds: list[bytes]) -> bytes:
    """A seed with up to four edits."""
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(1, 4))):
        edit, place = draw(st.sampled_from(EDITS)), draw(st.integers(0, max(0, len(data) - 1)))
        if edit == "flip" and data:
            data[place] ^= 1 << draw(st.integers(0, 7))
        elif edit == "set":
            data[place : place + 1] = draw(st.binary(min_size=1, max_size=1))
        elif edit == "insert":
            data[place:place] = draw(st.binary(max_size=16))
        elif edit == "delete":
            del data[place : place + draw(st.integers(1, 64))]
        elif edit == "cut":
            del data[place:]
        elif edit == "repeat":
            data[place:place] = data[place : place + draw(st.integers(1, 64))]
        else:
            data[place : place + 4] = draw(st.sampled_from(NUMBERS))
    return bytes(data)


@st.composite
def altered_content(draw: st.DrawFn, seeds: list[Any]) -> Any:
    """A seed of which up to three values are replaced, removed or added."""
    content = draw(st.sampled_from(seeds))
    for _ in range(draw(st.integers(1, 3))):
        places = list(paths(content))
        if not places:
            break
        # By depth first: the tensors' names, which are many, would hide the few keys of the plans.
        depth = draw(st.sampled_from(sorted({len(place) for place in places})))
        place = draw(st.sampled_from([place for place in places if len(place) == depth]))
        edit, value = draw(st.sampled_from(("replace", "remove", "add"))), draw(junk)

        def change(inside: Any, edit: str = edit, key: Any = place[-1], value: Any = value) -> None:
            if edit == "remove":
                del inside[key]
            elif edit == "replace":
                inside[key] = value
            elif isinstance(inside, dict):
                inside[f"new {key}"] = value
            else:
                inside.append(value)

        content = altered(content, place, change)
    return content


def fuzz(name: str, count: int, repeatable: bool) -> Counter:
    """Run a target on ``count`` inputs; the number that were taken and refused."""
    target: Target = TARGETS[name]
    outcome: Counter = Counter()
    inputs = (altered_content if target.structured else altered_bytes)(target.seeds())

    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        derandomize=repeatable,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
        print_blob=not repeatable,
    )
    @given(inputs)
    def run(data: Any) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the libraries; ours are errors elsewhere
            outcome["taken" if survives(target, data) else "refused"] += 1

    run()
    return outcome


@pytest.mark.parametrize("name", TARGETS)
def test_a_seed_is_taken(name):
    """Otherwise the fuzzing would only ever see the first check."""
    if name not in ("Keras file", "import keras"):
        assert survives(TARGETS[name], TARGETS[name].seeds()[0])


@pytest.mark.parametrize("name", TARGETS)
def test_a_few_inputs(name):
    outcome = fuzz(name, QUICK, repeatable=True)
    print(
        f"survived: {outcome.total()} altered inputs of {name}: {outcome['refused']} refused, {outcome['taken']} taken"
    )


@pytest.mark.soak
@pytest.mark.parametrize("name", TARGETS)
def test_many_inputs(name):
    outcome = fuzz(name, LONG, repeatable=False)
    print(
        f"survived: {outcome.total()} altered inputs of {name}: {outcome['refused']} refused, {outcome['taken']} taken"
    )
