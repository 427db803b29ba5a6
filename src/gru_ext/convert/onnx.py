"""From and to ONNX: its operator GRU, one node a layer, both directions in one node.

The node's inputs (https://onnx.ai/onnx/operators/onnx__GRU.html): X (T, B, I), W (D, 3H, I), R (D, 3H, H), B (D, 6H)
with the bias of the input before that of the state, sequence_lens (B) and initial_h (D, B, H); its outputs: Y
(T, D, B, H) and Y_h (D, B, H). Gates are in the order z, r, h. ``linear_before_reset`` is ``reset_after``.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gru_ext.convert.directions import (
    Direction,
    as_tensor,
    check_array,
    check_layers,
    layers_of,
    make_gru,
    swap_r_and_z,
)
from gru_ext.convert.reversed import Reversed
from gru_ext.modules import GRU
from gru_ext.onnx_export import NoCounterpartError, by_to_onnx
from gru_ext.recurrence import DEFAULTS
from gru_ext.sharing import options_of
from gru_ext.torch_internals import schema_of

if TYPE_CHECKING:
    import onnx

_WEIGHT_INPUTS = ("W", "R", "B")  # inputs 1 to 3 of the node
# Inputs 4 and 5 of the node, which are no weights: what a GRU's forward calls them.
_GIVEN = {4: ("sequence_lens", "lengths"), 5: ("initial_h", "hx")}
_NEWER_OPSET = 19  # which onnx's reference evaluator has DequantizeLinear of
_ONNX_INT32 = 6  # TensorProto.INT32
# Arguments of the operator, after the first five, that the node can do: without save_y, nothing uses its Y, and
# what save_gates keeps is for a backward.
_CONVERTED = ("reset_after", "save_y", "save_gates")
_NOT_BY_OPERATOR = {"blocks", "fake_int8"}  # options whose layers are not calls of the operator


def to_onnx_weights(gru: GRU | nn.GRU) -> list[dict[str, Tensor]]:
    """The weights of a GRU as ONNX's nodes have them; copies.

    Args:
        gru: a GRU.

    Returns:
        For each layer, the weights of its node: W (D, 3H, I), R (D, 3H, H) and, with biases, B (D, 6H).

    Raises:
        TypeError: ``gru`` is not a GRU with plain parameters.
        ValueError: it has an option that ONNX's GRU has not: ``layer_norm``, ``blocks`` or ``zoneout``.

    Example:
        >>> (layer,) = gru_ext.convert.to_onnx_weights(gru_ext.GRU(3, 4))
        >>> {name: tuple(weight.shape) for name, weight in layer.items()}
        {'W': (1, 12, 3), 'R': (1, 12, 4), 'B': (1, 24)}
    """
    layers = []
    for layer in layers_of("to_onnx_weights", gru):
        parts: dict[str, list[Tensor]] = {name: [] for name in _WEIGHT_INPUTS}
        for weight_ih, weight_hh, bias_ih, bias_hh, *_ in layer:
            parts["W"].append(swap_r_and_z(weight_ih))
            parts["R"].append(swap_r_and_z(weight_hh))
            if bias_ih is not None and bias_hh is not None:
                parts["B"].append(torch.cat([swap_r_and_z(bias_ih), swap_r_and_z(bias_hh)]))
        layers.append({name: torch.stack(tensors) for name, tensors in parts.items() if tensors})
    return layers


def to_onnx(
    model: nn.Module | torch.export.ExportedProgram,
    args: tuple[Any, ...] = (),
    kwargs: dict[str, Any] | None = None,
    **arguments: Any,
) -> torch.onnx.ONNXProgram:
    """Export a model with ``torch.onnx.export``, every layer of a ``gru_ext.GRU`` in it as one GRU node.

    Both directions of a layer are one node; W, R and B are initializers in ONNX's gate order. Needs the packages onnx
    and onnxscript. ONNX Runtime runs the node in float32. ``lengths`` become the node's sequence_lens; where one is 0,
    ONNX Runtime gives a last state of zero, and not hx.

    Args:
        model: any module with GRUs in it, or an ``ExportedProgram`` that has not been decomposed. Call its ``eval()``
            first, as for any export.
        args: example arguments of ``model``, as of ``torch.onnx.export``. Default: none.
        kwargs: example arguments by name. Default: none.
        arguments: further ones of ``torch.onnx.export``, such as ``dynamic_shapes``, ``input_names`` or
            ``opset_version``.

    Returns:
        The program: ``program.save("model.onnx")``, or ``program.model_proto``.

    Raises:
        ImportError: a package is not installed.
        TypeError: an argument is ``f`` or ``dynamo``, which are not for choice here.
        NotImplementedError: a GRU does what the node cannot, or takes a ``PackedSequence`` or ``resets``.
        torch.onnx.OnnxExporterError: ``torch.onnx`` cannot export another part of the model.

    Example:
        >>> model = torch.nn.Sequential(gru_ext.GRU(3, 4, bidirectional=True)).eval()
        >>> program = gru_ext.convert.to_onnx(model, (torch.randn(7, 2, 3),), verbose=False)
        >>> [node.op_type for node in program.model.graph if node.op_type == "GRU"]
        ['GRU']
    """
    _import("onnx", "to_onnx")
    _import("onnxscript", "to_onnx")
    if not isinstance(model, nn.Module | torch.export.ExportedProgram):
        kinds = "torch.nn.Module or torch.export.ExportedProgram"
        raise TypeError(f"to_onnx: expected model of type {kinds}, got {type(model).__name__}")
    if taken := {"f", "dynamo"} & arguments.keys():
        raise TypeError(f"to_onnx: expected no argument {taken.pop()}; save what is returned with program.save(file)")
    for module in model.modules() if isinstance(model, nn.Module) else ():
        for name in _NOT_BY_OPERATOR & options_of(module).keys():
            value, default = options_of(module)[name], DEFAULTS[name]
            if value != default:
                raise NoCounterpartError(f"to_onnx: ONNX's GRU has no {name}: expected {default!r}, got {value!r}")
    table = {
        torch.ops.gru_ext.gru.default: _translate,
        torch.ops.gru_ext.gru_padded.default: _node,
        torch.ops.gru_ext.segments.default: _translate_segments,
        torch.ops.gru_ext.gru_int8.default: _translate_int8,
        **arguments.pop("custom_translation_table", {}),
    }
    token = by_to_onnx.set(True)
    try:
        program = torch.onnx.export(
            model, args, kwargs=kwargs, dynamo=True, custom_translation_table=table, **arguments
        )
    except torch.onnx.OnnxExporterError as error:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, NoCounterpartError):
                raise NoCounterpartError(str(cause)) from error
            cause = cause.__cause__
        raise
    finally:
        by_to_onnx.reset(token)
    assert program is not None
    _fold_weights(program)
    return program


def from_onnx(
    model: onnx.ModelProto | bytes | str | os.PathLike[str], node: str | Sequence[str] | None = None
) -> GRU | Reversed:
    """The GRU with the weights of the GRU node, or several nodes, of an ONNX model; needs the package onnx.

    ``sequence_lens`` and ``initial_h`` are inputs of the node, not part of its weights: give them to the GRU's
    ``forward``.

    Args:
        model: the model, the bytes of one, or the path of one.
        node: the name of the node, or of its first output; None, the default, where the model has one GRU node alone.
            Several names are the layers of one GRU, first to last; that each takes what the one before gives is for
            you to see to.

    Returns:
        A ``GRU``, sequence first; a ``Reversed`` for the direction "reverse". It has biases where the node has B.

    Raises:
        ValueError: there is no such node, or several; its weights do not follow from constants, or are of a wrong
            shape; or an attribute (``activations``, ``clip``, ``layout``) asks for what a ``GRU`` does not compute.
        TypeError: ``model`` is something else.
        ImportError: onnx is not installed.

    Example:
        >>> model = torch.nn.Sequential(gru_ext.GRU(3, 4)).eval()
        >>> program = gru_ext.convert.to_onnx(model, (torch.randn(7, 2, 3),), verbose=False)
        >>> gru_ext.convert.from_onnx(program.model_proto)
        GRU(3, 4)
    """
    onnx, message = _import("onnx", "from_onnx"), _import("google.protobuf.message", "from_onnx")
    if isinstance(model, bytes | str | os.PathLike):
        try:
            model = onnx.load_from_string(model) if isinstance(model, bytes) else onnx.load(model)
        except message.DecodeError as error:
            raise ValueError("from_onnx: expected model to be an ONNX model, got bytes that are none") from error
    if not isinstance(model, onnx.ModelProto):
        raise TypeError(f"from_onnx: expected model of type ModelProto, bytes or a path, got {type(model).__name__}")
    nodes = _find(model, node)
    inputs = [name for found in nodes for i in (1, 2, 3, *_GIVEN) if (name := _input(found, i))]
    return _from_nodes("from_onnx", nodes, _evaluate(model, inputs))


def from_onnx_node(node: onnx.NodeProto, weights: Mapping[str, Any]) -> GRU | Reversed:
    """As ``from_onnx``, of a GRU node alone.

    Args:
        node: a ``NodeProto`` of the operator GRU.
        weights: arrays or tensors by the names that ``node.input`` has for W (D, 3H, I), R (D, 3H, H) and, where it has
            one, B (D, 6H). Copied.

    Returns:
        A ``GRU``, sequence first; a ``Reversed`` for the direction "reverse".

    Raises:
        ValueError: ``node`` is of another operator or asks for what a ``GRU`` does not compute, or a weight is missing
            or of a wrong shape.
        ImportError: onnx is not installed.

    Example:
        >>> import onnx
        >>> node = onnx.helper.make_node("GRU", ["x", "w", "r"], ["y"], hidden_size=4, linear_before_reset=1)
        >>> gru_ext.convert.from_onnx_node(node, {"w": torch.randn(1, 12, 3), "r": torch.randn(1, 12, 4)})
        GRU(3, 4, bias=False)
    """
    return _from_nodes("from_onnx_node", [node], weights)


# ---- Export


def _translate(*args: Any, **kwargs: Any) -> tuple[Any, Any]:
    """The operator ``gru_ext::gru`` as a GRU node; arguments and results as the operator's, symbolic."""
    given = _bind(args, kwargs)
    return _node(given["x"], given["hx"], given["weights"], None, given["bidirectional"], given["reset_after"])


def _translate_segments(*args: Any) -> Any:
    """What ``resets``, and ``lengths`` outside of the export to ONNX, are recorded as."""
    raise NoCounterpartError(
        "to_onnx: ONNX's GRU has no resets; and lengths convert where the module itself is exported, not an"
        " ExportedProgram of it"
    )


def _translate_int8(*args: Any) -> Any:
    raise NoCounterpartError("to_onnx: expected GRUs with floating weights, got int8, which ONNX's GRU has not")


def _node(
    x: Any, hx: Any, weights: Sequence[Any], lengths: Any, bidirectional: bool, reset_after: bool
) -> tuple[Any, Any]:
    """The GRU node of one layer: y (T, B, D*H) and h_n (D, B, H). It is also how ``gru_ext::gru_padded`` translates."""
    from onnxscript import opset18 as op

    directions = 2 if bidirectional else 1
    per_direction = len(weights) // directions
    hidden = weights[1].shape[1]
    z_r_h = [*range(hidden, 2 * hidden), *range(hidden), *range(2 * hidden, 3 * hidden)]

    def zrh(weight: Any) -> Any:
        return op.Gather(weight, z_r_h, axis=0)

    def stack(parts: list[Any]) -> Any:
        return op.Concat(*(op.Unsqueeze(part, [0]) for part in parts), axis=0)

    of_directions = [weights[i : i + per_direction] for i in range(0, len(weights), per_direction)]
    biases = [op.Concat(zrh(d[2]), zrh(d[3]), axis=0) for d in of_directions if len(d) == 4]
    y, h_n = op.GRU(
        x,
        stack([zrh(d[0]) for d in of_directions]),
        stack([zrh(d[1]) for d in of_directions]),
        stack(biases) if biases else None,
        None if lengths is None else op.Cast(lengths, to=_ONNX_INT32),
        hx,
        direction="bidirectional" if bidirectional else "forward",
        hidden_size=hidden,
        linear_before_reset=int(reset_after),
    )
    y = op.Transpose(y, perm=[0, 2, 1, 3])  # (T, B, D, H)
    return op.Reshape(y, [0, 0, directions * hidden]), h_n


def _bind(args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The operator's arguments by name.

    Raises:
        NoCounterpartError: an argument that ONNX's GRU has not, those after the first five, is not at its default.
    """
    parameters = schema_of(torch.ops.gru_ext.gru.default).arguments
    given = {parameter.name: parameter.default_value for parameter in parameters if parameter.has_default_value()}
    given |= dict(zip([parameter.name for parameter in parameters], args, strict=False)) | dict(kwargs)
    if given["batch_sizes"] is not None:
        raise NoCounterpartError("to_onnx: expected padded input, got a PackedSequence, which ONNX has not")
    for parameter in parameters[5:]:
        if parameter.name not in _CONVERTED and given[parameter.name] != parameter.default_value:
            raise NoCounterpartError(
                f"to_onnx: ONNX's GRU has no {parameter.name}: expected {parameter.default_value!r}, got"
                f" {given[parameter.name]!r}"
            )
    return given


def _fold_weights(program: torch.onnx.ONNXProgram) -> None:
    """Make initializers of the weights of the GRU nodes, where they follow from constants."""
    import onnx_ir
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    graph = program.model.graph
    nodes = [node for node in graph if node.op_type == "GRU" and node.domain == ""]
    computed = {v.name for node in nodes for v in node.inputs[1:4] if v is not None and v.producer() is not None}
    for name, array in _evaluate(program.model_proto, list(computed)).items():
        for node in nodes:
            for i, kind in enumerate(_WEIGHT_INPUTS, start=1):
                value = node.inputs[i] if i < len(node.inputs) else None
                if value is not None and value.name == name:
                    folded = onnx_ir.val(f"{node.name}.{kind}", const_value=onnx_ir.tensor(array))
                    graph.register_initializer(folded)
                    node.replace_input_with(i, folded)
    RemoveUnusedNodesPass()(program.model)


# ---- Import


def _find(model: onnx.ModelProto, names: str | Sequence[str] | None) -> list[onnx.NodeProto]:
    nodes = [node for node in model.graph.node if node.op_type == "GRU" and node.domain in ("", "ai.onnx")]
    if names is None and len(nodes) == 1:
        return nodes
    listed = ", ".join(_label(node) for node in nodes) or "no GRU node"
    if names is None:
        raise ValueError(f"from_onnx: expected the name of a node where there is not one GRU node alone, got {listed}")
    by_name = {name: node for node in nodes for name in (node.name, *node.output[:1]) if name}
    wanted = [names] if isinstance(names, str) else list(names)
    if not wanted or (missing := [name for name in wanted if name not in by_name]):
        raise ValueError(
            f"from_onnx: expected the name of a GRU node, got {', '.join(missing) if wanted else 'none'}; the model has"
            f" {listed}"
        )
    return [by_name[name] for name in wanted]


def _from_nodes(function: str, nodes: Sequence[onnx.NodeProto], weights: Mapping[str, Any]) -> GRU | Reversed:
    attributes = [_attributes(function, node) for node in nodes]
    for name in ("direction", "linear_before_reset"):
        if len({given[name] for given in attributes}) > 1:
            found = ", ".join(str(given[name]) for given in attributes)
            raise ValueError(f"{function}: expected one {name} for all nodes, got {found}")
    for node in nodes:
        for i, (kind, argument) in _GIVEN.items():
            constant = weights.get(_input(node, i))
            if constant is not None and (kind != "initial_h" or constant.any()):
                raise ValueError(
                    f"{function}: expected {kind} of {_label(node)} to be an input of the model, or to be left out, got"
                    f" a constant: pass it to the GRU as {argument}, and remove it from the node"
                )
    layers = [_directions(function, node, given, weights) for node, given in zip(nodes, attributes, strict=True)]
    check_layers(function, layers)
    gru = make_gru(layers, reset_after=attributes[0]["linear_before_reset"] != 0)
    return Reversed(gru, restore_order=True) if attributes[0]["direction"] == "reverse" else gru


def _attributes(function: str, node: onnx.NodeProto) -> dict[str, Any]:
    """The node's attributes with ONNX's defaults.

    Raises:
        ValueError: the node is no GRU, or asks for what a ``GRU`` does not compute.
    """
    from onnx import helper

    if node.op_type != "GRU":
        raise ValueError(f"{function}: expected a node of the operator GRU, got {node.op_type}")
    given: dict[str, Any] = {"direction": "forward", "layout": 0, "linear_before_reset": 0}
    given |= {a.name: _text(helper.get_attribute_value(a)) for a in node.attribute}
    if given["direction"] not in ("forward", "reverse", "bidirectional"):
        raise ValueError(
            f"{function}: expected direction forward, reverse or bidirectional of {_label(node)}, got"
            f" {given['direction']}"
        )
    standard = ["Sigmoid", "Tanh"] * (2 if given["direction"] == "bidirectional" else 1)
    found = given.get("activations", standard)
    if [str(name).lower() for name in found] != [name.lower() for name in standard]:
        raise ValueError(
            f"{function}: expected activations {', '.join(standard)} of {_label(node)}, got {', '.join(found)}"
        )
    if "clip" in given:
        raise ValueError(f"{function}: expected no clip of {_label(node)}, got {given['clip']}")
    if given["layout"] != 0:
        raise ValueError(f"{function}: expected layout 0 of {_label(node)}, got {given['layout']}")
    return given


def _directions(
    function: str, node: onnx.NodeProto, attributes: Mapping[str, Any], weights: Mapping[str, Any]
) -> list[Direction]:
    """Of the weights of a node."""
    tensors = {}
    for i, kind in enumerate(_WEIGHT_INPUTS, start=1):
        if name := _input(node, i):
            if name not in weights:
                raise ValueError(
                    f"{function}: expected {kind} of {_label(node)} to follow from constants, got {name!r}"
                )
            tensors[kind] = as_tensor(function, f"{kind} of {_label(node)}", weights[name])
    if missing := {"W", "R"} - tensors.keys():
        raise ValueError(f"{function}: expected {_label(node)} with inputs X, W and R, got none for {missing.pop()}")
    directions = 2 if attributes["direction"] == "bidirectional" else 1
    hidden = attributes.get("hidden_size", tensors["R"].shape[-1])
    inputs = tensors["W"].shape[-1]
    for kind, letters, shape in (
        ("W", "(D, 3H, I)", (directions, 3 * hidden, inputs)),
        ("R", "(D, 3H, H)", (directions, 3 * hidden, hidden)),
        ("B", "(D, 6H)", (directions, 6 * hidden)),
    ):
        if kind in tensors:
            check_array(function, f"{kind} of {_label(node)}", tensors[kind], letters, shape)
    return [
        Direction(
            swap_r_and_z(tensors["W"][d]),
            swap_r_and_z(tensors["R"][d]),
            *(swap_r_and_z(bias) for bias in (tensors["B"][d].chunk(2) if "B" in tensors else ())),
        )
        for d in range(directions)
    ]


def _evaluate(model: onnx.ModelProto, names: Sequence[str]) -> dict[str, Any]:
    """The arrays of those of the names that follow from constants: initializers, and what is computed from them."""
    import onnx.version_converter
    from onnx import ValueInfoProto, helper, numpy_helper
    from onnx.reference import ReferenceEvaluator

    initializers = {tensor.name: tensor for tensor in model.graph.initializer}
    arrays = {}
    for name in names:
        if name in initializers:
            arrays[name] = numpy_helper.to_array(initializers[name])
        elif nodes := _constant_nodes(model.graph, name):
            used = [initializers[i] for i in {i for node in nodes for i in node.input} if i in initializers]
            graph = helper.make_graph(nodes, "constants", [], [ValueInfoProto(name=name)], used)
            part = helper.make_model(graph, opset_imports=model.opset_import, functions=model.functions)
            try:
                evaluator = ReferenceEvaluator(part)
            except RuntimeError:  # it has some operators in their newer versions only
                evaluator = ReferenceEvaluator(onnx.version_converter.convert_version(part, _NEWER_OPSET))
            (arrays[name],) = evaluator.run(None, {})
    return arrays


def _constant_nodes(graph: onnx.GraphProto, name: str) -> list[onnx.NodeProto]:
    """The nodes that compute a tensor, in the order of the graph; none if it depends on an input of the model."""
    initializers = {tensor.name for tensor in graph.initializer}
    producers = {output: i for i, node in enumerate(graph.node) for output in node.output}
    needed: set[int] = set()
    pending = [name]
    while pending:
        current = pending.pop()
        if current in initializers or current == "":  # an input that is left out
            continue
        i = producers.get(current)
        if i is None or any(attribute.HasField("g") for attribute in graph.node[i].attribute):
            return []
        if i not in needed:
            needed.add(i)
            pending += graph.node[i].input
    return [graph.node[i] for i in sorted(needed)]


def _import(package: str, function: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ImportError(f"{function} needs the package {package}: pip install {package}") from error


def _input(node: onnx.NodeProto, i: int) -> str:
    return node.input[i] if i < len(node.input) else ""


def _label(node: onnx.NodeProto) -> str:
    return node.name or next(iter(node.output), "") or "the node"


def _text(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode()
    return [_text(item) for item in value] if isinstance(value, list) else value
