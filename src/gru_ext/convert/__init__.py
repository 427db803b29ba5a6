"""GRUs from and to other libraries: Keras, ONNX and haste. What each converts: docs/conversion.md."""

from gru_ext.convert.haste import from_haste, to_haste
from gru_ext.convert.keras import from_keras, from_keras_weights, to_keras, to_keras_weights
from gru_ext.convert.onnx import from_onnx, from_onnx_node, to_onnx, to_onnx_weights
from gru_ext.convert.reversed import Reversed

__all__ = [
    "Reversed",
    "from_haste",
    "from_keras",
    "from_keras_weights",
    "from_onnx",
    "from_onnx_node",
    "to_haste",
    "to_keras",
    "to_keras_weights",
    "to_onnx",
    "to_onnx_weights",
]
