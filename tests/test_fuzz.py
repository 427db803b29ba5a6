"""A few seconds of the fuzz in tests/fuzz, the same cases every time; ``make fuzz`` looks at others, as long as asked.

Hypothesis makes a case that fails as small as it can, and prints it.
"""

from __future__ import annotations

from fuzz import int8, layers, modules, prepared, threads, wrong_calls
from hypothesis import HealthCheck, given, settings

# Nothing depends on the machine, and nothing is left on its disk.
SOME = settings(
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@settings(SOME, max_examples=40)
@given(layers.cases("cpu"))
def test_layers(case: layers.Case) -> None:
    layers.check(case)


@settings(SOME, max_examples=20)
@given(int8.cases())
def test_layers_of_int8_weights(case: int8.Case) -> None:
    int8.check(case)


@settings(SOME, max_examples=40)
@given(prepared.cases())
def test_prepared_modules(case: prepared.Case) -> None:
    prepared.check(case)


@settings(SOME, max_examples=40)
@given(threads.cases())
def test_layers_on_many_threads(case: threads.Case) -> None:
    threads.check(case)


@settings(SOME, max_examples=15)
@given(layers.cases("cuda"))
def test_layers_of_the_emulated_backend(case: layers.Case) -> None:
    layers.check(case)


@settings(SOME, max_examples=60)
@given(modules.calls())
def test_modules(call: modules.Call) -> None:
    modules.check(call)


def test_wrong_calls_are_refused_in_three_parts() -> None:
    """Every one of them: by an error that names the argument, what was expected and what came."""
    faults = [
        f"{call.function}({call.parameter}={call.value()!r}): {fault}"
        for call in wrong_calls.every_call()
        if (fault := wrong_calls.fault_of(call))
    ]
    assert not faults, "\n".join(faults)
