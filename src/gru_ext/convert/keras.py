"""From and to Keras: ``keras.layers.GRU``, alone, in ``Bidirectional`` or stacked in a ``Sequential``.

Keras stores, for each direction, ``kernel`` (I, 3H), ``recurrent_kernel`` (H, 3H) and, with ``use_bias``, ``bias``:
(2, 3H) with ``reset_after``, that of the input and that of the state, or else (3H). Gates are in the order z, r, h. Its
two recurrences are those of ``gru_ext.GRU`` with ``reset_after`` True and False. Input and output are (B, T, ...).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gru_ext.convert.directions import (
    Direction,
    as_array,
    as_tensor,
    check_array,
    check_layers,
    layers_of,
    make_gru,
    swap_r_and_z,
)
from gru_ext.convert.reversed import Reversed
from gru_ext.modules import GRU
from gru_ext.recurrence import check_dropout, check_flag
from gru_ext.sharing import options_of

if TYPE_CHECKING:
    import numpy

# What a layer's configuration must say, where it says anything: the layer would compute something else, or in training.
_REQUIRED: dict[str, Any] = {
    "activation": "tanh",
    "recurrent_activation": "sigmoid",
    "dropout": 0.0,
    "recurrent_dropout": 0.0,
    "stateful": False,
    "time_major": False,
}


def from_keras_weights(
    weights: Sequence[Any],
    *,
    use_bias: bool = True,
    reset_after: bool = True,
    go_backwards: bool = False,
    bidirectional: bool = False,
    dropout: float = 0.0,
) -> GRU | Reversed:
    """The GRU, batch first, with the weights of one Keras GRU or of a stack of them.

    Args:
        weights: what ``get_weights()`` of the layer, of the ``Bidirectional`` around it, or of a stack of such layers
            returns: arrays (or tensors) of float32, float64, bfloat16 or float16, all of one dtype. Copied.
        use_bias: whether the layers have biases. Default True, as in Keras.
        reset_after: whether the reset gate applies after the product with the recurrent kernel. If not, Keras has one
            bias: it becomes ``bias_ih``, and ``bias_hh`` is zero. Default True.
        go_backwards: whether the layer, a single one, runs from the last step to the first. Default False.
        bidirectional: whether the layers are in ``Bidirectional``, with ``merge_mode="concat"``. Default False.
        dropout: probability of zeroing an element between the layers, as of ``GRU``. Default 0.

    Returns:
        A ``GRU``; a ``Reversed`` for ``go_backwards``.

    Raises:
        TypeError: ``weights`` is no list, or a flag no bool.
        ValueError: the number of arrays, a shape or a dtype is another than the arguments say, or ``dropout`` is not a
            number in [0, 1].

    Example:
        >>> kernel, recurrent_kernel, bias = torch.randn(3, 12), torch.randn(4, 12), torch.zeros(2, 12)
        >>> gru_ext.convert.from_keras_weights([kernel, recurrent_kernel, bias])
        GRU(3, 4, batch_first=True)
    """
    function = "from_keras_weights"
    if not isinstance(weights, Sequence) or isinstance(weights, str | bytes):
        raise TypeError(f"{function}: expected weights of type list, got {type(weights).__name__}")
    use_bias = check_flag(function, "use_bias", use_bias)
    reset_after = check_flag(function, "reset_after", reset_after)
    go_backwards = check_flag(function, "go_backwards", go_backwards)
    bidirectional = check_flag(function, "bidirectional", bidirectional)
    dropout = check_dropout(function, "dropout", dropout)
    directions, arrays = 2 if bidirectional else 1, 3 if use_bias else 2
    if not weights or len(weights) % (directions * arrays):
        raise ValueError(
            f"{function}: expected weights of {arrays} arrays for each of D = {directions} directions of each layer"
            f" (use_bias = {use_bias}), got {len(weights)}"
        )
    found = [
        _direction(function, weights[i : i + arrays], i // (directions * arrays), reset_after)
        for i in range(0, len(weights), arrays)
    ]
    layers = [found[i : i + directions] for i in range(0, len(found), directions)]
    check_layers(function, layers)
    if go_backwards and (bidirectional or len(layers) > 1):
        raise ValueError(f"{function}: expected go_backwards of a single layer in one direction only")
    gru = make_gru(layers, reset_after=reset_after, batch_first=True, dropout=dropout)
    return Reversed(gru, restore_order=False) if go_backwards else gru


def to_keras_weights(gru: GRU | nn.GRU | Reversed) -> list[numpy.ndarray[Any, Any]]:
    """The weights of a GRU as ``set_weights`` of the Keras layers takes them, those of all layers one after another.

    The layers have ``use_bias`` and ``reset_after`` as the GRU has ``bias`` and ``reset_after``. Without
    ``reset_after`` Keras has one bias, the sum of the two of the GRU: exact, up to its rounding.

    Args:
        gru: a GRU, or a ``Reversed``.

    Returns:
        For each layer and direction: kernel (I, 3H), recurrent kernel (H, 3H) and, with biases, bias (2, 3H), or (3H)
        without ``reset_after``.

    Raises:
        TypeError: ``gru`` is not a GRU with plain parameters.
        ValueError: it has an option that Keras's GRU has not: ``layer_norm``, ``blocks`` or ``zoneout``.
        ImportError: the weights are bfloat16, and the package ml_dtypes is not installed.

    Example:
        >>> [array.shape for array in gru_ext.convert.to_keras_weights(gru_ext.GRU(3, 4))]
        [(3, 12), (4, 12), (2, 12)]
    """
    return [array for layer in _arrays("to_keras_weights", gru) for array in layer]


def from_keras(layer: Any) -> GRU | Reversed:
    """The GRU, batch first, with the weights of a Keras layer; needs keras.

    The returned GRU gives every step and the last state, whatever ``return_sequences`` and ``return_state`` of the
    layer say. Initializers, regularizers, constraints and ``trainable`` are not converted.

    Args:
        layer: a built ``keras.layers.GRU``, a ``keras.layers.Bidirectional`` of one, or a ``keras.Sequential`` of
            several of either kind, with nothing else than ``keras.layers.Dropout`` between.

    Returns:
        A ``GRU``; a ``Reversed`` for ``go_backwards``.

    Raises:
        TypeError: ``layer`` is something else.
        ValueError: it is not built, or has an activation, a dropout of its inputs or states, a ``merge_mode`` or
            another argument that a ``GRU`` has not. The weights alone convert by ``from_keras_weights``.
        ImportError: keras is not installed.

    Example:
        >>> import keras
        >>> layer = keras.layers.GRU(4)
        >>> layer.build((None, None, 3))
        >>> gru_ext.convert.from_keras(layer)
        GRU(3, 4, batch_first=True)
    """
    keras = _import_keras("from_keras")
    parts = list(layer.layers) if isinstance(layer, keras.Sequential) else [layer]
    stack = [part for part in parts if not isinstance(part, keras.layers.Dropout)]
    kinds = {_kind(keras, part) for part in stack}
    if len(kinds) != 1 or None in kinds:
        raise TypeError(
            "from_keras: expected layer of type keras.layers.GRU, Bidirectional of it, or a Sequential of layers of one"
            f" of these types, got {', '.join(type(part).__name__ for part in parts) or 'an empty Sequential'}"
        )
    bidirectional = kinds == {"Bidirectional"}
    for part in stack[:-1]:
        if not (part.forward_layer if bidirectional else part).return_sequences:
            raise ValueError(f"from_keras: expected return_sequences of {part.name}, as a layer follows it, got False")
    configs = [config for part in stack for config in _configs(part, bidirectional)]
    first = configs[0]
    for config in configs:
        _check_config(config)
        for name in ("units", "use_bias", "reset_after", "go_backwards"):
            if config[name] != first[name]:
                raise ValueError(
                    f"from_keras: expected one {name} for all layers, got {first[name]} and {config[name]}"
                )
    return from_keras_weights(
        [variable.value for part in stack for variable in part.weights],
        use_bias=first["use_bias"],
        reset_after=first["reset_after"],
        go_backwards=first["go_backwards"],
        bidirectional=bidirectional,
        dropout=_dropout_between(keras, parts),
    )


def to_keras(gru: GRU | nn.GRU | Reversed) -> Any:
    """The built Keras layer with the weights of a GRU, copied; needs keras.

    Args:
        gru: a GRU, or a ``Reversed``.

    Returns:
        A ``keras.layers.GRU`` that returns every step, or a ``keras.layers.Bidirectional`` of one; for several layers,
        a ``keras.Sequential`` of them, with ``keras.layers.Dropout`` between where the GRU has dropout. Input and
        output are (B, T, ...), whatever ``batch_first`` says. For layers with other arguments, make them yourself, and
        give them ``to_keras_weights``.

    Raises:
        TypeError: ``gru`` is not a GRU with plain parameters.
        ValueError: ``gru`` is a ``Reversed`` that restores the order, which Keras's ``go_backwards`` does not, or one
            of several layers; or as in ``to_keras_weights``.
        ImportError: keras is not installed.

    Example:
        >>> layer = gru_ext.convert.to_keras(gru_ext.GRU(3, 4))
        >>> layer.units, layer.return_sequences
        (4, True)
    """
    keras = _import_keras("to_keras")
    arrays = _arrays("to_keras", gru)
    backwards = isinstance(gru, Reversed)
    source = gru.gru if isinstance(gru, Reversed) else gru
    if isinstance(gru, Reversed) and (gru.restore_order or len(arrays) > 1):
        raise ValueError(
            "to_keras: expected Reversed with restore_order=False and one layer, as Keras's go_backwards is, got"
            f" restore_order={gru.restore_order} and L = {len(arrays)}"
        )
    layers: list[Any] = []
    dtype = str(source.weight_ih_l0.dtype).removeprefix("torch.")
    for i in range(len(arrays)):
        layer = keras.layers.GRU(
            source.hidden_size,
            return_sequences=True,
            use_bias=source.bias,
            reset_after=_is_reset_after(source),
            go_backwards=backwards,
            recurrent_initializer="zeros",  # orthogonal ones, the default, need a decomposition; all are replaced
            dtype=dtype,
        )
        if i > 0 and source.dropout > 0:
            layers.append(keras.layers.Dropout(source.dropout, dtype=dtype))
        layers.append(keras.layers.Bidirectional(layer, dtype=dtype) if source.bidirectional else layer)
    stack = [layer for layer in layers if not isinstance(layer, keras.layers.Dropout)]
    for i, (layer, weights) in enumerate(zip(stack, arrays, strict=True)):
        inputs = source.input_size if i == 0 else (2 if source.bidirectional else 1) * source.hidden_size
        layer.build((None, None, inputs))
        layer.set_weights(weights)
    return (
        layers[0]
        if len(layers) == 1
        else keras.Sequential([keras.Input((None, source.input_size), dtype=dtype), *layers])
    )


def _direction(function: str, arrays: Sequence[Any], layer: int, reset_after: bool) -> Direction:
    """Of the arrays of one direction: kernel, recurrent kernel and, where there is one, bias."""
    kernel, recurrent, *biases = (
        as_tensor(function, f"{name} of layer {layer}", array)
        for name, array in zip(("kernel", "recurrent_kernel", "bias"), arrays, strict=False)
    )
    hidden = recurrent.shape[0] if recurrent.dim() == 2 else recurrent.shape[-1] // 3
    check_array(function, f"recurrent_kernel of layer {layer}", recurrent, "(H, 3H)", (hidden, 3 * hidden))
    inputs = kernel.shape[0] if kernel.dim() == 2 else 1
    check_array(function, f"kernel of layer {layer}", kernel, "(I, 3H)", (inputs, 3 * hidden))
    weight_ih, weight_hh = swap_r_and_z(kernel.t()), swap_r_and_z(recurrent.t())
    if not biases:
        return Direction(weight_ih, weight_hh)
    name = f"bias of layer {layer} (reset_after = {reset_after})"
    if reset_after:
        check_array(function, name, biases[0], "(2, 3H)", (2, 3 * hidden))
        bias_ih, bias_hh = biases[0]
        return Direction(weight_ih, weight_hh, swap_r_and_z(bias_ih), swap_r_and_z(bias_hh))
    check_array(function, name, biases[0], "(3H)", (3 * hidden,))
    return Direction(weight_ih, weight_hh, swap_r_and_z(biases[0]), torch.zeros_like(biases[0]))


def _arrays(function: str, gru: GRU | nn.GRU | Reversed) -> list[list[numpy.ndarray[Any, Any]]]:
    """For each layer, the arrays of its directions one after another."""
    source = gru.gru if isinstance(gru, Reversed) else gru
    reset_after = _is_reset_after(source)
    layers = []
    for layer in layers_of(function, source):
        tensors: list[Tensor] = []
        for weight_ih, weight_hh, bias_ih, bias_hh, *_ in layer:
            tensors += [swap_r_and_z(weight_ih).t(), swap_r_and_z(weight_hh).t()]
            if bias_ih is not None and bias_hh is not None:
                if reset_after:
                    tensors += [torch.stack([swap_r_and_z(bias_ih), swap_r_and_z(bias_hh)])]
                else:  # a sum with zero would turn -0.0 into 0.0
                    tensors += [swap_r_and_z(torch.where(bias_hh == 0, bias_ih, bias_ih + bias_hh))]
        layers.append([as_array(tensor) for tensor in tensors])
    return layers


def _is_reset_after(gru: GRU | nn.GRU) -> bool:
    reset_after: bool = options_of(gru).get("reset_after", True)
    return reset_after


def _import_keras(function: str) -> Any:
    try:
        import keras
    except ImportError as error:
        raise ImportError(
            f"{function} needs the package keras: pip install keras; and a backend for it, such as torch:"
            f" KERAS_BACKEND=torch ({error})"
        ) from error
    return keras


def _kind(keras: Any, layer: Any) -> str | None:
    """``GRU`` or ``Bidirectional``; None for anything else, subclasses too, whose ``call`` may be another."""
    if type(layer) is keras.layers.GRU:
        return "GRU"
    if type(layer) is keras.layers.Bidirectional and type(layer.forward_layer) is keras.layers.GRU:
        return "Bidirectional" if type(layer.backward_layer) is keras.layers.GRU else None
    return None


def _configs(layer: Any, bidirectional: bool) -> list[Mapping[str, Any]]:
    """Of each direction of a layer; that of the backward one of a ``Bidirectional`` as if it ran forward."""
    if not layer.built:
        raise ValueError(f"from_keras: expected a built layer, got {layer.name}: call it, or its build method, first")
    if not bidirectional:
        return [layer.get_config()]
    if layer.merge_mode != "concat":
        raise ValueError(f"from_keras: expected merge_mode 'concat' of {layer.name}, got {layer.merge_mode!r}")
    forward, backward = layer.forward_layer.get_config(), layer.backward_layer.get_config()
    if forward["go_backwards"]:
        raise ValueError(f"from_keras: expected go_backwards False of the GRU in {layer.name}, got True")
    return [forward, {**backward, "go_backwards": not backward["go_backwards"]}]


def _check_config(config: Mapping[str, Any]) -> None:
    for name, expected in _REQUIRED.items():
        got = config.get(name, expected)
        if got != expected:
            raise ValueError(
                f"from_keras: expected {name} {expected!r} of {config['name']}, got {got!r}; the weights alone convert"
                " by from_keras_weights"
            )


def _dropout_between(keras: Any, parts: Sequence[Any]) -> float:
    """The one rate of the ``Dropout`` layers, exactly one of which stands between each two others; or 0 without any."""
    dropouts = [isinstance(part, keras.layers.Dropout) for part in parts]
    rates = {part.rate for part in parts if isinstance(part, keras.layers.Dropout)}
    if not rates:
        return 0.0
    if len(rates) > 1 or dropouts != [i % 2 == 1 for i in range(len(parts))] or dropouts[-1]:
        raise ValueError(
            "from_keras: expected Dropout layers of one rate, one between each two GRUs and none elsewhere, got"
            f" {', '.join(type(part).__name__ for part in parts)} with the rates {sorted(rates)}"
        )
    return float(rates.pop())
