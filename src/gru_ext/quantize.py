"""GRUs whose weights are int8, for inference on a CPU: ``quantize_dynamic``; training for it: ``fake_quantize``.

Letters: T steps, B batch, I input, H hidden, L layers, D directions (1 or 2), N rows of all steps. What is
quantised, and how far the results are from those of float32: docs/int8.md.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar, overload

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from gru_ext import library as library  # registers the operator
from gru_ext.fx import Proxy, record_call
from gru_ext.int8 import pack as pack
from gru_ext.int8 import unpack as unpack
from gru_ext.layout import (
    FLOATING,
    Outputs,
    check_cell_rank,
    check_cell_sizes,
    check_no_padding,
    check_sizes,
    check_tensor,
    run_cell,
    run_layers,
    run_packed,
)
from gru_ext.modules import GRU, GRUCell, describe, refuse_script, trace_forward
from gru_ext.prepared import PreparedGRU, PreparedGRUCell, as_ours, of_prepared
from gru_ext.recurrence import Changes, as_flag, check_blocks, check_blocks_of, check_flag, check_size
from gru_ext.reference import LARGEST_INT8, quantize_rows
from gru_ext.segments import run_segments
from gru_ext.sharing import (
    carry,
    check_module,
    check_recurrence,
    check_type,
    check_weights,
    make,
    options_of,
    rebind,
    replace_modules,
)

__all__ = ["QuantizedGRU", "QuantizedGRUCell", "fake_quantize", "quantize_dynamic"]

Model = TypeVar("Model", bound=nn.Module)
Quantized = TypeVar("Quantized", bound="_QuantizedModule")

_ops = torch.ops.gru_ext

MOST_COLUMNS = (2**31 - 1) // (255 * LARGEST_INT8)  # an int32 surely holds their sum, of unsigned times signed bytes


def quantize_dynamic(module: Model, inplace: bool = False) -> Model | QuantizedGRU | QuantizedGRUCell:
    """Make every GRU of a model one with int8 weights, for inference.

    These are ``gru_ext.GRU``, ``gru_ext.GRUCell``, ``torch.nn.GRU`` and ``torch.nn.GRUCell``; subclasses and all other
    modules are left alone. What else the GRUs have, buffers, hooks, attributes and modes, they keep; see
    ``replace_gru``. The weights are rounded once, here; input and state are rounded as they are multiplied, hence
    "dynamic". See ``QuantizedGRU``.

    Args:
        module: any module; its GRUs float32, on the CPU.
        inplace: replace the GRUs in ``module`` itself; by default in a copy of it, which leaves it as it was.

    Returns:
        The model with its GRUs replaced.

    Raises:
        TypeError: ``inplace`` is no bool; or as in ``replace_gru``.
        ValueError: a GRU in it has another recurrence or output in ``eval()`` than ``torch.nn.GRU``, other than by
            ``blocks``; is not float32 or not on the CPU; or has no units, a weight that is not finite, or more than
            66,311 columns. Whatever is raised, nothing has been replaced.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.GRU(64, 256)).eval()
        >>> small = gru_ext.quantize_dynamic(model)
        >>> type(model[1]).__name__, type(small[1]).__name__
        ('GRU', 'QuantizedGRU')
    """
    if not isinstance(inplace, bool):
        raise TypeError(
            f"quantize_dynamic: expected inplace of type bool, got {type(inplace).__name__}; it quantizes GRUs alone,"
            " for which there is nothing to specify"
        )
    check_module("quantize_dynamic", "module", module)
    model = module if inplace else copy.deepcopy(module)
    layer = partial(_quantized, QuantizedGRU)
    cell = partial(_quantized, QuantizedGRUCell)
    quantized: Model | QuantizedGRU | QuantizedGRUCell = replace_modules(
        "quantize_dynamic",
        model,
        {
            GRU: layer,
            nn.GRU: layer,
            PreparedGRU: of_prepared(layer),
            GRUCell: cell,
            nn.GRUCell: cell,
            PreparedGRUCell: of_prepared(cell),
        },
    )
    return quantized


def fake_quantize(module: Model, inplace: bool = False, enabled: bool = True) -> Model | GRU | GRUCell:
    """Have every GRU of a model round as ``quantize_dynamic`` does, while it trains: quantisation-aware training.

    The GRUs, ``gru_ext.GRU``, ``gru_ext.GRUCell``, ``torch.nn.GRU`` and ``torch.nn.GRUCell``, become those of
    ``gru_ext`` with ``fake_int8=True``. Weights, and the rows of input and state where they are multiplied, are rounded
    to the int8 grid, and gradients pass straight through. Parameters stay floating and the very same; with them
    ``state_dict``, hooks, attributes and modes. After training, ``quantize_dynamic`` makes int8 of the model, with the
    results that it has in ``eval()`` without gradients, bit for bit.

    Args:
        module: any module; its GRUs float32, on the CPU. It may be moved to a GPU afterwards.
        inplace: change ``module`` itself; by default a copy of it, which leaves it as it was.
        enabled: False has every GRU of ``gru_ext`` round no longer. Default True.

    Returns:
        The model.

    Raises:
        TypeError: as in ``quantize_dynamic``, or ``enabled`` is no bool.
        ValueError: as in ``quantize_dynamic``. Whatever is raised, nothing has been changed.

    Example:
        >>> model = gru_ext.fake_quantize(torch.nn.GRU(64, 256))
        >>> output, h_n = model(torch.randn(10, 2, 64))
        >>> output.square().mean().backward()
        >>> type(gru_ext.quantize_dynamic(model)).__name__
        'QuantizedGRU'
        >>> gru_ext.fake_quantize(model, enabled=False)
        GRU(64, 256)
    """
    check_flag("fake_quantize", "inplace", inplace)
    check_flag("fake_quantize", "enabled", enabled)
    check_module("fake_quantize", "module", module)
    model = module if inplace else copy.deepcopy(module)
    if enabled:
        kinds: tuple[type[nn.Module], ...] = (GRU, nn.GRU, GRUCell, nn.GRUCell)
        makers: dict[type[nn.Module], Callable[[str, Any], nn.Module]] = dict.fromkeys(kinds, _rounding)
        makers |= {kind: of_prepared(_rounding) for kind in (PreparedGRU, PreparedGRUCell)}
    else:
        ours = (GRU, GRUCell, PreparedGRU, PreparedGRUCell)
        makers = {kind: partial(_with_fake_int8, value=False) for kind in ours}
    changed: Model | GRU | GRUCell = replace_modules("fake_quantize", model, makers)
    return changed


def _rounding(operation: str, module: GRU | GRUCell | nn.GRU | nn.GRUCell) -> GRU | GRUCell:
    """A GRU of ours with ``fake_int8`` that shares all of a module which can be quantised."""
    quantized: type[_QuantizedModule] = QuantizedGRU if isinstance(module, (GRU, nn.GRU)) else QuantizedGRUCell
    _empty(quantized, operation, module)
    return _with_fake_int8(operation, as_ours(operation, module), value=True)


def _with_fake_int8(operation: str, module: GRU | GRUCell, value: bool) -> GRU | GRUCell:
    changed = copy.copy(module)
    changed.fake_int8 = value
    return changed


# ---- Weights


def _check_float(operation: str, module: nn.Module, name: str, weight: Tensor) -> None:
    """Raise ValueError unless a parameter is finite, float32 and on the CPU."""
    kind = type(module).__name__
    if weight.dtype != torch.float32 or weight.device.type != "cpu":
        raise ValueError(
            f"{operation}: expected {name} of {kind} in float32 on the CPU, got {weight.dtype} on {weight.device}"
        )
    if not bool(weight.isfinite().all()):
        raise ValueError(f"{operation}: expected {name} of {kind} to be finite, got NaN or infinity")


def _empty(kind: type[Quantized], operation: str, source: nn.Module) -> tuple[Quantized, dict[str, Tensor]]:
    """A quantised module of zeros on the meta device for a float one, and the weights that it is to be made of.

    Raises:
        TypeError: the weights are no parameters of the module's own.
        ValueError: the module cannot be quantised.
    """
    allowed = {Changes.NOTHING, Changes.TRAINING, Changes.ROUNDING}
    check_recurrence(operation, source, allowed, in_int8=True)
    target = make(kind, source, "dropout", blocks=options_of(source).get("blocks", 1))
    check_weights(operation, source, target._float_names)
    weights: dict[str, Tensor] = {}
    for name in target._float_names:
        weight = source._parameters[name]
        assert weight is not None
        _check_float(operation, source, name, weight)
        weights[name] = weight.detach()
    return target, weights


def _quantized(kind: type[Quantized], operation: str, source: nn.Module) -> Quantized:
    """The quantised form of a float module, with its weights rounded, and copies of its biases; see ``carry``."""
    target, weights = _empty(kind, operation, source)
    buffers = dict(target._buffers)
    for name, value in weights.items():
        if name in target._columns:
            rounded, scale = quantize_rows(value)
            buffers[f"packed_{name}"] = pack(rounded, target.blocks)
            buffers[name.replace("weight", "scale")] = scale
        else:
            buffers[name] = value.clone()
    others = {name: parameter for name, parameter in source._parameters.items() if name not in weights}
    if taken := buffers.keys() & {*source._buffers, *others}:
        raise TypeError(f"{operation}: expected {type(source).__name__} without a {taken.pop()!r} of its own")
    carry(operation, source, target, others, {**buffers, **source._buffers})
    return target


class _QuantizedModule(nn.Module):
    """What a layer and a cell share: weights kept packed, and written to a ``state_dict`` as plain int8."""

    input_size: int
    hidden_size: int
    bias: bool
    blocks: int = 1
    __prepare_scriptable__ = refuse_script
    _slow_forward = trace_forward
    _smallest_input = 1

    def __init__(self, input_size: int, hidden_size: int, bias: bool, blocks: int) -> None:
        super().__init__()
        module = type(self).__name__
        self.input_size = check_size(module, "input_size", input_size, smallest=self._smallest_input)
        self.hidden_size = check_size(module, "hidden_size", hidden_size)
        self.bias = check_flag(module, "bias", bias)
        self.blocks = check_blocks(module, "blocks", blocks)
        check_blocks_of(module, self.hidden_size, self.blocks)
        self._columns: dict[str, int] = {}  # K of each weight
        self._own_buffers: list[str] = []
        self._float_names: list[str] = []  # the parameters of a float module of these sizes

    def _add_direction(self, inputs: int, suffix: str, device: torch.device | str | None) -> list[str]:
        """Buffers of zeros for one direction of one layer. Returns their names, in the operator's order."""
        rows = 3 * self.hidden_size
        biases = ["bias_ih", "bias_hh"] if self.bias else []
        vectors = ["scale_ih", "scale_hh", *biases]
        for kind, columns in (("weight_ih", inputs), ("weight_hh", self.hidden_size // self.blocks)):
            if columns > MOST_COLUMNS:
                raise ValueError(
                    f"{type(self).__name__}: expected input_size and hidden_size of at most {MOST_COLUMNS}, for sums"
                    f" of 32 bits, got {columns}"
                )
            zeros = torch.zeros(rows, columns, dtype=torch.int8, device=device)
            self.register_buffer(f"packed_{kind}{suffix}", pack(zeros, self.blocks), persistent=False)
            self._columns[kind + suffix] = columns
        for kind in vectors:
            self.register_buffer(kind + suffix, torch.zeros(rows, dtype=torch.float32, device=device))
        self._own_buffers += [kind + suffix for kind in ("packed_weight_ih", "packed_weight_hh", *vectors)]
        self._float_names += [kind + suffix for kind in ("weight_ih", "weight_hh", *biases)]
        return self._own_buffers[-2 - len(vectors) :]

    def _apply(self, fn: Any, recurse: bool = True) -> nn.Module:
        # Scales and biases stay float32 in a model that is moved to another dtype.
        own = {id(self._buffers[name]) for name in self._own_buffers}

        def move(tensor: Tensor) -> Tensor:
            moved: Tensor = fn(tensor)
            return tensor.to(moved.device) if id(tensor) in own and moved.dtype != tensor.dtype else moved

        super()._apply(move, recurse)  # type: ignore[no-untyped-call]
        return self

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        for name, columns in self._columns.items():
            packed = getattr(self, f"packed_{name}")
            destination[prefix + name] = unpack(packed, self.hidden_size, columns, self.blocks)
        super()._save_to_state_dict(destination, prefix, keep_vars)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: dict[str, Any], *rest: Any
    ) -> None:
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *rest)
        _, missing_keys, unexpected_keys, error_msgs = rest
        for name, columns in self._columns.items():
            key, shape = prefix + name, (3 * self.hidden_size, columns)
            if key in unexpected_keys:
                unexpected_keys.remove(key)
            weight = state_dict.get(key)
            if weight is None:
                missing_keys.append(key)
            elif weight.dtype != torch.int8 or weight.shape != shape:
                error_msgs.append(
                    f"expected {key} of shape (3H, K) = {shape}, int8, as a quantized module saves it,"
                    f" got {tuple(weight.shape)}, {weight.dtype}"
                )
            elif local_metadata.get("assign_to_params_buffers", False):
                self._buffers[f"packed_{name}"] = pack(weight, self.blocks)
            else:
                getattr(self, f"packed_{name}").copy_(pack(weight, self.blocks))


def _check_input(op: str, input: Tensor, hx: Tensor | None, device: torch.device) -> torch.dtype:
    """The dtype of the input, which is that of the results.

    Raises:
        TypeError: ``input`` or ``hx`` is no dense tensor.
        ValueError: the dtype of ``input`` is none of the four.
        RuntimeError: ``hx`` has another dtype, or a device is not that of the weights.
    """
    check_tensor(op, "input", input)
    if input.dtype not in FLOATING:
        raise ValueError(f"{op}: expected input of dtype float32, float64, bfloat16 or float16, got {input.dtype}")
    if hx is not None:
        check_tensor(op, "hx", hx)
        if hx.dtype != input.dtype:
            raise RuntimeError(f"{op}: expected hx of the dtype of input, {input.dtype}, got {hx.dtype}")
    for name, tensor in (("input", input), ("hx", hx)):
        if tensor is not None and tensor.device != device:
            raise RuntimeError(f"{op}: expected {name} on the device of the weights, {device}, got {tensor.device}")
    return input.dtype


class QuantizedGRU(_QuantizedModule):
    r"""A GRU of L layers with int8 weights, for inference: ``quantize_dynamic`` makes it of ``torch.nn.GRU`` or ours.

    Its input and results are laid out as those of ``torch.nn.GRU``. They have one floating dtype, whichever it is. All
    is computed in float32, and scales and biases stay float32 in a model that is moved to another dtype.

    Letters: T time steps, B batch size, I input size, H hidden size, L layers, D directions (1 or 2).

    For each layer k it holds, and its ``state_dict`` names, ``weight_ih_l{k}`` (3H, I or D*H) and ``weight_hh_l{k}``
    (3H, H) int8, ``scale_ih_l{k}`` and ``scale_hh_l{k}`` (3H), and with ``bias`` ``bias_ih_l{k}`` and ``bias_hh_l{k}``
    (3H), float32; those of the reverse direction end in ``_reverse``. A row of a weight is about int8 * scale. None of
    it depends on the machine; in memory the weights are kept once, in another order.

    The products are of int8 with int8, summed exactly: each row of the input and each row of the state is rounded to
    int8 with a scale of its own, its largest magnitude / 127, when it is multiplied. The sums, the gates and the state
    are float32. A row of input or state with NaN or infinity gives NaN in that row, from its step on. Results are the
    same bits for any number of threads.

    Measured on sizes up to H = 2560, with weights as ``torch.nn.GRU`` draws them and normal input, the output is within
    0.02 of float64, and within 0.003 in the root mean square; torch's own int8 GRU, on the same weights, within 0.05
    and 0.008. The figures, and a bound, are in docs/int8.md.

    For inference only: results carry no gradient, whatever the grad mode, as those of torch's own dynamically
    quantized modules; there is no dropout, in either mode. Works under ``torch.compile(fullgraph=True)``.

    The kernels: with GRU_EXT_CPU_ISA of avx512_amx, tiles of Intel AMX; of avx512_vnni or avx512_bf16, AVX-512 VNNI; of
    avx2_vnni, AVX-VNNI; of avx512 or avx2, AVX2; of portable, 16-byte vectors. By default the fastest that the machine
    has.

    Args:
        input_size: number of input features (I), at most 66,311, as H and D*H.
        hidden_size: number of hidden units (H).
        num_layers: number of layers (L). Default 1.
        bias: whether the layers have biases. Default True.
        batch_first: whether input and output are (B, T, ...) instead of (T, B, ...). Default False.
        bidirectional: whether a second direction runs from the last step to the first (D = 2). Default False.
        device: where the buffers are, which are zero until a ``state_dict`` is loaded. Default: torch's default device.
        blocks: number of blocks, as of ``GRU``: weight_hh is (3H, H / blocks). Default 1.

    Raises:
        TypeError: a size is not an int or a flag not a bool.
        ValueError: a size is below 1 or too large, or ``blocks`` does not divide H.

    Example:
        >>> small = gru_ext.quantize_dynamic(gru_ext.GRU(64, 256))
        >>> empty = gru_ext.QuantizedGRU(64, 256)
        >>> empty.load_state_dict(small.state_dict())
        <All keys matched successfully>
        >>> output, h_n = empty(torch.randn(100, 8, 64))
    """

    num_layers: int
    batch_first: bool
    bidirectional: bool
    scale_ih_l0: Tensor

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        bidirectional: bool = False,
        device: torch.device | str | None = None,
        *,
        blocks: int = 1,
    ) -> None:
        super().__init__(input_size, hidden_size, bias, blocks)
        self.num_layers = check_size("QuantizedGRU", "num_layers", num_layers)
        self.batch_first = check_flag("QuantizedGRU", "batch_first", batch_first)
        self.bidirectional = as_flag("QuantizedGRU", "bidirectional", bidirectional)
        self._directions = 2 if self.bidirectional else 1
        self._names_of_layers: list[list[str]] = []
        for layer in range(num_layers):
            inputs = input_size if layer == 0 else self._directions * hidden_size
            names: list[str] = []
            for reverse in ("", "_reverse")[: self._directions]:
                names += self._add_direction(inputs, f"_l{layer}{reverse}", device)
            self._names_of_layers.append(names)

    @classmethod
    def from_float(cls, module: GRU | nn.GRU) -> QuantizedGRU:
        """The quantised form of a GRU, with all else that it has.

        Args:
            module: a ``gru_ext.GRU`` or ``torch.nn.GRU``, float32, on the CPU.

        Returns:
            A new ``QuantizedGRU``.

        Raises:
            TypeError: as in ``quantize_dynamic``, or ``module`` is no GRU.
            ValueError: as in ``quantize_dynamic``.

        Example:
            >>> gru_ext.QuantizedGRU.from_float(torch.nn.GRU(3, 4))
            QuantizedGRU(3, 4)
        """
        check_type("from_float", "module", module, GRU, nn.GRU)
        quantized = _quantized(cls, "from_float", module)
        rebind(module, quantized)
        return quantized

    def flatten_parameters(self) -> None:
        """Do nothing: accepted for code written for ``torch.nn.GRU``.

        Example:
            >>> gru_ext.QuantizedGRU(3, 4).flatten_parameters()
        """

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
    def forward(self, input: PackedSequence, hx: Tensor | None = None) -> tuple[PackedSequence, Tensor]: ...

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
            input: the sequences, of any floating dtype: (T, B, I); (B, T, I) with ``batch_first``; (T, I) unbatched; or
                a ``PackedSequence``, sorted or not.
            hx: initial state, (L*D, B, H), or (L*D, H) unbatched. Default None: zero.
            lengths: number of steps of each padded sequence (B), as in ``GRU.forward``.
            resets: where the state is reset (T, B), as in ``GRU.forward``.
            reset_state: the state after a reset, as in ``GRU.forward``.

        Returns:
            The output, (T, B, D*H) or as the input was laid out (a ``PackedSequence`` for one), and h_n (L*D, B, H) or
            (L*D, H); without gradient, in the dtype of the input.

        Raises:
            TypeError: an argument is no tensor.
            ValueError: the rank of ``input`` or its dtype is wrong, or as in ``GRU.forward``.
            RuntimeError: a size, a shape, a device, one of the lengths or the dtype of ``hx`` is wrong, or T is 0.

        Example:
            >>> small = gru_ext.quantize_dynamic(gru_ext.GRU(3, 4))
            >>> output, h_n = small(torch.randn(7, 2, 3), lengths=[7, 2])
            >>> output.shape, output.requires_grad
            (torch.Size([7, 2, 4]), False)
        """
        if isinstance(input, Proxy) or isinstance(hx, Proxy):
            return record_call(self, QuantizedGRU, input, hx, lengths=lengths, resets=resets, reset_state=reset_state)
        if isinstance(input, PackedSequence):
            check_no_padding(lengths, resets, reset_state)
            return run_packed(self._run, input, hx, self.num_layers * self._directions, self.hidden_size)
        return self._run(input, hx, None, lengths, resets, reset_state)

    def _run(
        self,
        input: Tensor,
        hx: Tensor | None,
        batch_sizes: Tensor | None,
        lengths: Tensor | Sequence[int] | int | None = None,
        resets: Tensor | None = None,
        reset_state: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        dtype = _check_input("gru", input, hx, self.scale_ih_l0.device)
        if batch_sizes is not None:
            check_tensor("gru", "batch_sizes", batch_sizes)
        layers = self.num_layers * self._directions
        check_sizes(input, hx, self.input_size, self.hidden_size, layers, self.batch_first, batch_sizes)

        def run(input: Tensor, hx: Tensor | None, batch_sizes: Tensor | None, batch: int | None) -> Outputs:
            def run_layer(layer: int, x: Tensor, hx: Tensor | None) -> Outputs:
                weights = [self._buffers[name] for name in self._names_of_layers[layer]]
                outputs: Outputs = _ops.gru_int8(x, hx, weights, batch_sizes, self.bidirectional, self.blocks)
                return outputs

            return run_layers(run_layer, input, hx, self.num_layers, self._directions, self.batch_first, batch_sizes)

        given = (input.float(), None if hx is None else hx.float())
        if lengths is None and resets is None and reset_state is None:
            y, h_n = run(*given, batch_sizes, None)
        else:
            directions, hidden = self._directions, self.hidden_size
            if reset_state is not None:
                check_tensor("gru", "reset_state", reset_state)
                if reset_state.dtype != dtype:
                    raise RuntimeError(
                        f"gru: expected reset_state of the dtype of input, {dtype}, got {reset_state.dtype}"
                    )
            state = reset_state if reset_state is None else reset_state.float()
            y, h_n = run_segments(
                run, *given, layers, directions, hidden, self.batch_first, lengths, resets, state, outputs="all"
            )
        return y.to(dtype), h_n.to(dtype)

    def extra_repr(self) -> str:
        """The arguments that differ from their defaults."""
        return describe(self, {}, num_layers=1, bias=True, batch_first=False, bidirectional=False, blocks=1)


class QuantizedGRUCell(_QuantizedModule):
    """One step of a GRU with int8 weights, for inference; ``quantize_dynamic`` makes it of a ``GRUCell``.

    Holds ``weight_ih`` (3H, I) and ``weight_hh`` (3H, H) int8, ``scale_ih`` and ``scale_hh`` (3H) and, with ``bias``,
    ``bias_ih`` and ``bias_hh`` (3H), float32. Arithmetic, accuracy and limits are those of ``QuantizedGRU``.

    Args:
        input_size: number of input features (I), at most 66,311, as H.
        hidden_size: number of hidden units (H).
        bias: whether the cell has biases. Default True.
        device: where the buffers are, which are zero until a ``state_dict`` is loaded. Default: torch's default device.
        blocks: number of blocks, as of ``GRUCell``: weight_hh is (3H, H / blocks). Default 1.

    Raises:
        TypeError: a size is not an int, or ``bias`` not a bool.
        ValueError: a size is below 1 or too large, or ``blocks`` does not divide H.

    Example:
        >>> gru_ext.quantize_dynamic(gru_ext.GRUCell(3, 4))
        QuantizedGRUCell(3, 4)
    """

    scale_ih: Tensor
    _smallest_input = 0

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        *,
        blocks: int = 1,
    ) -> None:
        super().__init__(input_size, hidden_size, bias, blocks)
        self._weight_names = self._add_direction(input_size, "", device)

    @classmethod
    def from_float(cls, module: GRUCell | nn.GRUCell) -> QuantizedGRUCell:
        """The quantised form of a cell, with all else that it has.

        Args:
            module: a ``gru_ext.GRUCell`` or ``torch.nn.GRUCell``, float32, on the CPU.

        Returns:
            A new ``QuantizedGRUCell``.

        Raises:
            TypeError: as in ``quantize_dynamic``, or ``module`` is no cell.
            ValueError: as in ``quantize_dynamic``.

        Example:
            >>> gru_ext.QuantizedGRUCell.from_float(torch.nn.GRUCell(3, 4))
            QuantizedGRUCell(3, 4)
        """
        check_type("from_float", "module", module, GRUCell, nn.GRUCell)
        quantized = _quantized(cls, "from_float", module)
        rebind(module, quantized)
        return quantized

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        """Run one step.

        Args:
            input: what comes in, of any floating dtype: (B, I), or (I) unbatched.
            hx: the state before the step, (B, H), or (H) unbatched. Default None: zero.

        Returns:
            The next state, (B, H) or (H); without gradient, in the dtype of the input.

        Example:
            >>> small = gru_ext.quantize_dynamic(gru_ext.GRUCell(3, 4))
            >>> small(torch.randn(2, 3)).shape
            torch.Size([2, 4])

        Raises:
            TypeError: an argument is no tensor.
            ValueError: the rank of ``input`` or ``hx`` or the dtype of ``input`` is wrong.
            RuntimeError: a size, a shape, a device or the dtype of ``hx`` is wrong.
        """
        if isinstance(input, Proxy) or isinstance(hx, Proxy):
            recorded: Tensor = record_call(self, QuantizedGRUCell, input, hx)
            return recorded
        dtype = _check_input("gru_cell", input, hx, self.scale_ih.device)
        check_cell_rank(input, hx)
        check_cell_sizes(input, hx, self.input_size, self.hidden_size)
        weights = [self._buffers[name] for name in self._weight_names]
        h = run_cell(
            lambda x, h: _ops.gru_int8(x, h, weights, None, False, self.blocks),
            input.float(),
            None if hx is None else hx.float(),
        )
        return h.to(dtype)

    def extra_repr(self) -> str:
        """The arguments that differ from their defaults."""
        return describe(self, {}, bias=True, blocks=1)
