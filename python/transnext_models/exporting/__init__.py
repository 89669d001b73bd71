"""Models as files that run without this package: ONNX, ``torch.export`` and TorchScript.

``export_model``   loads, traces, checks and writes; ``transnext export``    run.py
``Request``        what is asked for, refused by name where it cannot be     request.py
``Subject``        the model with its labels and preprocessing               subject.py
``trace`` …        the graph in each format                                  graphs.py
``quantise``       int8 by ONNX Runtime                                      quantise.py
``runners_of``     what runs a file here, to check and to time it            runners.py
``read_metadata``  labels and preprocessing out of a file                    metadata.py
"""

from .metadata import read_metadata
from .request import DYNAMIC, FORMATS, Request, parse_size
from .run import Exported, ExportError, export_model

__all__ = [
    "DYNAMIC",
    "FORMATS",
    "ExportError",
    "Exported",
    "Request",
    "export_model",
    "parse_size",
    "read_metadata",
]
