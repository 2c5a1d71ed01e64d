"""A small writer of ONNX graphs: names nodes and constants, keeps one precision, gives stable bytes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

Array = npt.NDArray[Any]

#: 17 has LayerNormalization and is old enough for every TensorRT and CUDA build Halny meets.
OPSET = 17
#: The IR version that came with opset 17.
IR_VERSION = 8
#: Operators that ONNX Runtime adds: fused attention and its neighbours.
CONTRIB = "com.microsoft"
#: A protobuf message cannot be larger.
_MAX_BYTES = (1 << 31) - 1


class GraphWriter:
    """Collects nodes and constants in order. Floating constants are stored in `dtype`."""

    def __init__(self, dtype: npt.DTypeLike) -> None:
        self.dtype = np.dtype(dtype)
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, onnx.TensorProto] = {}
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._contrib = False

    @property
    def element(self) -> int:
        """The ONNX element type of floating values in this graph."""
        return int(helper.np_dtype_to_tensor_dtype(self.dtype))

    def input(self, name: str, shape: list[str | int]) -> str:
        """Declares an int64 input."""
        self._inputs.append(helper.make_tensor_value_info(name, TensorProto.INT64, shape))
        return name

    def output(self, name: str, shape: list[str | int]) -> None:
        """Declares a float32 output."""
        self._outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))

    def weight(self, name: str, values: Array) -> str:
        """A floating constant, in the precision of the graph."""
        return self._constant(name, np.asarray(values).astype(self.dtype))

    def float32(self, name: str, values: float | list[float]) -> str:
        """A floating constant that stays fp32 whatever the precision of the graph."""
        return self._constant(name, np.asarray(values, np.float32))

    def integers(self, name: str, values: int | list[int]) -> str:
        """An int64 constant: axes, shapes, indices."""
        return self._constant(name, np.asarray(values, np.int64))

    def _constant(self, name: str, values: Array) -> str:
        self._constants.setdefault(name, numpy_helper.from_array(values.copy(order="C"), name))
        return name

    def op(self, kind: str, inputs: list[str], name: str, outputs: int = 1, **attributes: Any) -> Any:
        """Adds a node; returns its output's name, or the list of them where `outputs` is above 1."""
        names = [name] if outputs == 1 else [f"{name}.{index}" for index in range(outputs)]
        self._nodes.append(helper.make_node(kind, inputs, names, name=name, **attributes))
        return names[0] if outputs == 1 else names

    def fused(self, kind: str, inputs: list[str], name: str, **attributes: Any) -> str:
        """Adds a node of ONNX Runtime's own domain."""
        self._contrib = True
        return str(self.op(kind, inputs, name, domain=CONTRIB, **attributes))

    def cast(self, value: str, element: int, name: str) -> str:
        """Adds a cast to the ONNX element type `element`."""
        return str(self.op("Cast", [value], name, to=element))

    def finish(self, name: str) -> onnx.ModelProto:
        """The checked model."""
        graph = helper.make_graph(self._nodes, name, self._inputs, self._outputs, list(self._constants.values()))
        opsets = [helper.make_opsetid("", OPSET)]
        if self._contrib:
            opsets.append(helper.make_opsetid(CONTRIB, 1))
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="halny_graphs")
        if model.ByteSize() > _MAX_BYTES:
            raise ValueError(f"the graph is larger than {_MAX_BYTES} bytes, which one ONNX file cannot hold; try fp16")
        onnx.checker.check_model(model)
        return model


def to_bytes(model: onnx.ModelProto) -> bytes:
    """The model as bytes that depend on nothing but the model."""
    return bytes(model.SerializeToString(deterministic=True))
