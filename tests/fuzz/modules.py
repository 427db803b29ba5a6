"""Random modules with every option, called in every way: padded, packed, unbatched, with lengths and resets.

Judged against the same module in float64 made of ``reference.gru``, run on each part of each sequence alone.
Letters: T steps, B batch, I input, H hidden, L layers, D directions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from cases import FLOATING
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import gru_ext
from fuzz.judge import judge
from gru_ext import reference
from gru_ext.variant import Variant


@dataclass(frozen=True)
class Call:
    """A module, its arguments, and which of the gradients are asked for."""

    seed: int
    steps: int
    lengths: tuple[int, ...]  # of each sequence; the batch is as long
    sizes: tuple[int, int]  # I, H
    options: tuple[tuple[str, Any], ...]  # of the module
    dtype: torch.dtype
    form: str  # "padded", "unbatched", "packed" or "lengths"
    has_state: bool
    resets: bool
    reset_state: str  # "", "of each sequence" or "shared"
    frozen: tuple[bool, ...]  # of x, hx, reset_state and, in turn, the parameters


@st.composite
def calls(draw: st.DrawFn) -> Call:
    """Sizes are small: what layers, layouts and options do to each other is the matter here."""
    steps = draw(st.integers(1, 6))
    form = draw(st.sampled_from(["padded", "unbatched", "packed", "lengths"]))
    fewest = 1 if form == "packed" else 0
    resets = form != "packed" and draw(st.booleans())
    layer_norm = draw(st.sampled_from([False, False, True, "joint"]))
    return Call(
        seed=draw(st.integers(0, 2**31)),
        steps=steps,
        lengths=tuple(draw(st.lists(st.integers(fewest, steps), min_size=1, max_size=1 if form == "unbatched" else 5))),
        sizes=(draw(st.integers(1, 6)), draw(st.integers(4, 20))),
        options=(
            ("num_layers", draw(st.integers(1, 3))),
            ("bias", draw(st.booleans())),
            ("batch_first", draw(st.booleans())),
            ("bidirectional", draw(st.booleans())),
            ("outputs", draw(st.sampled_from(["all", "last"]))),
            ("save", draw(st.sampled_from(["gates", "output"]))),
            ("zoneout", draw(st.sampled_from([0.0, 0.3]))),
            ("reset_after", layer_norm is not False or draw(st.booleans())),
            ("layer_norm", layer_norm),
        ),
        dtype=draw(st.sampled_from(FLOATING)),
        form=form,
        has_state=draw(st.booleans()),
        resets=resets,
        reset_state=draw(st.sampled_from(["", "of each sequence", "shared"])) if resets else "",
        frozen=tuple(draw(st.lists(st.booleans(), min_size=5, max_size=5))),
    )


def check(call: Call) -> None:
    """Fail unless results and gradients are within the policy of ``compare``."""
    judge(lambda number: [_solve(call, number, way) for way in ("ours", "peer", "exact")])


def _solve(call: Call, number: int, way: str) -> dict[str, Tensor]:
    """Results y (T, B, D*H) or (B, D*H) and h_n, and gradients: by ours, or part by part in this dtype or float64."""
    torch.manual_seed(call.seed + number)
    module = gru_ext.GRU(*call.sizes, **dict(call.options), dtype=call.dtype).eval()
    states, batch = len(module.all_weights), len(call.lengths)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape).to(call.dtype)

    leaves = {"x": normal(call.steps, batch, call.sizes[0])}
    if call.has_state:
        leaves["hx"] = normal(states, batch, call.sizes[1])
    if call.reset_state:
        leaves["reset_state"] = normal(states, *([batch] if call.reset_state != "shared" else []), call.sizes[1])
    leaves |= dict(module.named_parameters())
    resets = torch.rand(call.steps, batch) < 0.3 if call.resets else None
    dtype = torch.float64 if way == "exact" else call.dtype
    leaves = {
        name: tensor.detach().to(dtype).requires_grad_(not call.frozen[place % len(call.frozen)])
        for place, (name, tensor) in enumerate(leaves.items())
    }
    parameters = {name: leaf for name, leaf in leaves.items() if name not in ("x", "hx", "reset_state")}
    run = _call_ours if way == "ours" else _call_parts
    y, h_n = run(call, module, parameters, leaves, resets)

    loss = y.new_zeros(())
    for result in (y, h_n):
        factors = torch.randn(result.shape, generator=torch.Generator().manual_seed(call.seed)).to(dtype)
        loss = loss + (result * factors).sum()
    wanted = [name for name, leaf in leaves.items() if leaf.requires_grad]
    if wanted and loss.requires_grad:
        gradients = torch.autograd.grad(loss, [leaves[n] for n in wanted], allow_unused=True, materialize_grads=True)
    else:  # of no steps, none depends on anything
        gradients = tuple(torch.zeros_like(leaves[n]) for n in wanted)
    return {"y": y.detach(), "h_n": h_n.detach(), **{f"d{n}": g for n, g in zip(wanted, gradients, strict=True)}}


def _call_ours(
    call: Call, module: gru_ext.GRU, parameters: dict[str, Tensor], leaves: dict[str, Tensor], resets: Tensor | None
) -> tuple[Tensor, Tensor]:
    x, hx, reset_state = leaves["x"], leaves.get("hx"), leaves.get("reset_state")
    options = dict(call.options)
    last = options["outputs"] == "last"
    batch_first = options["batch_first"] and call.form != "unbatched"
    keywords: dict[str, Any] = {}
    if resets is not None:
        keywords["resets"] = resets.t() if batch_first else resets
    if reset_state is not None:
        keywords["reset_state"] = reset_state
    given: Any = x.transpose(0, 1) if batch_first else x
    if call.form == "unbatched":
        given, hx = x.squeeze(1), None if hx is None else hx.squeeze(1)
        keywords = {name: value.squeeze(1) if value.shape[1] == 1 else value for name, value in keywords.items()}
        if call.reset_state == "shared":
            keywords["reset_state"] = reset_state
    elif call.form == "packed":
        given = pack_padded_sequence(given, torch.tensor(call.lengths), batch_first, enforce_sorted=False)
    elif call.form == "lengths":
        keywords["lengths"] = torch.tensor(call.lengths)
    y, h_n = torch.func.functional_call(module, parameters, (given, hx), keywords)
    if call.form == "unbatched":
        return y.unsqueeze(0 if last else 1), h_n.unsqueeze(1)
    if last:
        return y, h_n
    if call.form == "packed":
        y, _ = pad_packed_sequence(y, batch_first, total_length=call.steps)
    return (y.transpose(0, 1) if batch_first else y), h_n


def _call_parts(
    call: Call, module: gru_ext.GRU, parameters: dict[str, Tensor], leaves: dict[str, Tensor], resets: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Every part of every sequence by itself: from its start, or a reset, to the next, or to its end."""
    x, hx, reset_state = leaves["x"], leaves.get("hx"), leaves.get("reset_state")
    options = dict(call.options)
    directions = 2 if options["bidirectional"] else 1
    norms = {False: 0, "joint": 1, True: 2}[options["layer_norm"]]
    variant = Variant(zoneout=options["zoneout"], reset_after=options["reset_after"], layer_norm=norms)
    weights = list(parameters.values())
    per_layer = len(weights) // options["num_layers"]

    def stack(x: Tensor, states: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """X (T, 1, I); the states (L, 1, H) of each direction, before and after."""
        last = []
        for layer in range(options["num_layers"]):
            hx = torch.stack([state[layer] for state in states])
            x, h_n = reference.gru(
                x, hx, weights[layer * per_layer : (layer + 1) * per_layer], None, directions == 2, variant
            )
            last.append(h_n)
        return x, list(torch.stack(last).unbind(1))

    outputs, last_states = [], []
    for b in range(x.shape[1]):
        length = call.lengths[b] if call.form in ("packed", "lengths") else call.steps
        zero = x.new_zeros(options["num_layers"] * directions, 1, call.sizes[1])
        given = zero if hx is None else hx[:, b : b + 1]
        anew = zero
        if reset_state is not None:
            anew = reset_state.unsqueeze(1) if reset_state.dim() == 2 else reset_state[:, b : b + 1]
        of_given, of_reset = (list(state.unflatten(0, (-1, directions)).unbind(1)) for state in (given, anew))
        begins = [t for t in range(length) if t == 0 or (resets is not None and resets[t, b])]
        is_cut = resets is not None and bool(resets[0, b])
        final = list(of_given)
        parts = []
        for begin, end in zip(begins, [*begins[1:], length], strict=False):
            # The second direction begins at a part's end, with the given state at the sequence's.
            start = [of_reset if begin > 0 or is_cut else of_given, of_reset if end < length else of_given]
            y, last = stack(x[begin:end, b : b + 1], [start[d][d] for d in range(directions)])
            parts.append(y)
            final[0] = last[0]
            if directions == 2 and begin == 0:
                final[1] = last[1]
        padding = x.new_zeros(call.steps - length, 1, directions * call.sizes[1])
        outputs.append(torch.cat([*parts, padding]))
        last_states.append(torch.stack(final, 1).flatten(0, 1))
    h_n = torch.cat(last_states, 1)
    if options["outputs"] == "last":
        return torch.cat(list(h_n[-directions:]), -1), h_n
    return torch.cat(outputs, 1), h_n
