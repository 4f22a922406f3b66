"""ONNX and QONNX graphs, read without the onnx package: `onnxfile` reads the file, `walk` understands it."""

from __future__ import annotations

from pathlib import Path

from xnorinfer.converters.containers.onnxfile import FIRST_BYTE, read_onnx
from xnorinfer.converters.graphs.walk import read_graph
from xnorinfer.converters.reading import ConvertOptions, Reading


class OnnxSource:
    """`.onnx` files."""

    name = "onnx"
    meaning = "ONNX or QONNX graph (.onnx)"

    def sniff(self, path: Path) -> bool:
        """True for protobuf files called .onnx: ONNX has no magic number."""
        try:
            with path.open("rb") as stream:
                return path.suffix == ".onnx" and stream.read(1) == FIRST_BYTE
        except OSError:
            return False

    def read(self, path: Path, options: ConvertOptions) -> Reading:
        """Read the graph.  Raises SourceError, OptionError or NetworkError."""
        return read_graph(self.name, read_onnx(path), path.name, options)
