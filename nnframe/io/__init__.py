"""Files: weights and models, for nnframe and for others."""

import importlib
import typing

from nnframe.io.weights import Loaded, load, load_model, save

if typing.TYPE_CHECKING:
    from nnframe.io.architecture import build, describe
    from nnframe.io.c_export import export_c
    from nnframe.io.onnx_export import export_onnx, import_onnx

_WHERE = {
    "build": "architecture",
    "describe": "architecture",
    "export_c": "c_export",
    "export_onnx": "onnx_export",
    "import_onnx": "onnx_export",
}


def __getattr__(name: str) -> object:
    """Load what writes for other programs where it is used first: training needs none of it."""
    if name not in _WHERE:
        raise AttributeError(f"module 'nnframe.io' has no attribute {name!r}")
    return getattr(importlib.import_module(f"nnframe.io.{_WHERE[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


__all__ = ["Loaded", "build", "describe", "export_c", "export_onnx", "import_onnx", "load", "load_model", "save"]
