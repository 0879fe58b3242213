"""A network as ONNX, for programs without torch: written, and compared with torch before anybody trusts it."""

import logging
import warnings
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from qgbench.base.errors import QGBenchError, UserError, in_one_line

TOLERANCE = 1e-4  # largest difference between onnxruntime and torch, both in float32, of values in [0, 1]
_COMPARED = (1, 3)  # rows in the batches that are compared


def require_onnx() -> None:
    """Refuse to begin without what ONNX needs; raises UserError."""
    for name in ("onnx", "onnxruntime", "onnxscript"):  # torch exports with the last
        if find_spec(name) is None:
            raise UserError(f"{name} is not installed: pip install 'qgbench[onnx]'.")


def to_onnx(module: nn.Module, inputs: Mapping[str, tuple[int, ...]], output: str, what: str) -> tuple[bytes, float]:
    """Return a network as ONNX, its batch free, and its largest difference to torch.

    Parameters
    ----------
    module : nn.Module
        In evaluation mode, on the processor; its output is in [0, 1].
    inputs : mapping of str to tuple of int
        By name, in the order of the arguments: the shape of one row. Values are in [0, 1].
    output : str
        What the output is called.
    what : str
        What is exported, for messages.

    Returns
    -------
    content of the file, largest difference on random batches of 1 and 3 rows

    Raises
    ------
    UserError
        The extra is not installed.
    QGBenchError
        It cannot be exported, or onnxruntime computes something else than torch.
    """
    require_onnx()
    import onnxruntime

    content = _exported(module, inputs, output, what)
    try:
        session: Any = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    except Exception as error:  # of onnxruntime, whose errors have no common class
        raise QGBenchError(f"{what}: onnxruntime does not read what torch exported: {in_one_line(error)}.") from error
    worst = 0.0
    for rows in _COMPARED:
        given = _batch(inputs, rows)
        (found,) = session.run(None, {name: value.numpy() for name, value in given.items()})
        with torch.no_grad():
            worst = max(worst, float(np.abs(found - module(*given.values()).numpy()).max()))
    if not worst <= TOLERANCE:
        raise QGBenchError(
            f"{what}: onnxruntime and torch differ by {worst:.2g} in {output}; at most {TOLERANCE:g} is taken for "
            "rounding, and nothing is written."
        )
    return content, worst


def _exported(module: nn.Module, inputs: Mapping[str, tuple[int, ...]], output: str, what: str) -> bytes:
    log = logging.getLogger("torch.onnx")
    level = log.level
    try:
        log.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter's own
            rows = torch.export.Dim("batch")
            program = torch.onnx.export(
                module,
                tuple(_batch(inputs, 2).values()),
                input_names=list(inputs),
                output_names=[output],
                dynamic_shapes=tuple({0: rows} for _ in inputs),
                dynamo=True,
                verbose=False,
            )
            assert program is not None
            content: bytes = program.model_proto.SerializeToString()
            return content
    except Exception as error:  # of torch's exporter, which raises anything
        raise QGBenchError(f"{what} cannot be exported to ONNX: {in_one_line(error)}.") from error
    finally:
        log.setLevel(level)


def _batch(inputs: Mapping[str, tuple[int, ...]], rows: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(rows)
    return {name: torch.rand(rows, *shape, generator=generator) for name, shape in inputs.items()}
