"""Drop-in modules: the names, shapes, state and errors of ``torch.nn.GRU`` and ``torch.nn.GRUCell``.

They are not subclasses of these: ``torch.compile`` breaks its graph at every ``torch.nn.RNNBase``.
"""

from __future__ import annotations

import math
import numbers
import warnings
from collections.abc import Sequence
from typing import Any, ClassVar, NoReturn, overload

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from gru_ext import functional
from gru_ext.layout import run_packed
from gru_ext.overlap import check_overlap
from gru_ext.regularizers import Rates, check_rates
from gru_ext.sharing import check_recurrence, share

__all__ = ["GRU", "GRUCell"]


def check_size(module: str, name: str, value: Any) -> None:
    """Raise the error that a size deserves which is no int of at least 1."""
    if not isinstance(value, int):
        raise TypeError(f"{module}: expected {name} of type int, got {type(value).__name__}")
    if value < 1:
        raise ValueError(f"{module}: expected {name} of at least 1, got {value}")


def check_flag(module: str, name: str, value: Any) -> None:
    """Raise the error that a flag deserves which is no bool."""
    if not isinstance(value, bool):
        raise TypeError(f"{module}: expected {name} of type bool, got {type(value).__name__}")


def describe(module: nn.Module, **defaults: Any) -> str:
    """The sizes of a module, and those of its arguments that differ from their defaults."""
    given = {name: getattr(module, name) for name in defaults}
    parts = [f"{name}={value}" for name, value in given.items() if value != defaults[name]]
    return ", ".join([f"{module.input_size}, {module.hidden_size}", *parts])


def refuse_script(module: nn.Module) -> NoReturn:
    """Raise what ``torch.jit.script`` of a model with this module deserves, which asks each module before it begins."""
    raise NotImplementedError(
        f"{type(module).__name__}: torch.jit.script cannot compile it; use torch.export or torch.compile"
    )


def _reset_parameters(module: GRU | GRUCell) -> None:
    bound = 1.0 / math.sqrt(module.hidden_size)
    for name, parameter in module.named_parameters():
        if module.layer_norm is False or "weight" in name:  # also of a parametrized one
            nn.init.uniform_(parameter, -bound, bound)
        else:
            nn.init.constant_(parameter, 1.0 if "gain" in name else 0.0)


def _parameter(module: nn.Module, name: str) -> Any:
    """The module's attribute ``name``: from where parameters are kept, unless a parametrization took it from there.

    A fifth of a microsecond instead of half of one, for each parameter of each call.
    """
    parameters = module._parameters
    return parameters[name] if name in parameters else getattr(module, name)


class GRU(nn.Module):
    r"""A GRU of L layers over whole sequences; takes and does what ``torch.nn.GRU`` does.

    Letters: T steps, B batch, I input_size, H hidden_size, L num_layers, D directions (1 or 2). The parameters have
    ``torch.nn.GRU``'s names, shapes, order and, for the same seed, initial values, so that a ``state_dict`` of one
    loads into the other: for each layer k, ``weight_ih_l{k}`` (3H, I or D*H), ``weight_hh_l{k}`` (3H, H) and, with
    ``bias``, ``bias_ih_l{k}`` (3H), ``bias_hh_l{k}`` (3H); those of the reverse direction end in ``_reverse``. With
    ``layer_norm`` there are ``gain_ih_l{k}`` (3H) and ``gain_hh_l{k}`` (3H) too.

    Args:
        input_size: I.
        hidden_size: H.
        num_layers: L, default 1.
        bias: whether the layers have biases, default True.
        batch_first: input and output are (B, T, ...), default False: (T, B, ...).
        dropout: probability of zeroing an element of the output of each layer but the last, in training; default 0.
        bidirectional: D = 2, default False.
        device: of the parameters.
        dtype: of the parameters: float32, float64, bfloat16 or float16.
        outputs: "all", the default; or "last", where the output is only the last layer's state after each sequence's
            last step, (B, D*H), and the other states are not kept in memory where no gradient needs them.
        save: what training keeps of each layer for its backward: "gates", the default, which are 4H values a step and
            row (3H without ``reset_after``, 9H + 16 with ``layer_norm``), and its output; or "output", its output
            alone: a fraction of the memory, for about a third more time (docs/performance.md).
        overlap_layers: time steps of a chunk: on CUDA, a layer computes a chunk while the one below computes the next,
            where ``num_layers`` is above 1 and ``bidirectional`` False. Default 0: one layer after another, as also on
            a CPU, with input that is packed or has lengths or resets, and under ``torch.compile`` and
            export. What it costs, and why it is a number: ``functional.gru`` and docs/cuda.md; it has not been timed.
        zoneout: probability that a unit keeps its state in a step; in ``eval()`` every unit keeps this part of it.
            Default 0.
        recurrent_dropout: probability that a unit of the state does not enter the recurrent product, for all steps of a
            sequence alike; default 0.
        candidate_dropout: probability that a unit's candidate n does not enter the state in a step; default 0.
        weight_dropout: probability that an element of weight_hh is zero for all of a call; default 0.
        reset_after: whether the reset gate is applied after the recurrent product of the candidate, default True, as in
            ``torch.nn.GRU``; False: before it, as in Cho et al. 2014 (https://arxiv.org/abs/1406.1078). The parameters
            are the same.
        layer_norm: whether W x and R h are normalised over units at every step, each with a gain, and the biases as
            shifts (Ba, Kiros, Hinton 2016, https://arxiv.org/abs/1607.06450): True, r and z together and n by itself,
            as there; "joint", all three together, as in haste's LayerNormGRU. Default False.

    The four probabilities apply in training, zoneout in ``eval()`` too, to every layer and direction, and go together
    in any way; the papers are named in ``functional.gru``, the equations in docs/variants.md.

    Raises:
        TypeError: a size or ``overlap_layers`` is not an int, a flag not a bool, or ``dropout`` None or complex.
        ValueError: a size is below 1, ``dropout`` not a number in [0, 1], another probability not one in [0, 1),
            ``outputs`` neither "all" nor "last", ``save`` neither "gates" nor "output", ``layer_norm`` another value
            or with ``reset_after=False``, or ``overlap_layers`` below 0, or above with ``num_layers`` 1,
            ``bidirectional`` or ``recurrent_dropout``.
    """

    __constants__ = (
        "input_size",
        "hidden_size",
        "num_layers",
        "bias",
        "batch_first",
        "dropout",
        "bidirectional",
    )
    # Arguments that torch.nn.GRU does not have, with the values for which it does the same.
    input_size: int
    hidden_size: int
    num_layers: int
    bias: bool
    batch_first: bool
    dropout: float
    bidirectional: bool
    # The arguments that torch.nn.GRU does not have, and their defaults; also of modules pickled without them.
    beyond_torch: ClassVar[dict[str, Any]] = {
        "outputs": "all",
        "save": "gates",
        "overlap_layers": 0,
        "zoneout": 0.0,
        "recurrent_dropout": 0.0,
        "candidate_dropout": 0.0,
        "weight_dropout": 0.0,
        "reset_after": True,
        "layer_norm": False,
    }
    outputs: str = "all"
    save: str = "gates"
    overlap_layers: int = 0
    zoneout: float = 0.0
    recurrent_dropout: float = 0.0
    candidate_dropout: float = 0.0
    weight_dropout: float = 0.0
    reset_after: bool = True
    layer_norm: bool | str = False

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        outputs: str = "all",
        save: str = "gates",
        overlap_layers: int = 0,
        zoneout: float = 0.0,
        recurrent_dropout: float = 0.0,
        candidate_dropout: float = 0.0,
        weight_dropout: float = 0.0,
        reset_after: bool = True,
        layer_norm: bool | str = False,
    ) -> None:
        super().__init__()
        functional.check_outputs("GRU", outputs)
        functional.check_save("GRU", save)
        rates = Rates(zoneout, recurrent_dropout, candidate_dropout, weight_dropout)
        check_rates("GRU", rates)
        for name, size in (
            ("input_size", input_size),
            ("hidden_size", hidden_size),
            ("num_layers", num_layers),
        ):
            check_size("GRU", name, size)
        for name, flag in (
            ("bias", bias),
            ("batch_first", batch_first),
            ("bidirectional", bidirectional),
            ("reset_after", reset_after),
        ):
            check_flag("GRU", name, flag)
        functional.normalizations("GRU", layer_norm, reset_after)
        if overlap_layers != 0:
            check_overlap("GRU", overlap_layers, num_layers, bidirectional, recurrent_dropout)
        if dropout is None or isinstance(dropout, complex):
            raise TypeError(f"GRU: expected dropout to be a number in [0, 1], got {dropout!r}")
        if not isinstance(dropout, numbers.Real) or isinstance(dropout, bool) or not 0 <= dropout <= 1:
            raise ValueError(f"GRU: expected dropout to be a number in [0, 1], got {dropout!r}")
        if dropout > 0 and num_layers == 1:
            warnings.warn(
                f"GRU: dropout = {dropout} has no effect with num_layers = 1: it applies between layers",
                stacklevel=2,
            )
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.bias = bias
        self.batch_first = batch_first
        self.dropout = float(dropout)
        self.bidirectional = bidirectional
        self.outputs = outputs
        self.save = save
        self.overlap_layers = overlap_layers
        for name, rate in rates._asdict().items():
            setattr(self, name, float(rate) or 0)  # of an int torch.compile knows that it does not vary
        self.reset_after = reset_after
        self.layer_norm = layer_norm
        self._weight_names: list[str] = []
        directions = 2 if bidirectional else 1
        for layer in range(num_layers):
            layer_input = input_size if layer == 0 else directions * hidden_size
            shapes: dict[str, tuple[int, ...]] = {
                "weight_ih": (3 * hidden_size, layer_input),
                "weight_hh": (3 * hidden_size, hidden_size),
            }
            if bias:
                shapes |= {"bias_ih": (3 * hidden_size,), "bias_hh": (3 * hidden_size,)}
            if layer_norm is not False:
                shapes |= {"gain_ih": (3 * hidden_size,), "gain_hh": (3 * hidden_size,)}
            for suffix in ("", "_reverse")[:directions]:
                for kind, shape in shapes.items():
                    name = f"{kind}_l{layer}{suffix}"
                    self.register_parameter(name, nn.Parameter(torch.empty(shape, device=device, dtype=dtype)))
                    self._weight_names.append(name)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw every parameter from U(-1/sqrt(H), 1/sqrt(H)); with ``layer_norm``, gains are one and biases zero."""
        _reset_parameters(self)

    def flatten_parameters(self) -> None:
        """Do nothing: accepted for code written for ``torch.nn.GRU``. The kernels take the weights where they are."""

    @property
    def all_weights(self) -> list[list[Tensor]]:
        """The parameters, a list for each direction of each layer, in the order of the class's description."""
        weights = self._weights()
        per_direction = 2 + (2 if self.bias else 0) + (2 if self.layer_norm else 0)
        return [weights[i : i + per_direction] for i in range(0, len(weights), per_direction)]

    def _weights(self) -> list[Tensor]:
        return [_parameter(self, name) for name in self._weight_names]

    @overload
    def forward(
        self,
        input: Tensor,
        hx: Tensor | None = None,
        *,
        lengths: Tensor | Sequence[int] | int | None = None,
        resets: Tensor | None = None,
        reset_state: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]: ...

    @overload
    def forward(self, input: PackedSequence, hx: Tensor | None = None) -> tuple[Any, Tensor]: ...

    def forward(
        self,
        input: Tensor | PackedSequence,
        hx: Tensor | None = None,
        *,
        lengths: Tensor | Sequence[int] | int | None = None,
        resets: Tensor | None = None,
        reset_state: Tensor | None = None,
    ) -> tuple[Tensor | PackedSequence, Tensor]:
        """Run the layers.

        Args:
            input: (T, B, I); (B, T, I) with ``batch_first``; (T, I) unbatched; or a ``PackedSequence``, sorted or not.
            hx: (L*D, B, H) initial state, or (L*D, H) unbatched; None for zero.
            lengths: (B) steps of each padded sequence: integers from 0 to T, in any order, on any device; one integer
                unbatched. Their padding is not computed; its output is zero, and h_n is the state after each
                sequence's own last step, or hx where it has none.
            resets: (T, B) bool, or (B, T) with ``batch_first``, (T) unbatched: where set, the state is reset before the
                step, as if another sequence began with it; where the first step is set, hx is of no effect.
            reset_state: (L*D, B, H), or (L*D, H) for all sequences: where a reset leaves the state; None for zero.

        On a GPU, ``lengths`` and ``resets`` that are there are waited for, once a call, as packing would.

        Returns:
            The output, (T, B, D*H) or as the input was laid out (a ``PackedSequence`` for one), or with
            ``outputs="last"`` (B, D*H), unbatched (D*H), in any layout; and h_n (L*D, B, H) or (L*D, H).

        Raises:
            ValueError: the rank of ``input`` or its dtype is wrong, ``lengths`` or ``resets`` come with a
                ``PackedSequence``, or ``reset_state`` without ``resets``.
            RuntimeError: a size, a shape, a device, one of the lengths, or the dtype of a tensor but ``input`` is
                wrong, or T is 0.
        """
        if not isinstance(input, PackedSequence):
            return self._run(input, hx, None, lengths, resets, reset_state)
        if lengths is not None or resets is not None or reset_state is not None:
            raise ValueError(
                "gru: expected lengths and resets of padded input, got them with a PackedSequence;"
                " torch.nn.utils.rnn.pad_packed_sequence gives padded input and its lengths"
            )
        layers = self.num_layers * (2 if self.bidirectional else 1)
        return run_packed(self._run, input, hx, layers, self.hidden_size, self.outputs)

    def _run(
        self,
        input: Tensor,
        hx: Tensor | None,
        batch_sizes: Tensor | None,
        lengths: Tensor | Sequence[int] | int | None = None,
        resets: Tensor | None = None,
        reset_state: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        return functional.gru(
            input,
            hx,
            self._weights(),
            num_layers=self.num_layers,
            bidirectional=self.bidirectional,
            batch_first=self.batch_first,
            dropout=self.dropout,
            training=self.training,
            batch_sizes=batch_sizes,
            lengths=lengths,
            resets=resets,
            reset_state=reset_state,
            outputs=self.outputs,
            save=self.save,
            overlap_layers=self.overlap_layers,
            zoneout=self.zoneout,
            recurrent_dropout=self.recurrent_dropout,
            candidate_dropout=self.candidate_dropout,
            weight_dropout=self.weight_dropout,
            reset_after=self.reset_after,
            layer_norm=self.layer_norm,
        )

    __prepare_scriptable__ = refuse_script

    def extra_repr(self) -> str:
        """The arguments that differ from their defaults, as ``torch.nn.GRU`` prints them."""
        defaults: dict[str, Any] = {"num_layers": 1, "bias": True, "batch_first": False, "dropout": 0}
        return describe(self, **defaults, bidirectional=False, **self.beyond_torch)

    @classmethod
    def from_torch(cls, module: nn.GRU) -> GRU:
        """A GRU with the very parameters, hooks and mode of a ``torch.nn.GRU``.

        The parameters are shared, not copied: an optimizer that holds them stays valid.

        Raises:
            TypeError: ``module`` is not exactly a ``torch.nn.GRU``, or its parameters are parametrized or pruned.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of dropout with one layer: given when `module` was made
            return share(module, nn.GRU, cls, GRU.__constants__)

    def to_torch(self) -> nn.GRU:
        """The ``torch.nn.GRU`` with this module's very parameters, hooks and mode.

        Raises:
            ValueError: ``torch.nn.GRU`` has no such recurrence or output.
        """
        check_recurrence("to_torch", self, allowed=("save", "overlap_layers"))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of dropout with one layer: given when this module was made
            return share(self, GRU, nn.GRU, GRU.__constants__)


class GRUCell(nn.Module):
    """One step of a GRU; takes and does what ``torch.nn.GRUCell`` does.

    Parameters: ``weight_ih`` (3H, I), ``weight_hh`` (3H, H) and, with ``bias``, ``bias_ih`` (3H), ``bias_hh`` (3H);
    with ``layer_norm``, ``gain_ih`` (3H), ``gain_hh`` (3H).

    Args:
        input_size: I.
        hidden_size: H.
        bias: whether the cell has biases, default True.
        device: of the parameters.
        dtype: of the parameters: float32, float64, bfloat16 or float16.
        zoneout: as in ``GRU``.
        candidate_dropout: as in ``GRU``. A cell knows of no sequence, so it has none of ``GRU``'s dropouts that keep
            their masks for one.
        reset_after: as in ``GRU``, default True.
        layer_norm: as in ``GRU``, default False.

    Raises:
        TypeError: a size is not an int, or a flag not a bool.
        ValueError: a size is below 1, a probability not a number in [0, 1), or ``layer_norm`` another value or with
            ``reset_after=False``.
    """

    __constants__ = ("input_size", "hidden_size", "bias")
    input_size: int
    hidden_size: int
    bias: bool
    # As in GRU.
    beyond_torch: ClassVar[dict[str, Any]] = {
        "zoneout": 0.0,
        "candidate_dropout": 0.0,
        "reset_after": True,
        "layer_norm": False,
    }
    zoneout: float = 0.0
    candidate_dropout: float = 0.0
    reset_after: bool = True
    layer_norm: bool | str = False

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        zoneout: float = 0.0,
        candidate_dropout: float = 0.0,
        reset_after: bool = True,
        layer_norm: bool | str = False,
    ) -> None:
        super().__init__()
        check_rates("GRUCell", Rates(zoneout, candidate_dropout=candidate_dropout))
        check_size("GRUCell", "input_size", input_size)
        check_size("GRUCell", "hidden_size", hidden_size)
        check_flag("GRUCell", "bias", bias)
        check_flag("GRUCell", "reset_after", reset_after)
        functional.normalizations("GRUCell", layer_norm, reset_after)
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.bias = bias
        self.zoneout = float(zoneout) or 0  # as in GRU
        self.candidate_dropout = float(candidate_dropout) or 0
        self.reset_after = reset_after
        self.layer_norm = layer_norm

        def parameter(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(shape, device=device, dtype=dtype))

        self.weight_ih = parameter(3 * hidden_size, input_size)
        self.weight_hh = parameter(3 * hidden_size, hidden_size)
        self.bias_ih = parameter(3 * hidden_size) if bias else None
        self.bias_hh = parameter(3 * hidden_size) if bias else None
        if layer_norm is not False:
            self.gain_ih, self.gain_hh = parameter(3 * hidden_size), parameter(3 * hidden_size)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw every parameter from U(-1/sqrt(H), 1/sqrt(H)); with ``layer_norm``, gains are one and biases zero."""
        _reset_parameters(self)

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        """Run one step.

        Args:
            input: (B, I), or (I) unbatched.
            hx: (B, H), or (H) unbatched; None for zero.

        Returns:
            The next state, (B, H) or (H).

        Raises:
            ValueError: the rank of ``input`` or ``hx`` is wrong.
            RuntimeError: a size, a shape, a dtype or a device is wrong.
        """
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        return functional.gru_cell(
            input,
            hx,
            *(_parameter(self, name) for name in names),
            zoneout=self.zoneout,
            candidate_dropout=self.candidate_dropout,
            training=self.training,
            reset_after=self.reset_after,
            **self._normalization(),
        )

    def _normalization(self) -> dict[str, Any]:
        if self.layer_norm is False:
            return {}
        gains = {name: _parameter(self, name) for name in ("gain_ih", "gain_hh")}
        return {"layer_norm": self.layer_norm, **gains}

    __prepare_scriptable__ = refuse_script

    def extra_repr(self) -> str:
        """The arguments that differ from their defaults, as ``torch.nn.GRUCell`` prints them."""
        return describe(self, bias=True, **self.beyond_torch)

    @classmethod
    def from_torch(cls, module: nn.GRUCell) -> GRUCell:
        """A GRUCell with the very parameters, hooks and mode of a ``torch.nn.GRUCell``; see ``GRU.from_torch``."""
        return share(module, nn.GRUCell, cls, GRUCell.__constants__)

    def to_torch(self) -> nn.GRUCell:
        """The ``torch.nn.GRUCell`` with this module's very parameters, hooks and mode; see ``GRU.to_torch``."""
        check_recurrence("to_torch", self)
        return share(self, GRUCell, nn.GRUCell, self.__constants__)
