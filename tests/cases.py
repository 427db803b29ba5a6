"""Builders of small problems, and the ways to solve one: ours, nn.GRU and the reference.

Letters: T steps, B batch, I input, H hidden, L layers, D directions, N rows of all steps of a packed batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence

import gru_ext
from gru_ext import functional, reference
from gru_ext.autograd import gru_layer
from gru_ext.variant import PLAIN, Variant

FLOATING = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
WEIGHT_KINDS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
GAIN_KINDS = ("gain_ih", "gain_hh")
# Arguments of modules: every layout, layers and directions.
LAYERS: list[dict[str, Any]] = [{}, {"bias": False, "batch_first": True}, {"num_layers": 2, "bidirectional": True}]


class Size(NamedTuple):
    """T, B, I, H of one layer."""

    steps: int
    batch: int
    input: int
    hidden: int


@dataclass(frozen=True)
class Options:
    """What a layer has and is called with, besides its sizes."""

    bidirectional: bool = False
    bias: bool = True
    hx: bool = True
    packed: bool = False
    gains: bool = False

    def __str__(self) -> str:
        words = {"bidirectional": "bi", "bias": "bias", "hx": "hx", "packed": "packed", "gains": "gains"}
        return "-".join(word for name, word in words.items() if getattr(self, name)) or "plain"


ALL_OPTIONS = [
    Options(bidirectional, bias, hx, packed)
    for bidirectional in (False, True)
    for bias in (False, True)
    for hx in (False, True)
    for packed in (False, True)
]


@dataclass(frozen=True)
class Problem:
    """The arguments of one layer, and gradients of its results."""

    x: Tensor  # (T, B, I) or (N, I)
    hx: Tensor | None  # (D, B, H)
    weights: list[Tensor]
    batch_sizes: Tensor | None  # (T)
    bidirectional: bool
    dy: Tensor | None = field(default=None)  # as y
    dh_n: Tensor | None = field(default=None)  # (D, B, H)
    gains: bool = False

    @property
    def names(self) -> list[str]:
        """Of the weights, as nn.GRU has them, and of the gains of layer normalisation."""
        directions = 2 if self.bidirectional else 1
        gains = GAIN_KINDS if self.gains else ()
        kinds = WEIGHT_KINDS[: len(self.weights) // directions - len(gains)] + gains
        return [f"{kind}_l0{suffix}" for suffix in ("", "_reverse")[:directions] for kind in kinds]

    @property
    def layer(self) -> tuple[Tensor, Tensor | None, list[Tensor], Tensor | None, bool]:
        """The arguments of a ``Layer``."""
        return self.x, self.hx, self.weights, self.batch_sizes, self.bidirectional

    @property
    def named(self) -> dict[str, Tensor]:
        """x, hx where given, and the weights, by name."""
        state = {} if self.hx is None else {"hx": self.hx}
        return {"x": self.x, **state, **dict(zip(self.names, self.weights, strict=True))}

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """These, in their order."""
        return tuple(self.named.values())

    @property
    def all_tensors(self) -> tuple[Tensor, ...]:
        """These, dy and dh_n, where given."""
        return (*self.tensors, *(tensor for tensor in (self.dy, self.dh_n) if tensor is not None))

    def map(self, function: Callable[[Tensor], Tensor]) -> Problem:
        """Every floating tensor through a function."""

        def optional(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else function(tensor)

        return replace(
            self,
            x=function(self.x),
            hx=optional(self.hx),
            weights=[function(w) for w in self.weights],
            dy=optional(self.dy),
            dh_n=optional(self.dh_n),
        )

    def to(self, dtype: torch.dtype) -> Problem:
        """The same values in another dtype."""
        return self.map(lambda tensor: tensor.to(dtype))

    def trainable(self) -> Problem:
        """The same values as leaves that require gradients."""
        return self.map(lambda tensor: tensor.detach().clone().requires_grad_())


def pair_of_grus(*sizes: Any, **arguments: Any) -> tuple[gru_ext.GRU, nn.GRU]:
    """Ours and nn.GRU with the same arguments and parameters."""
    module, peer = gru_ext.GRU(*sizes, **arguments), nn.GRU(*sizes, **arguments)
    peer.load_state_dict(module.state_dict())
    return module, peer


def gru_like(module: gru_ext.GRU, **arguments: Any) -> gru_ext.GRU:
    """A GRU with the sizes and parameters of another."""
    dtype = module.all_weights[0][0].dtype
    other = gru_ext.GRU(module.input_size, module.hidden_size, dtype=dtype, **arguments)
    other.load_state_dict(module.state_dict())
    return other


def lengths_of(steps: int, batch: int) -> list[int]:
    """Unequal lengths of B sequences, longest (T) first; equal ones among them."""
    return [max(1, steps - (steps * b) // batch if b % 3 else steps - b) for b in range(batch)]


def batch_sizes_of(lengths: Sequence[int]) -> Tensor:
    """Rows of each step of a packed batch."""
    return torch.tensor([sum(length > t for length in lengths) for t in range(max(lengths))])


def make_problem(size: Size, options: Options = Options(), dtype: torch.dtype = torch.float64) -> Problem:
    """Random arguments: states and inputs of size about 1, weights as nn.GRU draws them but wider."""
    steps, batch, inputs, hidden = size
    directions = 2 if options.bidirectional else 1

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=torch.float64).to(dtype)

    batch_sizes = batch_sizes_of(lengths_of(steps, batch)) if options.packed else None
    rows = (steps, batch) if batch_sizes is None else (int(batch_sizes.sum()),)
    shapes = [(3 * hidden, inputs), (3 * hidden, hidden), (3 * hidden,), (3 * hidden,)][: 4 if options.bias else 2]
    gains = [(3 * hidden,), (3 * hidden,)] if options.gains else []

    def weights() -> list[Tensor]:
        return [normal(*shape).div_(hidden**0.5) for shape in shapes] + [1 + 0.3 * normal(*shape) for shape in gains]

    return Problem(
        x=normal(*rows, inputs),
        hx=normal(directions, batch, hidden) if options.hx else None,
        weights=[weight for _ in range(directions) for weight in weights()],
        batch_sizes=batch_sizes,
        bidirectional=options.bidirectional,
        dy=normal(*rows, directions * hidden),
        dh_n=normal(directions, batch, hidden),
        gains=options.gains,
    )


# One layer as a function of x, hx, weights, batch_sizes and bidirectional, to y and h_n; shapes as in Problem.
Layer = Callable[[Tensor, Tensor | None, Sequence[Tensor], Tensor | None, bool], tuple[Tensor, Tensor]]


def ours(
    x: Tensor, hx: Tensor | None, weights: Sequence[Tensor], batch_sizes: Tensor | None, bidirectional: bool
) -> tuple[Tensor, Tensor]:
    """``functional.gru`` as a Layer."""
    return functional.gru(x, hx, weights, bidirectional=bidirectional, batch_sizes=batch_sizes)


def framework(
    x: Tensor, hx: Tensor | None, weights: Sequence[Tensor], batch_sizes: Tensor | None, bidirectional: bool
) -> tuple[Tensor, Tensor]:
    """``torch.nn.GRU`` as a Layer."""
    directions = 2 if bidirectional else 1
    module = nn.GRU(
        x.shape[-1],
        weights[1].shape[1],
        bias=len(weights) == 4 * directions,
        bidirectional=bidirectional,
        device="meta",
        dtype=x.dtype,
    )
    parameters = dict(zip([name for name, _ in module.named_parameters()], weights, strict=True))
    inputs: Any = x if batch_sizes is None else PackedSequence(x, batch_sizes)
    y, h_n = torch.func.functional_call(module, parameters, (inputs, hx))
    return (y if batch_sizes is None else y.data), h_n


exact: Layer = reference.gru


def function_of(layer: Layer, problem: Problem) -> Callable[..., tuple[Tensor, Tensor]]:
    """A layer as a function of the tensors of a problem."""

    def function(x: Tensor, *others: Tensor) -> tuple[Tensor, Tensor]:
        hx, weights = (None, others) if problem.hx is None else (others[0], others[1:])
        return layer(x, hx, weights, problem.batch_sizes, problem.bidirectional)

    return function


def solve(layer: Layer, problem: Problem) -> dict[str, Tensor]:
    """y, h_n and, where dy or dh_n is given, every gradient, by name."""
    leaves = problem.map(lambda tensor: tensor.detach().requires_grad_())
    y, h_n = layer(*leaves.layer)
    results = {"y": y.detach(), "h_n": h_n.detach()}
    given = [(o, g) for o, g in ((y, problem.dy), (h_n, problem.dh_n)) if g is not None]
    if given:
        gradients = torch.autograd.grad([o for o, _ in given], leaves.tensors, [g for _, g in given])
        results |= {f"d{name}": gradient for name, gradient in zip(leaves.named, gradients, strict=True)}
    return results


def solve_by_hand(problem: Problem, variant: Variant = PLAIN) -> dict[str, Tensor]:
    """As ``solve``, by the reference, with its own backward."""
    y, h_n = reference.gru(*problem.layer, variant)
    dx, dhx, dweights = reference.gru_bwd(problem.dy, problem.dh_n, *problem.layer, variant)
    state = {} if problem.hx is None else {"dhx": dhx}
    names = [f"d{name}" for name in problem.names]
    return {"y": y, "h_n": h_n, "dx": dx, **state, **dict(zip(names, dweights, strict=True))}


def results_of(gru: nn.Module, x: Tensor, hx: Tensor | None) -> dict[str, Tensor]:
    """The results of a module, and the gradients of everything, by name."""
    wanted = {"x": x, **({} if hx is None else {"hx": hx}), **dict(gru.named_parameters())}
    names = ["output", "h_n", *(f"d{name}" for name in wanted)]
    return dict(zip(names, results_and_gradients(gru, (x, hx), wanted.values()), strict=True))


def tensors_in(value: Any) -> list[Tensor]:
    """Every floating tensor of nested tuples and lists, in order."""
    if isinstance(value, PackedSequence):
        return [value.data]
    if isinstance(value, Tensor):
        return [value]
    return [tensor for part in value for tensor in tensors_in(part)] if isinstance(value, (tuple, list)) else []


def results_and_gradients(call: Any, inputs: Sequence[Any], leaves: Iterable[Tensor]) -> list[Tensor]:
    """Every tensor that a call returns, then the gradients of the leaves, of a scalar of all these."""
    results = tensors_in(call(*inputs))
    total = torch.stack([result.double().sin().sum() for result in results]).sum()
    return [*results, *torch.autograd.grad(total, list(leaves))]


def solve_by(
    ops: Any,
    problem: Problem,
    variant: Variant = PLAIN,
    save_gates: bool = True,
    need: tuple[bool, bool, bool] = (True, True, True),
) -> dict[str, Tensor]:
    """As ``solve``, by a backend's operators; ``need``: which of the gradients of x, hx and the weights."""
    y, h_n, gates = ops.gru_fwd(*problem.layer, save_gates, True, *variant)
    assert save_gates or gates.shape == (0,)
    results = {"y": y, "h_n": h_n}
    if problem.dy is None and problem.dh_n is None:
        return results
    gradients = ops.gru_bwd(problem.dy, problem.dh_n, *problem.layer, y, gates, *need, *variant)
    return results | gradients_by_name(problem, gradients, need, empty=(0,))


def gradients_by_name(
    problem: Problem,
    gradients: tuple[Tensor, Tensor, list[Tensor]],
    need: tuple[bool, bool, bool],
    empty: tuple[int, ...],
) -> dict[str, Tensor]:
    """Of what a backward operator returns, which is empty where it is not needed."""
    (dx, dhx, dweights), (need_dx, need_dhx, need_dweights) = gradients, need
    assert need_dx or dx.shape == empty
    assert need_dhx or dhx.shape == empty
    assert need_dweights or not dweights
    return {
        **({"dx": dx} if need_dx else {}),
        **({"dhx": dhx} if need_dhx and problem.hx is not None else {}),
        **(dict(zip([f"d{name}" for name in problem.names], dweights, strict=True)) if need_dweights else {}),
    }


def variants_of(problem: Problem, reset_after: bool = True) -> dict[str, Variant]:
    """Masks of each kind for a problem, alone and together, and the zoneout of eval mode."""
    directions = 2 if problem.bidirectional else 1
    hidden = problem.weights[1].shape[1]
    rows = problem.x.shape[:-1].numel()
    assert problem.dh_n is not None
    of_steps, of_states = (directions, rows, hidden), problem.dh_n.shape
    zoneout, recurrent, candidate = (torch.rand(shape) < 0.6 for shape in (of_steps, of_states, of_steps))
    alone = {
        "zoneout": Variant(zoneout_mask=zoneout),
        "zoneout of eval mode": Variant(zoneout=0.3),
        "recurrent dropout": Variant(recurrent_mask=recurrent, recurrent_dropout=0.4),
        "candidate dropout": Variant(candidate_mask=candidate, candidate_dropout=0.4),
        "all": Variant(zoneout, recurrent, candidate, 0.0, 0.4, 0.3),
    }
    return {name: variant._replace(reset_after=reset_after) for name, variant in alone.items()}


def layer_with(variant: Variant, save_gates: bool = True) -> Layer:
    """``gru_layer`` with a variant as a Layer."""
    return partial(gru_layer, variant=variant, save_gates=save_gates)


def reference_with(variant: Variant) -> Layer:
    """``reference.gru`` with a variant as a Layer."""
    return partial(reference.gru, variant=variant)


def seeded(call: Any, *arguments: Any, **keywords: Any) -> Any:
    """What a call returns, with the same random numbers each time."""
    torch.manual_seed(11)
    return call(*arguments, **keywords)


def inputs_of_each_kind(batch_first: bool, dtype: torch.dtype = torch.float64) -> dict[str, tuple[Any, dict[str, Any]]]:
    """Of a module with I = 3, for 5 steps of 4 sequences: input and keywords."""
    lengths = [3, 0, 5, 1]
    x = torch.randn(5, 4, 3, dtype=dtype)
    padded = x.transpose(0, 1) if batch_first else x
    sequences = [x[: max(1, length), b] for b, length in enumerate(lengths)]
    return {
        "padded": (padded, {}),
        "lengths": (padded, {"lengths": lengths}),
        "resets": (padded, {"resets": torch.rand(padded.shape[:2]) < 0.4}),
        "packed": (pack_sequence(sequences, enforce_sorted=False), {}),
        "unbatched": (x[:, 0], {}),
        "unbatched lengths": (x[:, 0], {"lengths": 2}),
    }
