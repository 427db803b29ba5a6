"""GRUs whose weights are int8, for inference on a CPU: ``quantize_dynamic``.

Letters: T steps, B batch, I input, H hidden, L layers, D directions (1 or 2), N rows of all steps, G groups of 16
hidden units. What is quantised, and how far the results are from those of float32: docs/int8.md.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, overload

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from gru_ext import library as library  # registers the operator
from gru_ext.layout import check_cell_rank, check_cell_sizes, check_rank, check_sizes, run_cell, run_layers, run_packed
from gru_ext.modules import GRU, GRUCell, check_flag, check_size, describe, refuse_script
from gru_ext.reference import LARGEST_INT8, quantize_rows
from gru_ext.replace import replace_modules
from gru_ext.sharing import check_plain, check_recurrence, share_mode_and_hooks

__all__ = ["QuantizedGRU", "QuantizedGRUCell", "quantize_dynamic"]

Model = TypeVar("Model", bound=nn.Module)

_ops = torch.ops.gru_ext

_WITHOUT_EFFECT = ("save", "overlap_layers", "recurrent_dropout", "candidate_dropout", "weight_dropout")

UNITS, COLUMNS = 16, 4  # of a word of packed weights: a vector of dot products of four columns
MOST_COLUMNS = (2**31 - 1) // (255 * LARGEST_INT8)  # an int32 surely holds their sum, of unsigned times signed bytes


def quantize_dynamic(module: Model, inplace: bool = False) -> Model | QuantizedGRU | QuantizedGRUCell:
    """Replace every GRU of a model by one with int8 weights, for inference.

    These are ``gru_ext.GRU``, ``gru_ext.GRUCell``, ``torch.nn.GRU`` and ``torch.nn.GRUCell``; subclasses and all other
    modules are left alone. Hooks and mode are kept; a module used in several places stays one module. The weights are
    rounded once, here; input and state are rounded as they are multiplied, hence "dynamic". See ``QuantizedGRU``.

    Args:
        module: any module; its GRUs float32, on the CPU.
        inplace: replace the GRUs in ``module`` itself; by default in a copy of it, which leaves it as it was.

    Returns:
        The model with its GRUs replaced; or, where it is itself a GRU, its replacement.

    Raises:
        TypeError: a GRU in it is parametrized, pruned or weight-normed.
        ValueError: a GRU in it has another recurrence or output in ``eval()`` than ``torch.nn.GRU``, is not float32,
            not on the CPU, or has a weight that is not finite, or more than 66,311 columns. Whatever is raised, nothing
            has been replaced.
    """
    model = module if inplace else copy.deepcopy(module)
    makers: dict[type[nn.Module], Callable[[Any], nn.Module]] = {
        GRU: QuantizedGRU.from_float,
        nn.GRU: QuantizedGRU.from_float,
        GRUCell: QuantizedGRUCell.from_float,
        nn.GRUCell: QuantizedGRUCell.from_float,
    }
    quantized: Model | QuantizedGRU | QuantizedGRUCell = replace_modules("quantize_dynamic", model, makers)
    return quantized


# ---- Weights


def pack(weight: Tensor) -> Tensor:
    """int8 weights (3H, K) in the order in which the kernels of every machine read them.

    Returns:
        (G, 1 + ceil(K / 4), 3, 16) int32: the sum of each row, then words of four int8; see csrc/gru_int8.h.
    """
    hidden, columns = weight.shape[0] // 3, weight.shape[1]
    padding = (0, -columns % COLUMNS, 0, -hidden % UNITS)
    rows = nn.functional.pad(weight.view(3, hidden, columns), padding).view(3, -(-hidden // UNITS), UNITS, -1)
    words = rows.unflatten(-1, (-1, COLUMNS)).permute(1, 3, 0, 2, 4).contiguous().view(torch.int32).squeeze(-1)
    sums = rows.sum(-1, dtype=torch.int32).transpose(0, 1).unsqueeze(1)
    return torch.cat([sums, words], dim=1)


def unpack(packed: Tensor, hidden: int, columns: int) -> Tensor:
    """The int8 weights (3H, K) that ``pack`` was given."""
    rows = packed[:, 1:].contiguous().unsqueeze(-1).view(torch.int8).permute(2, 0, 3, 1, 4).reshape(3, -1, COLUMNS)
    return rows.reshape(3, -(-hidden // UNITS) * UNITS, -1)[:, :hidden, :columns].reshape(3 * hidden, columns)


def _check_float(module: nn.Module, name: str, weight: Tensor) -> None:
    """Raise the error that a parameter deserves which cannot be quantised."""
    kind = type(module).__name__
    if weight.dtype != torch.float32 or weight.device.type != "cpu":
        raise ValueError(
            f"quantize_dynamic: expected {name} of {kind} in float32 on the CPU, got {weight.dtype} on {weight.device}"
        )
    if not bool(weight.isfinite().all()):
        raise ValueError(f"quantize_dynamic: expected {name} of {kind} to be finite, got NaN or infinity")


class _QuantizedModule(nn.Module):
    """What a layer and a cell share: weights kept packed, and written to a ``state_dict`` as plain int8."""

    input_size: int
    hidden_size: int
    bias: bool
    __prepare_scriptable__ = refuse_script

    def __init__(self, input_size: int, hidden_size: int, bias: bool) -> None:
        super().__init__()
        module = type(self).__name__
        check_size(module, "input_size", input_size)
        check_size(module, "hidden_size", hidden_size)
        check_flag(module, "bias", bias)
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.bias = bias
        self._columns: dict[str, int] = {}  # K of each weight
        self._float_names: list[str] = []  # the parameters of a float module of these sizes

    def _add_direction(self, inputs: int, suffix: str, device: torch.device | str | None) -> list[str]:
        """Buffers of zeros for one direction of one layer. Returns their names, in the operator's order."""
        rows = 3 * self.hidden_size
        biases = ["bias_ih", "bias_hh"] if self.bias else []
        vectors = ["scale_ih", "scale_hh", *biases]
        for kind, columns in (("weight_ih", inputs), ("weight_hh", self.hidden_size)):
            if columns > MOST_COLUMNS:
                raise ValueError(
                    f"{type(self).__name__}: expected input_size and hidden_size of at most {MOST_COLUMNS}, for sums"
                    f" of 32 bits, got {columns}"
                )
            zeros = torch.zeros(rows, columns, dtype=torch.int8, device=device)
            self.register_buffer(f"packed_{kind}{suffix}", pack(zeros), persistent=False)
            self._columns[kind + suffix] = columns
        for kind in vectors:
            self.register_buffer(kind + suffix, torch.zeros(rows, dtype=torch.float32, device=device))
        self._float_names += [kind + suffix for kind in ("weight_ih", "weight_hh", *biases)]
        return [kind + suffix for kind in ("packed_weight_ih", "packed_weight_hh", *vectors)]

    def _take(self, source: nn.Module) -> None:
        """Round the weights of a float module of the same sizes; copy its biases, share its mode and hooks."""
        check_recurrence("quantize_dynamic", source, allowed=_WITHOUT_EFFECT)
        check_plain(source, self._float_names)
        for name, parameter in source.named_parameters():
            _check_float(source, name, parameter)
            value = parameter.detach()
            if name in self._columns:
                rounded, scale = quantize_rows(value)
                self._buffers[f"packed_{name}"] = pack(rounded)
                self._buffers[name.replace("weight", "scale")] = scale
            else:
                self._buffers[name] = value.clone()
        share_mode_and_hooks(source, self)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        for name, columns in self._columns.items():
            destination[prefix + name] = unpack(getattr(self, f"packed_{name}"), self.hidden_size, columns)
        super()._save_to_state_dict(destination, prefix, keep_vars)

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
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
                self._buffers[f"packed_{name}"] = pack(weight)
            else:
                getattr(self, f"packed_{name}").copy_(pack(weight))


def _check_input(op: str, input: Tensor, hx: Tensor | None, device: torch.device) -> None:
    """Raise the error that a wrong dtype or device deserves."""
    for name, tensor in (("input", input), ("hx", hx)):
        if tensor is None:
            continue
        if tensor.dtype != torch.float32:
            error = ValueError if name == "input" else RuntimeError
            raise error(f"{op}: expected {name} of dtype float32, for weights of int8, got {tensor.dtype}")
        if tensor.device != device:
            raise RuntimeError(f"{op}: expected {name} on the device of the weights, {device}, got {tensor.device}")


class QuantizedGRU(_QuantizedModule):
    r"""A GRU of L layers with int8 weights, for inference: ``quantize_dynamic`` makes it of ``torch.nn.GRU`` or ours.

    Its input and results are float32, laid out as those of ``torch.nn.GRU``. For each layer k it holds, and its
    ``state_dict`` names, ``weight_ih_l{k}`` (3H, I or D*H) and ``weight_hh_l{k}`` (3H, H) int8, ``scale_ih_l{k}`` and
    ``scale_hh_l{k}`` (3H), and with ``bias`` ``bias_ih_l{k}`` and ``bias_hh_l{k}`` (3H), float32; those of the reverse
    direction end in ``_reverse``. A row of a weight is about int8 * scale. None of it depends on the machine; in memory
    the weights are kept once, in another order.

    The products are of int8 with int8, summed exactly: each row of the input and each row of the state is rounded to
    int8 with a scale of its own, its largest magnitude / 127, when it is multiplied. The sums, the gates and the state
    are float32. A row of input or state with NaN or infinity gives NaN in that row, from its step on. Results are the
    same bits for any number of threads.

    Measured on sizes up to H = 2560, with weights as ``torch.nn.GRU`` draws them and normal input, the output is within
    0.02 of float64, and within 0.003 in the root mean square; torch's own int8 GRU, on the same weights, within 0.05
    and 0.008. The figures, and a bound, are in docs/int8.md.

    For inference only: results carry no gradient, whatever the grad mode, as those of torch's own dynamically
    quantized modules; there is no dropout, in either mode. Works under ``torch.compile(fullgraph=True)``.

    The kernels: with GRU_EXT_CPU_ISA of avx512_vnni or avx512_bf16, AVX-512 VNNI; of avx2_vnni, AVX-VNNI; of avx512 or
    avx2, AVX2; of portable, 16-byte vectors. By default the widest that the machine has.

    Args:
        input_size: I, at most 66,311, as H and D*H.
        hidden_size: H.
        num_layers: L, default 1.
        bias: whether the layers have biases, default True.
        batch_first: input and output are (B, T, ...), default False: (T, B, ...).
        bidirectional: D = 2, default False.
        device: of the buffers, which are zero until a ``state_dict`` is loaded.

    Raises:
        TypeError: a size is not an int or a flag not a bool.
        ValueError: a size is below 1 or too large.
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
    ) -> None:
        super().__init__(input_size, hidden_size, bias)
        check_size("QuantizedGRU", "num_layers", num_layers)
        check_flag("QuantizedGRU", "batch_first", batch_first)
        check_flag("QuantizedGRU", "bidirectional", bidirectional)
        self.num_layers = num_layers
        self.batch_first = batch_first
        self.bidirectional = bidirectional
        self._directions = 2 if bidirectional else 1
        self._names_of_layers: list[list[str]] = []
        for layer in range(num_layers):
            inputs = input_size if layer == 0 else self._directions * hidden_size
            names: list[str] = []
            for reverse in ("", "_reverse")[: self._directions]:
                names += self._add_direction(inputs, f"_l{layer}{reverse}", device)
            self._names_of_layers.append(names)

    @classmethod
    def from_float(cls, module: GRU | nn.GRU) -> QuantizedGRU:
        """The quantised form of a GRU, with its hooks and mode; errors as in ``quantize_dynamic``."""
        quantized = cls(
            module.input_size,
            module.hidden_size,
            module.num_layers,
            module.bias,
            module.batch_first,
            module.bidirectional,
            device="meta",
        )
        quantized._take(module)
        return quantized

    @overload
    def forward(self, input: Tensor, hx: Tensor | None = None) -> tuple[Tensor, Tensor]: ...

    @overload
    def forward(self, input: PackedSequence, hx: Tensor | None = None) -> tuple[PackedSequence, Tensor]: ...

    def forward(
        self, input: Tensor | PackedSequence, hx: Tensor | None = None
    ) -> tuple[Tensor | PackedSequence, Tensor]:
        """Run the layers.

        Args:
            input: float32: (T, B, I); (B, T, I) with ``batch_first``; (T, I) unbatched; or a ``PackedSequence``, sorted
                or not.
            hx: (L*D, B, H) initial state, or (L*D, H) unbatched; None for zero.

        Returns:
            The output, (T, B, D*H) or as the input was laid out (a ``PackedSequence`` for one), and h_n (L*D, B, H) or
            (L*D, H); without gradient.

        Raises:
            ValueError: the rank of ``input`` or its dtype is wrong.
            RuntimeError: a size, a shape, a device or the dtype of ``hx`` is wrong, or T is 0.
        """
        if isinstance(input, PackedSequence):
            return run_packed(self._run, input, hx, self.num_layers * self._directions, self.hidden_size)
        return self._run(input, hx, None)

    def _run(self, input: Tensor, hx: Tensor | None, batch_sizes: Tensor | None) -> tuple[Tensor, Tensor]:
        check_rank(input, self.batch_first, batch_sizes)
        _check_input("gru", input, hx, self.scale_ih_l0.device)
        layers = self.num_layers * self._directions
        check_sizes(input, hx, self.input_size, self.hidden_size, layers, self.batch_first, batch_sizes)

        def run_layer(layer: int, x: Tensor, hx: Tensor | None) -> tuple[Tensor, Tensor]:
            weights = [self._buffers[name] for name in self._names_of_layers[layer]]
            outputs: tuple[Tensor, Tensor] = _ops.gru_int8(x, hx, weights, batch_sizes, self.bidirectional)
            return outputs

        return run_layers(run_layer, input, hx, self.num_layers, self._directions, self.batch_first, batch_sizes)

    def extra_repr(self) -> str:
        """The arguments that differ from their defaults."""
        return describe(self, num_layers=1, bias=True, batch_first=False, bidirectional=False)


class QuantizedGRUCell(_QuantizedModule):
    """One step of a GRU with int8 weights, for inference; ``quantize_dynamic`` makes it of a ``GRUCell``.

    Holds ``weight_ih`` (3H, I) and ``weight_hh`` (3H, H) int8, ``scale_ih`` and ``scale_hh`` (3H) and, with ``bias``,
    ``bias_ih`` and ``bias_hh`` (3H), float32. Arithmetic, accuracy and limits are those of ``QuantizedGRU``.

    Args:
        input_size: I, at most 66,311, as H.
        hidden_size: H.
        bias: whether the cell has biases, default True.
        device: of the buffers, which are zero until a ``state_dict`` is loaded.

    Raises:
        TypeError: a size is not an int, or ``bias`` not a bool.
        ValueError: a size is below 1 or too large.
    """

    scale_ih: Tensor

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, device: torch.device | str | None = None
    ) -> None:
        super().__init__(input_size, hidden_size, bias)
        self._weight_names = self._add_direction(input_size, "", device)

    @classmethod
    def from_float(cls, module: GRUCell | nn.GRUCell) -> QuantizedGRUCell:
        """The quantised form of a cell, with its hooks and mode; errors as in ``quantize_dynamic``."""
        quantized = cls(module.input_size, module.hidden_size, bool(module.bias), device="meta")
        quantized._take(module)
        return quantized

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        """Run one step.

        Args:
            input: (B, I), or (I) unbatched; float32.
            hx: (B, H), or (H) unbatched; None for zero.

        Returns:
            The next state, (B, H) or (H); without gradient.

        Raises:
            ValueError: the rank of ``input`` or ``hx`` or the dtype of ``input`` is wrong.
            RuntimeError: a size, a shape, a device or the dtype of ``hx`` is wrong.
        """
        check_cell_rank(input, hx)
        _check_input("gru_cell", input, hx, self.scale_ih.device)
        check_cell_sizes(input, hx, self.input_size, self.hidden_size)
        weights = [self._buffers[name] for name in self._weight_names]
        return run_cell(lambda x, h: _ops.gru_int8(x, h, weights, None, False), input, hx)

    def extra_repr(self) -> str:
        """The arguments that differ from their defaults."""
        return describe(self, bias=True)


# ---- Shapes and dtypes for tracing


@torch.library.register_fake("gru_ext::gru_int8")
def _gru_int8_fake(
    x: Tensor, hx: Tensor | None, weights: Sequence[Tensor], batch_sizes: Tensor | None, bidirectional: bool
) -> tuple[Tensor, Tensor]:
    directions = 2 if bidirectional else 1
    hidden = weights[3].shape[0] // 3
    if batch_sizes is None:
        batch: int | torch.SymInt = x.shape[1]
    elif hx is not None:
        batch = hx.shape[1]
    else:
        batch = torch.library.get_ctx().new_dynamic_size()
    return x.new_empty((*x.shape[:-1], directions * hidden)), x.new_empty((directions, batch, hidden))
