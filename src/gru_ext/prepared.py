"""GRUs whose weights were arranged once for this machine, for inference on a CPU: ``prepare``.

Letters: T steps, B batch, I input, H hidden, L layers, D directions (1 or 2).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any, TypeVar, overload

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from gru_ext import library as library  # registers the operators
from gru_ext.layout import FLOATING
from gru_ext.modules import GRU, GRUCell
from gru_ext.recurrence import check_flag
from gru_ext.regularizers import recurrence_of
from gru_ext.sharing import check_module, check_type, converted, replace_modules
from gru_ext.torch_internals import autocast_is_on, called_by, is_eager

__all__ = ["PreparedGRU", "PreparedGRUCell", "prepare"]

Model = TypeVar("Model", bound=nn.Module)

_prepare = torch.ops.gru_ext.prepare.default
_gru_prepared = called_by(torch.ops.gru_ext.gru_prepared.default)

_ARRANGED_KINDS = [{("cpu", dtype)} for dtype in FLOATING]  # devices and dtypes of all weights of a module


def prepare(module: Model, inplace: bool = False) -> Model | PreparedGRU | PreparedGRUCell:
    """Arrange the weights of every GRU of a model for the kernels of this machine, once for all calls.

    Otherwise each call arranges them, unless it has so few rows that this would not pay. A prepared call saves that,
    and most of its Python. The GRUs are ``gru_ext.GRU``, ``gru_ext.GRUCell``, ``torch.nn.GRU`` and
    ``torch.nn.GRUCell`` on the CPU; those that are prepared already are arranged anew. Left alone are quantised ones,
    whose weights are arranged for good, subclasses, and all other modules. Parameters, ``state_dict``, hooks,
    attributes and modes stay as they are. Results are those of the module before: the same bits, but for calls of so
    few rows, whose sums were in another order. See ``PreparedGRU``.

    Args:
        module: any module.
        inplace: prepare the GRUs in ``module`` itself; by default in a copy of it, which leaves it as it was.

    Returns:
        The model with its GRUs prepared.

    Raises:
        TypeError: ``inplace`` is no bool; or as in ``replace_gru``. Nothing has been prepared then.
        RuntimeError: a weight has another shape than the sizes of its GRU ask for. Likewise.

    Example:
        >>> model = gru_ext.prepare(torch.nn.GRU(8, 16).eval())
        >>> y, h_n = model(torch.randn(1, 1, 8))
    """
    check_flag("prepare", "inplace", inplace)
    check_module("prepare", "module", module)
    model = module if inplace else copy.deepcopy(module)
    before = [part for part in model.modules() if isinstance(part, _PreparedModule)]
    prepared: Model | PreparedGRU | PreparedGRUCell = replace_modules(
        "prepare", model, dict.fromkeys((GRU, nn.GRU, GRUCell, nn.GRUCell), _prepared)
    )
    for part in before:
        part.arrange()
    return prepared


def _prepared(operation: str, module: GRU | GRUCell | nn.GRU | nn.GRUCell) -> PreparedGRU | PreparedGRUCell:
    own = as_ours(operation, module)
    return PreparedGRU(own) if isinstance(own, GRU) else PreparedGRUCell(own)


def as_ours(operation: str, module: GRU | GRUCell | nn.GRU | nn.GRUCell) -> GRU | GRUCell:
    """The module, or what is to take the place of one of ``torch.nn``."""
    if isinstance(module, nn.GRU):
        return converted(operation, module, nn.GRU, GRU, in_place=True)
    if isinstance(module, nn.GRUCell):
        return converted(operation, module, nn.GRUCell, GRUCell, in_place=True)
    return module


def ordinary(module: PreparedGRU | PreparedGRUCell) -> Any:
    """The GRU or GRUCell that a prepared one was: it shares all of it, but for the arranged weights."""
    kind: Any = GRU if isinstance(module, PreparedGRU) else GRUCell
    made = kind.__new__(kind)
    vars(made).update(module.__getstate__())
    return made


def of_prepared(convert: Callable[[str, Any], nn.Module]) -> Callable[[str, Any], nn.Module]:
    """What ``replace_modules`` has of prepared modules, where ``convert`` is that of ordinary ones."""
    return lambda operation, module: convert(operation, ordinary(module))


def _version(weight: Tensor) -> int:
    """How often a tensor has changed in place; those that were made under inference_mode do not count it."""
    return 0 if weight.is_inference() else weight._version


class _PreparedModule(nn.Module):
    """What a layer and a cell share: the arranged weights, and of which parameters they are."""

    _gru_ext_arranged: Tensor | None  # as the operator `prepare` returns them; None where the ordinary call serves
    _gru_ext_arranged_names: list[str]  # of the parameters that were arranged, in the operator's order
    _gru_ext_arranged_weights: Callable[[dict[str, Any]], tuple[Any, ...]]  # those now, of a module's parameters
    # Of each: itself; its values, so that no others come to lie where they are; how often it had changed; where it was.
    _gru_ext_arranged_of: list[tuple[Tensor, Tensor, int, int]]

    def _take(self, module: nn.Module) -> None:
        """Share all that a module has, and arrange its weights."""
        vars(self).update(vars(module))
        self._arrange()

    def _weights_of_layers(self) -> tuple[list[str], int, bool]:
        """The names of the weights in the operator's order, L, and whether there are two directions."""
        raise NotImplementedError

    def _arrange(self) -> None:
        names, num_layers, bidirectional = self._weights_of_layers()
        module: Any = self
        self._gru_ext_arranged = None
        weights = [weight for name in names if (weight := self._parameters.get(name)) is not None]
        kinds = {(weight.device.type, weight.dtype) for weight in weights}
        if module._gru_ext_options["fake_int8"] or module._gru_ext_options["blocks"] != 1:
            return
        if module.hidden_size == 0 or len(weights) < len(names) or kinds not in _ARRANGED_KINDS:
            return
        variant = recurrence_of(module._gru_ext_options, training=False)
        assert variant is not None
        self._gru_ext_arranged_names = names
        self._gru_ext_arranged_weights = itemgetter(*names)
        self._gru_ext_arranged_of = [(w, w.detach(), _version(w), w.data_ptr()) for w in weights]
        has_biases = any("bias" in name for name in names)
        self._gru_ext_arranged = _prepare(
            weights, num_layers, bidirectional, has_biases, variant.zoneout, variant.reset_after, variant.layer_norm
        )

    def _run(self, input: Any, hx: Any, batch_first: bool) -> tuple[Tensor, Tensor] | None:
        """The results by the arranged weights, None where the ordinary call serves.

        Raises:
            RuntimeError: the weights are no longer those of the module.
        """
        arranged = self._gru_ext_arranged
        if (
            arranged is None
            or self.training
            or type(input) is not Tensor
            or not (hx is None or type(hx) is Tensor)
            or autocast_is_on()
            or not is_eager()
            or (torch.is_grad_enabled() and (input.requires_grad or (hx is not None and hx.requires_grad)))
        ):
            return None
        try:
            weights = self._gru_ext_arranged_weights(self._parameters)
            outputs: tuple[Tensor, Tensor] = _gru_prepared(input, hx, weights, arranged, batch_first)
            return outputs
        except (KeyError, RuntimeError, ValueError):
            # What the ordinary call takes besides, or refuses in its own words; or stale weights.
            self._check_weights()
            return None

    def _check_weights(self) -> None:
        changed = [
            name
            for name, (weight, _, version, address) in zip(
                self._gru_ext_arranged_names, self._gru_ext_arranged_of, strict=True
            )
            if self._parameters.get(name) is not weight or (_version(weight), weight.data_ptr()) != (version, address)
        ]
        if changed:
            raise RuntimeError(
                f"{type(self).__name__}: {', '.join(changed)} changed since the weights were arranged; call"
                " gru_ext.prepare again, or arrange() of this module"
            )

    def arrange(self) -> None:
        """Arrange the weights anew: after a parameter was changed or replaced.

        Example:
            >>> gru = gru_ext.prepare(gru_ext.GRU(8, 16).eval())
            >>> _ = gru.bias_hh_l0.requires_grad_(False).zero_()
            >>> gru.arrange()
        """
        self._arrange()

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._arrange()
        return self

    def _load_from_state_dict(self, *arguments: Any, **keywords: Any) -> None:
        super()._load_from_state_dict(*arguments, **keywords)
        self._arrange()

    def _set_option(self, name: str, value: Any) -> None:
        super()._set_option(name, value)  # type: ignore[misc]
        self._arrange()

    def __getstate__(self) -> dict[str, Any]:
        # Copies and files have their own parameters, perhaps on another machine.
        return {k: v for k, v in vars(self).items() if not k.startswith("_gru_ext_arranged")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._arrange()


class PreparedGRU(_PreparedModule, GRU):
    """A ``GRU`` whose weights ``prepare`` arranged for this machine.

    In ``eval()`` it runs from the arranged weights, and its results carry no gradient of the parameters. It is the
    ordinary ``GRU`` in ``train()``, where the gradient of ``input`` or ``hx`` is asked for, for a ``PackedSequence``,
    with ``lengths`` or ``resets``, for unbatched input, with ``outputs="last"``, on another device, under autocast, and
    while torch compiles or exports.

    A call raises where it sees that a parameter is no longer what was arranged: another tensor, a change in place, or
    another ``.data``. It cannot see what was written in place to ``.data``, as by ``weight.data.copy_(other)``, nor
    past torch: by NumPy or DLPack views, by another process in shared memory, or to parameters that were made under
    ``torch.inference_mode``. Change a parameter itself, under ``torch.no_grad``, or call ``arrange`` after it.
    ``load_state_dict``, ``to``, setting an option, copies and files arrange anew.

    ``prepare`` makes it of a model's.

    Args:
        module: the GRU, of which it shares parameters and all else.

    Raises:
        TypeError: ``module`` is not exactly a ``gru_ext.GRU``.

    Example:
        >>> gru = gru_ext.PreparedGRU(gru_ext.GRU(8, 16).eval())
        >>> y, h_n = gru(torch.randn(5, 2, 8))
    """

    def __init__(self, module: GRU) -> None:
        check_type("PreparedGRU", "module", module, GRU)
        self._take(module)

    @classmethod
    def from_torch(cls, module: nn.GRU) -> PreparedGRU:
        """The prepared form of a ``torch.nn.GRU``, with its very parameters; see ``GRU.from_torch``.

        Args:
            module: the GRU.

        Returns:
            A module that shares all of it.

        Raises:
            TypeError: as in ``GRU.from_torch``.

        Example:
            >>> gru = gru_ext.PreparedGRU.from_torch(torch.nn.GRU(8, 16).eval())
        """
        return cls(GRU.from_torch(module))

    def to_torch(self) -> nn.GRU:
        """The ``torch.nn.GRU`` that shares all of this module, without the arranged weights.

        Returns:
            The module.

        Raises:
            TypeError: as in ``GRU.to_torch``.
            ValueError: likewise.

        Example:
            >>> module = gru_ext.prepare(gru_ext.GRU(8, 16).eval()).to_torch()
        """
        module: nn.GRU = ordinary(self).to_torch()
        return module

    def _weights_of_layers(self) -> tuple[list[str], int, bool]:
        return self._gru_ext_weight_names, self.num_layers, self.bidirectional

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
            input: as of ``GRU.forward``, and the others.
            hx: likewise.
            lengths: likewise.
            resets: likewise.
            reset_state: likewise.

        Returns:
            The output and h_n, as ``GRU.forward`` returns them.

        Example:
            >>> gru = gru_ext.prepare(gru_ext.GRU(8, 16).eval())
            >>> output, h_n = gru(torch.randn(5, 2, 8), torch.zeros(1, 2, 16))

        Raises:
            RuntimeError: a parameter has changed since it was arranged; or as in ``GRU.forward``, which has the other
                errors too.
        """
        if (
            lengths is resets is reset_state is None
            and self._gru_ext_flat_weights is None
            and self._gru_ext_options["outputs"] == "all"
        ):
            outputs = self._run(input, hx, self.batch_first)
            if outputs is not None:
                return outputs
        given: Any = input  # which GRU.forward has overloads for
        return super().forward(given, hx, lengths=lengths, resets=resets, reset_state=reset_state)


class PreparedGRUCell(_PreparedModule, GRUCell):
    """A ``GRUCell`` whose weights ``prepare`` arranged for this machine; when it uses them: ``PreparedGRU``.

    Args:
        module: the cell, of which it shares parameters and all else.

    Raises:
        TypeError: ``module`` is not exactly a ``gru_ext.GRUCell``.

    Example:
        >>> cell = gru_ext.PreparedGRUCell(gru_ext.GRUCell(8, 16).eval())
        >>> h = cell(torch.randn(2, 8))
    """

    def __init__(self, module: GRUCell) -> None:
        check_type("PreparedGRUCell", "module", module, GRUCell)
        self._take(module)

    @classmethod
    def from_torch(cls, module: nn.GRUCell) -> PreparedGRUCell:
        """The prepared form of a ``torch.nn.GRUCell``, with its very parameters; see ``GRU.from_torch``.

        Args:
            module: the cell.

        Returns:
            A module that shares all of it.

        Raises:
            TypeError: as in ``GRU.from_torch``.

        Example:
            >>> cell = gru_ext.PreparedGRUCell.from_torch(torch.nn.GRUCell(8, 16).eval())
        """
        return cls(GRUCell.from_torch(module))

    def to_torch(self) -> nn.GRUCell:
        """The ``torch.nn.GRUCell`` that shares all of this module, without the arranged weights.

        Returns:
            The module.

        Raises:
            TypeError: as in ``GRUCell.to_torch``.
            ValueError: likewise.

        Example:
            >>> module = gru_ext.prepare(gru_ext.GRUCell(8, 16).eval()).to_torch()
        """
        module: nn.GRUCell = ordinary(self).to_torch()
        return module

    def _weights_of_layers(self) -> tuple[list[str], int, bool]:
        names = ["weight_ih", "weight_hh"]
        # Of one of a pair alone, the ordinary call says what is wrong.
        for pair in (["bias_ih", "bias_hh"], ["gain_ih", "gain_hh"]):
            if any(self._parameters.get(name) is not None for name in pair):
                names += pair
        return names, 1, False

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        """Run one step.

        Args:
            input: (B, I), or (I) unbatched.
            hx: (B, H), or (H) unbatched; None for zero.

        Returns:
            The next state, (B, H) or (H).

        Example:
            >>> cell = gru_ext.prepare(gru_ext.GRUCell(8, 16).eval())
            >>> cell(torch.randn(2, 8), torch.zeros(2, 16)).shape
            torch.Size([2, 16])

        Raises:
            RuntimeError: a parameter has changed since it was arranged; or as in ``GRUCell.forward``, which has the
                other errors too.
        """
        if type(input) is Tensor and input.dim() == 2 and (hx is None or (type(hx) is Tensor and hx.dim() == 2)):
            outputs = self._run(input.unsqueeze(0), None if hx is None else hx.unsqueeze(0), batch_first=False)
            if outputs is not None:
                return outputs[1].squeeze_(0)
        return super().forward(input, hx)
