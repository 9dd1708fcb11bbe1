"""Files: weights and models, for nnframe and for others."""

from nnframe.io.architecture import build, describe
from nnframe.io.c_export import export_c
from nnframe.io.onnx_export import export_onnx, import_onnx
from nnframe.io.weights import Loaded, load, load_model, save

__all__ = ["Loaded", "build", "describe", "export_c", "export_onnx", "import_onnx", "load", "load_model", "save"]
