"""GRUs from and to Keras, ONNX and haste; dense ones and those of blocks. What each converts: docs/conversion.md."""

from gru_ext.convert.blocks import to_blocks, to_dense
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
    "to_blocks",
    "to_dense",
    "to_haste",
    "to_keras",
    "to_keras_weights",
    "to_onnx",
    "to_onnx_weights",
]
