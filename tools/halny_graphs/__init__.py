"""ONNX graphs for Halny: built from BERT-family safetensors, quantised, and compared with fp32.

Why not an exporter: an exporter traces PyTorch, which is gigabytes of dependency, gives a different
graph for each version of it, and leaves pooling and normalisation outside the graph. The graph
here is written operator by operator, is the same bytes for the same weights, and holds everything
between token ids and the finished vector.
"""

from halny_graphs.bert import GraphOptions, build_graph
from halny_graphs.checkpoint import Checkpoint, CheckpointError, read_checkpoint

__all__ = ["Checkpoint", "CheckpointError", "GraphOptions", "build_graph", "read_checkpoint"]
