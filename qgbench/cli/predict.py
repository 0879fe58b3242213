"""The verbs that take a finished run to new images: ``predict`` and ``export``."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from qgbench.base.errors import UserError
from qgbench.base.interruption import Interrupted
from qgbench.base.logs import logger
from qgbench.base.paths import expanded
from qgbench.cli.options import Quiet, Verbose

Run = Annotated[Path, typer.Argument(parser=expanded, help="A finished run's folder: runs/ID.")]
OutputFolder = Annotated[Path, typer.Option(parser=expanded, help="Folder to write; not there yet, or empty.")]
_DEVICES = ("auto", "cpu", "cuda", "mps")


@contextmanager
def _nothing_kept() -> Iterator[None]:
    """Say, where the block is interrupted, that nothing of its work is there."""
    try:
        yield
    except Interrupted as interruption:
        print("interrupted; nothing was written, and the same command begins anew.", file=sys.stderr)
        raise typer.Exit(128 + interruption.number) from interruption


def predict(
    run: Run,
    images: Annotated[
        Path, typer.Option(parser=expanded, help="Folder of pictures (PNG, JPEG, TIFF, BMP), volumes (NIfTI, HDF5).")
    ],
    output: OutputFolder,
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Also write probabilities, as float16: probabilities/ID.npz.")
    ] = False,
    quality: Annotated[
        bool, typer.Option("--quality", help="Also write the Dice that the run's g predicts: quality.csv.")
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Apply a finished run to new images: masks at their own size, and a contact sheet.

    Example: [bold]qgbench predict runs/ID --images ~/new --output predicted --quality[/bold]
    """
    if device not in _DEVICES:
        raise UserError(f"--device {device}: expected {', '.join(_DEVICES[:-1])} or {_DEVICES[-1]}.")
    from qgbench.report.audit import not_predicted
    from qgbench.run.predict import predict_folder
    from qgbench.run.record import read_record

    with _nothing_kept():
        values = predict_folder(run, images, output, probabilities, quality, device)
    meaning = ", ".join(f"{value} is {name}" for name, value in values.items())
    logger.info("in the masks %s, and 0 is the background.", meaning)
    if quality and (masks := not_predicted(read_record(run))):
        logger.warning("by the run's record its g does not predict the quality of %s.", " and ".join(masks))
    for path in sorted(output.iterdir()):
        print(path)


def export(
    run: Run,
    output: OutputFolder,
    onnx: Annotated[
        bool, typer.Option("--onnx", help="Also write network.onnx (qgbench\\[onnx]), compared with torch.")
    ] = False,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Write a finished run's network for use elsewhere: safetensors, a card, ONNX if asked for.

    Example: [bold]qgbench export runs/ID --output network --onnx[/bold]
    """
    from qgbench.run.export import export as write

    with _nothing_kept():
        files = write(run, output, onnx)
    for file in files:
        print(file)
