"""Random prepared layers and cells: as near to float64 as the modules that they were made of; and damaged weights.

Letters: T steps, B batch, I input, H hidden, L layers, D directions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from unittest import mock

import pytest
import torch
from cases import FLOATING, Size
from hypothesis import strategies as st
from process import thread_count
from torch import Tensor

import gru_ext
from fuzz.judge import judge
from fuzz.layers import LAYOUTS


@dataclass(frozen=True)
class Case:
    """A module, how it is called, and what is damaged of what it was arranged to."""

    seed: int
    size: Size
    is_cell: bool
    options: tuple[tuple[str, Any], ...]  # of the module
    dtype: torch.dtype
    layouts: tuple[str, str]  # of the input and hx
    has_state: bool
    threads: int
    damage: str  # one of DAMAGES
    place: int  # of the damage


def _byte(arranged: Tensor, place: int) -> Tensor:
    """One bit of the header, which is what the sizes of all arrays follow from."""
    changed = arranged.clone(memory_format=torch.contiguous_format)
    changed[place // 8 % HEADER] ^= 1 << place % 8
    return changed


OF_LAYERS = {"num_layers": st.integers(1, 3), "batch_first": st.booleans(), "bidirectional": st.booleans()}
HEADER = 80  # bytes: Header of csrc/cpu/prepared.cpp
DAMAGES: dict[str, Callable[[Tensor, int], Tensor]] = {
    "a bit of the header": _byte,
    "short": lambda arranged, place: arranged[: place % arranged.numel()].clone(),
    "long": lambda arranged, place: torch.cat([arranged, arranged.new_zeros(1 + place % 100)]),
    "at an odd address": lambda arranged, place: torch.cat([arranged.new_zeros(1 + place % 60), arranged])[
        1 + place % 60 :
    ],
    "spread": lambda arranged, place: arranged.repeat_interleave(2)[::2],
    "of another dtype": lambda arranged, place: arranged.view(torch.int8),
}


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Sizes on both sides of tiles, and of the rows for which an ordinary call arranges weights."""
    layer_norm = draw(st.sampled_from([False, False, True, "joint"]))
    is_cell = draw(st.booleans())
    return Case(
        seed=draw(st.integers(0, 2**31)),
        size=Size(
            draw(st.integers(1, 7)),
            draw(st.integers(0, 20)),
            draw(st.integers(0 if is_cell else 1, 20)),  # a cell may have no input
            draw(st.one_of(st.integers(4, 36), st.integers(60, 70))),
        ),
        is_cell=is_cell,
        options=(
            ("bias", draw(st.booleans())),
            ("zoneout", draw(st.sampled_from([0.0, 0.3]))),
            ("reset_after", layer_norm is not False or draw(st.booleans())),
            ("layer_norm", layer_norm),
            *(() if is_cell else ((name, draw(values)) for name, values in OF_LAYERS.items())),
        ),
        dtype=draw(st.sampled_from(FLOATING)),
        layouts=draw(st.tuples(st.sampled_from(list(LAYOUTS)), st.sampled_from(list(LAYOUTS)))),
        has_state=draw(st.booleans()),
        threads=draw(st.integers(1, 3)),
        damage=draw(st.sampled_from(list(DAMAGES))),
        place=draw(st.integers(0, 2**20)),
    )


def check(case: Case) -> None:
    """Fail unless results are within the policy of ``compare``, and damaged weights are refused."""
    with thread_count(case.threads), torch.no_grad():
        judge(lambda number: _solve_thrice(case, number))
        _check_refusal(case)


def _module(case: Case, number: int) -> Any:
    torch.manual_seed(case.seed + number)
    kind = gru_ext.GRUCell if case.is_cell else gru_ext.GRU
    return kind(case.size.input, case.size.hidden, **dict(case.options), dtype=case.dtype).eval()


def _arguments(case: Case, module: Any) -> tuple[Tensor, Tensor | None]:
    steps, batch, size, hidden = case.size
    options = dict(case.options)
    if case.is_cell:
        x, hx = torch.randn(batch, size), torch.randn(batch, hidden)
    else:
        x = torch.randn(*((batch, steps) if options["batch_first"] else (steps, batch)), size)
        hx = torch.randn(len(module.all_weights), batch, hidden)
    x, hx = (LAYOUTS[layout](tensor.to(case.dtype)) for layout, tensor in zip(case.layouts, (x, hx), strict=True))
    return x, hx if case.has_state else None


def _solve_thrice(case: Case, number: int) -> list[dict[str, Tensor]]:
    """Prepared, which must not call the ordinary module; the ordinary module; it in float64."""
    module = _module(case, number)
    x, hx = _arguments(case, module)
    prepared = gru_ext.prepare(module)
    with mock.patch("gru_ext.modules.call_gru", None), mock.patch("gru_ext.modules.call_cell", None):
        ours = prepared(x, hx)
    exact = _module(case, number).double()(x.double(), None if hx is None else hx.double())
    all_results = [results if isinstance(results, tuple) else (results,) for results in (ours, module(x, hx), exact)]
    return [dict(zip(("y", "h_n"), results, strict=False)) for results in all_results]


def _check_refusal(case: Case) -> None:
    module = _module(case, 0)
    x, hx = _arguments(case, module)
    if case.is_cell:
        x, hx = x.unsqueeze(0), None if hx is None else hx.unsqueeze(0)
    prepared: Any = gru_ext.prepare(module)
    weights = [prepared.get_parameter(name) for name in prepared._gru_ext_arranged_names]
    damaged = DAMAGES[case.damage](prepared._gru_ext_arranged, case.place)
    batch_first = dict(case.options).get("batch_first", False)
    with pytest.raises(RuntimeError, match="gru_prepared: expected prepared"):
        torch.ops.gru_ext.gru_prepared(x, hx, weights, damaged, batch_first)
