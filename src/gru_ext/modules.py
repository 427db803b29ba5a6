"""Drop-in modules: the names, shapes, state and errors of ``torch.nn.GRU`` and ``torch.nn.GRUCell``.

They are not subclasses of these: ``torch.compile`` breaks its graph at every ``torch.nn.RNNBase``.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar, Literal, NoReturn, overload

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from gru_ext.attributes import ModuleWithOptions, option, parameter_or_attribute
from gru_ext.call import call_cell, call_gru
from gru_ext.fx import Proxy, record_call
from gru_ext.layout import check_no_padding, run_packed
from gru_ext.onnx_export import check_export
from gru_ext.overlap import check_overlap
from gru_ext.recurrence import (
    DEFAULTS,
    Changes,
    as_flag,
    check_blocks_of,
    check_dropout,
    check_flag,
    check_size,
    documented,
)
from gru_ext.sharing import check_recurrence, converted
from gru_ext.torch_internals import forward_in_jit_trace

__all__ = ["GRU", "GRUCell"]


def describe(module: nn.Module, options: dict[str, Any], **defaults: Any) -> str:
    """The sizes of a module, and those of its arguments and options that differ from their defaults."""
    given = {name: getattr(module, name) for name in defaults} | options
    defaults = DEFAULTS | defaults
    parts = [f"{name}={value}" for name, value in given.items() if value != defaults[name]]
    return ", ".join([f"{module.input_size}, {module.hidden_size}", *parts])


def refuse_script(module: nn.Module) -> NoReturn:
    """Raise NotImplementedError: ``torch.jit.script`` asks each module of a model before it begins."""
    raise NotImplementedError(
        f"{type(module).__name__}: torch.jit.script cannot compile it; use torch.export or torch.compile"
    )


def trace_forward(module: nn.Module, *inputs: Any, **keywords: Any) -> Any:
    """``Module._slow_forward``, which torch calls while it traces, unless ``check_export`` refuses.

    That comes first, as ``torch.onnx.export(dynamo=False)`` gives arguments by position that are keywords alone.
    """
    check_export()
    return forward_in_jit_trace(module, *inputs, **keywords)


_CELL_WEIGHTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
_GAINS = ("gain_ih", "gain_hh")


def _reset_parameters(module: GRU | GRUCell) -> None:
    bound = 1.0 / math.sqrt(module.hidden_size) if module.hidden_size > 0 else 0.0
    normalized = module._gru_ext_options["layer_norm"] is not False
    for name, parameter in module.named_parameters():
        if not normalized or "weight" in name:  # also of a parametrized one
            nn.init.uniform_(parameter, -bound, bound)
        else:
            nn.init.constant_(parameter, 1.0 if "gain" in name else 0.0)


@documented
class GRU(ModuleWithOptions):
    r"""A GRU of L layers over whole sequences: a drop-in replacement for ``torch.nn.GRU``.

    Letters: T time steps, B batch size, I input size, H hidden size, L layers, D directions (1 or 2). The parameters
    have ``torch.nn.GRU``'s names, shapes, order and, for the same seed, initial values, so that a ``state_dict`` of one
    loads into the other: for each layer k, ``weight_ih_l{k}`` (3H, I or D*H), ``weight_hh_l{k}`` (3H, H) and, with
    ``bias``, ``bias_ih_l{k}`` (3H), ``bias_hh_l{k}`` (3H); those of the reverse direction end in ``_reverse``. With
    ``layer_norm`` there are ``gain_ih_l{k}`` (3H) and ``gain_hh_l{k}`` (3H) too. With ``blocks``, ``weight_hh_l{k}``
    is (3H, H / blocks).

    Args:
        input_size: number of input features (I).
        hidden_size: number of hidden units (H).
        num_layers: number of layers (L), each on the output of the one before. Default 1.
        bias: whether the layers have biases. Default True.
        batch_first: whether input and output are (B, T, ...) instead of (T, B, ...). Default False.
        dropout: probability of zeroing an element of the output of each layer but the last, in training. Default 0.
        bidirectional: whether a second direction runs from the last step to the first (D = 2). Default False.
        device: where the parameters are. Default: torch's default device.
        dtype: of the parameters: float32, float64, bfloat16 or float16. Default: torch's default dtype.
        {options}

    The four probabilities below ``dropout`` apply to every layer and direction, and go together in any way; equations:
    docs/variants.md.

    The options, those from ``outputs`` on, are attributes too: ``gru.zoneout = 0.2`` sets one, checked. In a subclass
    the names of the options that it does not give to ``__init__`` are its own: what it keeps in ``self.layer_norm``
    does not change the recurrence.

    Raises:
        TypeError: a size or ``overlap_layers`` is not an int, a flag not a bool, or ``dropout`` None or complex.
        ValueError: a size is below 1, ``dropout`` not a number in [0, 1], another probability not one in [0, 1),
            ``outputs`` neither "all" nor "last", ``save`` neither "gates" nor "output", ``layer_norm`` another value
            or with ``reset_after=False``, ``fake_int8`` with what int8 kernels do not compute, or ``overlap_layers``
            below 0, or above with ``num_layers`` 1, ``bidirectional`` or ``recurrent_dropout``; or ``blocks`` do not
            divide ``hidden_size``.

    Example:
        >>> gru = gru_ext.GRU(64, 256, num_layers=2, batch_first=True)
        >>> output, h_n = gru(torch.randn(8, 100, 64))
        >>> output.shape, h_n.shape
        (torch.Size([8, 100, 256]), torch.Size([2, 8, 256]))
        >>> gru.load_state_dict(torch.nn.GRU(64, 256, num_layers=2).state_dict())
        <All keys matched successfully>
    """

    # As of torch.nn.GRU, whose subclasses add to the list and read the rest.
    __constants__: ClassVar[list[str]] = [
        "mode",
        "input_size",
        "hidden_size",
        "num_layers",
        "bias",
        "batch_first",
        "dropout",
        "bidirectional",
        "proj_size",
    ]
    mode: str = "GRU"
    proj_size: int = 0
    input_size: int
    hidden_size: int
    num_layers: int
    bias: bool
    batch_first: bool
    dropout: float
    bidirectional: bool
    outputs: Literal["all", "last"] = option()
    save: Literal["gates", "output"] = option()
    overlap_layers: int = option()
    zoneout: float = option()
    recurrent_dropout: float = option()
    candidate_dropout: float = option()
    weight_dropout: float = option()
    reset_after: bool = option()
    layer_norm: bool | Literal["joint"] = option()
    blocks: int = option()
    norm_over: Literal["block", "layer"] = option()
    fake_int8: bool = option()
    _gru_ext_weight_names: list[str]
    # Weights that were given by `_flat_weights`, after the parameters that were there then.
    _gru_ext_flat_weights: tuple[list[Tensor], list[Tensor]] | None

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
        outputs: Literal["all", "last"] = "all",
        save: Literal["gates", "output"] = "gates",
        overlap_layers: int = 0,
        zoneout: float = 0.0,
        recurrent_dropout: float = 0.0,
        candidate_dropout: float = 0.0,
        weight_dropout: float = 0.0,
        reset_after: bool = True,
        layer_norm: bool | Literal["joint"] = False,
        blocks: int = 1,
        norm_over: Literal["block", "layer"] = "block",
        fake_int8: bool = False,
    ) -> None:
        super().__init__()
        self.input_size = check_size("GRU", "input_size", input_size)
        self.hidden_size = check_size("GRU", "hidden_size", hidden_size)
        self.num_layers = check_size("GRU", "num_layers", num_layers)
        self.bias = check_flag("GRU", "bias", bias)
        self.batch_first = check_flag("GRU", "batch_first", batch_first)
        self.dropout = check_dropout("GRU", "dropout", dropout)
        self.bidirectional = as_flag("GRU", "bidirectional", bidirectional)
        self._keep_options(
            outputs=outputs,
            save=save,
            overlap_layers=overlap_layers,
            zoneout=zoneout,
            recurrent_dropout=recurrent_dropout,
            candidate_dropout=candidate_dropout,
            weight_dropout=weight_dropout,
            reset_after=reset_after,
            layer_norm=layer_norm,
            blocks=blocks,
            norm_over=norm_over,
            fake_int8=fake_int8,
        )
        check_blocks_of("GRU", hidden_size, blocks)
        if overlap_layers != 0:
            check_overlap("GRU", overlap_layers, num_layers, bidirectional, recurrent_dropout)
        if dropout > 0 and num_layers == 1:
            warnings.warn(
                f"GRU: dropout = {dropout} has no effect with num_layers = 1: it applies between layers", stacklevel=2
            )
        self._gru_ext_weight_names = []
        self._gru_ext_flat_weights = None
        directions = 2 if bidirectional else 1
        for layer in range(num_layers):
            layer_input = input_size if layer == 0 else directions * hidden_size
            shapes: dict[str, tuple[int, ...]] = {
                "weight_ih": (3 * hidden_size, layer_input),
                "weight_hh": (3 * hidden_size, hidden_size // blocks),
            }
            if bias:
                shapes |= {"bias_ih": (3 * hidden_size,), "bias_hh": (3 * hidden_size,)}
            if layer_norm is not False:
                shapes |= {"gain_ih": (3 * hidden_size,), "gain_hh": (3 * hidden_size,)}
            for suffix in ("", "_reverse")[:directions]:
                for kind, shape in shapes.items():
                    name = f"{kind}_l{layer}{suffix}"
                    self.register_parameter(name, nn.Parameter(torch.empty(shape, device=device, dtype=dtype)))
                    self._gru_ext_weight_names.append(name)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw every parameter from U(-1/sqrt(H), 1/sqrt(H)); with ``layer_norm``, gains are one and biases zero.

        Example:
            >>> gru = gru_ext.GRU(3, 4)
            >>> gru.reset_parameters()
            >>> bool(gru.weight_hh_l0.abs().max() <= 0.5)
            True
        """
        _reset_parameters(self)

    def flatten_parameters(self) -> None:
        """Do nothing: accepted for code written for ``torch.nn.GRU``. The kernels take the weights where they are.

        Example:
            >>> gru_ext.GRU(3, 4).flatten_parameters()
        """

    @property
    def all_weights(self) -> list[list[Tensor]]:
        """The parameters, a list for each direction of each layer, in the order of the class's description.

        Example:
            >>> [tuple(weight.shape) for weight in gru_ext.GRU(3, 4).all_weights[0]]
            [(12, 3), (12, 4), (12,), (12,)]
        """
        return [[parameter_or_attribute(self, name) for name in names] for names in self._all_weights]

    def __setstate__(self, state: dict[str, Any]) -> None:
        if "_gru_ext_weight_names" not in state:  # a file from before options were kept apart
            state = {**state, "_gru_ext_weight_names": state["_weight_names"], "_gru_ext_flat_weights": None}
        super().__setstate__(state)

    # The attributes of torch.nn.GRU that code written for it uses, as it has them.

    @property
    def _flat_weights_names(self) -> list[str]:
        return list(self._gru_ext_weight_names)

    @property
    def _all_weights(self) -> list[list[str]]:
        names, directions = self._gru_ext_weight_names, self.num_layers * (2 if self.bidirectional else 1)
        count = len(names) // directions
        return [names[i : i + count] for i in range(0, len(names), count)]

    @property
    def _flat_weights(self) -> tuple[Tensor, ...]:
        """The weights that ``forward`` uses. A tuple: to give others, assign all of them."""
        return tuple(_weights(self))

    @_flat_weights.setter
    def _flat_weights(self, weights: Sequence[Tensor]) -> None:
        """Have ``forward`` use these, until a parameter is replaced or the module is moved."""
        weights = list(weights)
        if len(weights) != len(self._gru_ext_weight_names) or not all(isinstance(w, Tensor) for w in weights):
            raise ValueError(
                f"GRU: expected _flat_weights of {len(self._gru_ext_weight_names)} tensors, got {len(weights)}:"
                f" {', '.join(type(weight).__name__ for weight in weights)}"
            )
        self._gru_ext_flat_weights = None
        self._gru_ext_flat_weights = (_weights(self), weights)

    def _apply(self, fn: Any, recurse: bool = True) -> GRU:
        self._gru_ext_flat_weights = None
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

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
            input: the sequences, in the dtype of the parameters: (T, B, I); (B, T, I) with ``batch_first``; (T, I)
                unbatched; or a ``PackedSequence``, sorted or not.
            hx: initial state, (L*D, B, H), or (L*D, H) unbatched. Default None: zero.
            lengths: number of steps of each padded sequence (B): integers from 0 to T, in any order, on any device; one
                integer unbatched. Padding is not computed; its output is zero, and h_n is the state after each
                sequence's own last step, or hx where it has none. Default None: T.
            resets: bool, (T, B), or (B, T) with ``batch_first``, (T) unbatched: where it is set, the state is reset
                before the step, as if another sequence began with it; in the first step, hx is then of no effect.
                Default None: nowhere.
            reset_state: the state after a reset, (L*D, B, H), or (L*D, H) for all sequences. Default None: zero.

        On a GPU, ``lengths`` and ``resets`` that are there are waited for, once a call, as packing would.

        Returns:
            The output, (T, B, D*H) or as the input was laid out (a ``PackedSequence`` for one), or with
            ``outputs="last"`` (B, D*H), unbatched (D*H), in any layout; and h_n (L*D, B, H) or (L*D, H).

        Example:
            >>> gru = gru_ext.GRU(3, 4)
            >>> output, h_n = gru(torch.randn(7, 2, 3), lengths=[7, 2])
            >>> output[2:, 1].count_nonzero()
            tensor(0)
            >>> torch.equal(h_n[0, 1], output[1, 1])
            True
            >>> first_of_an_episode = torch.zeros(7, 2, dtype=torch.bool)
            >>> first_of_an_episode[4, 0] = True
            >>> output, h_n = gru(torch.randn(7, 2, 3), h_n, resets=first_of_an_episode)

        Raises:
            TypeError: ``input``, ``hx``, ``resets`` or ``reset_state`` is no dense tensor, or ``lengths`` are not what
                a tensor can be made of.
            ValueError: the rank of ``input`` or its dtype is wrong, ``lengths``, ``resets`` or ``reset_state`` come
                with a ``PackedSequence``, or ``reset_state`` without ``resets``.
            RuntimeError: a size, a shape, a device, one of the lengths, or the dtype of a tensor but ``input`` is
                wrong, or T is 0.
        """
        if type(input) is not Tensor or (hx is not None and type(hx) is not Tensor):
            if isinstance(input, PackedSequence):
                check_no_padding(lengths, resets, reset_state)
                layers = self.num_layers * (2 if self.bidirectional else 1)
                outputs = self._gru_ext_options["outputs"]
                return run_packed(partial(_run, self), input, hx, layers, self.hidden_size, outputs)
            if isinstance(input, Proxy) or isinstance(hx, Proxy):
                return record_call(self, GRU, input, hx, lengths=lengths, resets=resets, reset_state=reset_state)
        return _run(self, input, hx, None, lengths, resets, reset_state)

    __prepare_scriptable__ = refuse_script
    _slow_forward = trace_forward

    def extra_repr(self) -> str:
        """The arguments that differ from their defaults, as ``torch.nn.GRU`` prints them."""
        defaults: dict[str, Any] = {"num_layers": 1, "bias": True, "batch_first": False, "dropout": 0}
        return describe(self, self._gru_ext_options, **defaults, bidirectional=False)

    @classmethod
    def from_torch(cls, module: nn.GRU) -> GRU:
        """A GRU with the very parameters, buffers, hooks, mode and further attributes of a ``torch.nn.GRU``.

        The parameters are shared, not copied: an optimizer that holds them stays valid.

        Args:
            module: a ``torch.nn.GRU``, not one of a subclass.

        Returns:
            A new ``GRU``.

        Raises:
            TypeError: ``module`` is not exactly a ``torch.nn.GRU``, its parameters are parametrized, pruned or sharded,
                or it has a method of its own, as by ``module.forward = f``.

        Example:
            >>> theirs = torch.nn.GRU(3, 4)
            >>> ours = gru_ext.GRU.from_torch(theirs)
            >>> ours.weight_hh_l0 is theirs.weight_hh_l0
            True
        """
        return converted("from_torch", module, nn.GRU, cls)

    def to_torch(self) -> nn.GRU:
        """The ``torch.nn.GRU`` with this module's very parameters and all else that ``from_torch`` takes.

        Returns:
            A new ``torch.nn.GRU``.

        Raises:
            TypeError: as in ``from_torch``.
            ValueError: ``torch.nn.GRU`` has no such recurrence or output, in training or else.

        Example:
            >>> gru_ext.GRU(3, 4).to_torch()
            GRU(3, 4)
        """
        check_recurrence("to_torch", self, allowed={Changes.NOTHING})
        return converted("to_torch", self, GRU, nn.GRU)


def _weights(module: GRU) -> list[Tensor]:
    held = module._parameters  # as parameter_or_attribute, without its calls
    weights: list[Any] = [held[n] if n in held else getattr(module, n) for n in module._gru_ext_weight_names]
    if module._gru_ext_flat_weights is not None:
        before, given = module._gru_ext_flat_weights
        if all(weight is parameter for weight, parameter in zip(weights, before, strict=True)):
            return given
    return weights


def _run(
    module: GRU,
    input: Tensor,
    hx: Tensor | None,
    batch_sizes: Tensor | None,
    lengths: Tensor | Sequence[int] | int | None = None,
    resets: Tensor | None = None,
    reset_state: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """``functional.gru`` with a module's weights and arguments. No method, as a subclass may have one of this name."""
    options, training, num_layers = module._gru_ext_options, module.training, module.num_layers
    weights: list[Any] = _weights(module)
    if options["layer_norm"] is not False and not module.bias:
        weights = [*weights]
        for i in range(len(weights) - 2, 0, -4):  # before the gains of each direction: no biases
            weights[i:i] = [None, None]
    return call_gru(
        input,
        hx,
        weights,
        options,
        num_layers,
        module.bidirectional,
        module.batch_first,
        # Only where it has an effect: torch.compile traces twice where it meets a float that may vary.
        module.dropout if training and num_layers > 1 else 0.0,
        training,
        batch_sizes,
        lengths,
        resets,
        reset_state,
    )


@documented
class GRUCell(ModuleWithOptions):
    """One step of a GRU: a drop-in replacement for ``torch.nn.GRUCell``.

    Letters: B batch size, I input size, H hidden size. Parameters: ``weight_ih`` (3H, I), ``weight_hh`` (3H, H) and,
    with ``bias``, ``bias_ih`` (3H), ``bias_hh`` (3H); with ``layer_norm``, ``gain_ih`` (3H), ``gain_hh`` (3H). With
    ``blocks``, ``weight_hh`` is (3H, H / blocks).

    Args:
        input_size: number of input features (I).
        hidden_size: number of hidden units (H).
        bias: whether the cell has biases. Default True.
        device: where the parameters are. Default: torch's default device.
        dtype: of the parameters: float32, float64, bfloat16 or float16. Default: torch's default dtype.
        {options}

    A cell knows of no sequence, so it has none of the dropouts that keep their masks for one.

    Raises:
        TypeError: a size is not an int, or a flag not a bool.
        ValueError: a size is below 0, a probability not a number in [0, 1), ``layer_norm`` another value or with
            ``reset_after=False``, ``fake_int8`` with what int8 kernels do not compute, or ``blocks`` do not divide
            ``hidden_size``.

    Example:
        >>> cell = gru_ext.GRUCell(64, 256)
        >>> state = torch.zeros(8, 256)
        >>> for x in torch.randn(3, 8, 64):
        ...     state = cell(x, state)
        >>> state.shape
        torch.Size([8, 256])
    """

    __constants__: ClassVar[list[str]] = ["input_size", "hidden_size", "bias"]
    input_size: int
    hidden_size: int
    bias: bool
    zoneout: float = option()
    candidate_dropout: float = option()
    reset_after: bool = option()
    layer_norm: bool | Literal["joint"] = option()
    blocks: int = option()
    norm_over: Literal["block", "layer"] = option()
    fake_int8: bool = option()

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
        layer_norm: bool | Literal["joint"] = False,
        blocks: int = 1,
        norm_over: Literal["block", "layer"] = "block",
        fake_int8: bool = False,
    ) -> None:
        super().__init__()
        self.input_size = check_size("GRUCell", "input_size", input_size, smallest=0)
        self.hidden_size = check_size("GRUCell", "hidden_size", hidden_size, smallest=0)
        self.bias = as_flag("GRUCell", "bias", bias)
        self._keep_options(
            zoneout=zoneout,
            candidate_dropout=candidate_dropout,
            reset_after=reset_after,
            layer_norm=layer_norm,
            blocks=blocks,
            norm_over=norm_over,
            fake_int8=fake_int8,
        )

        def parameter(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(shape, device=device, dtype=dtype))

        self.weight_ih = parameter(3 * self.hidden_size, self.input_size)
        check_blocks_of("GRUCell", self.hidden_size, blocks)
        self.weight_hh = parameter(3 * self.hidden_size, self.hidden_size // blocks)
        for name in ("bias_ih", "bias_hh"):
            self.register_parameter(name, parameter(3 * self.hidden_size) if self.bias else None)
        if layer_norm is not False:
            self.gain_ih, self.gain_hh = parameter(3 * self.hidden_size), parameter(3 * self.hidden_size)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw every parameter from U(-1/sqrt(H), 1/sqrt(H)); with ``layer_norm``, gains are one and biases zero.

        Example:
            >>> cell = gru_ext.GRUCell(3, 4)
            >>> cell.reset_parameters()
            >>> bool(cell.weight_hh.abs().max() <= 0.5)
            True
        """
        _reset_parameters(self)

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        """Run one step.

        Args:
            input: what comes in, in the dtype of the parameters: (B, I), or (I) unbatched.
            hx: the state before the step, (B, H), or (H) unbatched. Default None: zero.

        Returns:
            The next state, (B, H) or (H).

        Example:
            >>> gru_ext.GRUCell(3, 4)(torch.randn(2, 3)).shape
            torch.Size([2, 4])

        Raises:
            TypeError: ``input`` or ``hx`` is no dense tensor.
            ValueError: the rank of ``input`` or ``hx`` is wrong.
            RuntimeError: a size, a shape, a dtype or a device is wrong.
        """
        if isinstance(input, Proxy) or isinstance(hx, Proxy):
            recorded: Tensor = record_call(self, GRUCell, input, hx)
            return recorded
        options = self._gru_ext_options
        names = _CELL_WEIGHTS if options["layer_norm"] is False else _CELL_WEIGHTS + _GAINS
        weights = [parameter_or_attribute(self, name) for name in names]
        return call_cell(input, hx, weights, options, self.training)

    __prepare_scriptable__ = refuse_script
    _slow_forward = trace_forward

    def extra_repr(self) -> str:
        """The arguments that differ from their defaults, as ``torch.nn.GRUCell`` prints them."""
        return describe(self, self._gru_ext_options, bias=True)

    @classmethod
    def from_torch(cls, module: nn.GRUCell) -> GRUCell:
        """A GRUCell that shares all of a ``torch.nn.GRUCell``; see ``GRU.from_torch``.

        Args:
            module: a ``torch.nn.GRUCell``, not one of a subclass.

        Returns:
            A new ``GRUCell``.

        Raises:
            TypeError: as in ``GRU.from_torch``.

        Example:
            >>> theirs = torch.nn.GRUCell(3, 4)
            >>> gru_ext.GRUCell.from_torch(theirs).weight_hh is theirs.weight_hh
            True
        """
        return converted("from_torch", module, nn.GRUCell, cls)

    def to_torch(self) -> nn.GRUCell:
        """The ``torch.nn.GRUCell`` that shares all of this module; see ``GRU.to_torch``.

        Returns:
            A new ``torch.nn.GRUCell``.

        Raises:
            TypeError: as in ``GRU.from_torch``.
            ValueError: ``torch.nn.GRUCell`` has no such recurrence.

        Example:
            >>> gru_ext.GRUCell(3, 4).to_torch()
            GRUCell(3, 4)
        """
        check_recurrence("to_torch", self)
        return converted("to_torch", self, GRUCell, nn.GRUCell)
