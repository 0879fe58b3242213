"""A page of thumbnails, masks' outlines on their images, the lowest predicted quality first, that opens from disk.

Beside it lie the thumbnails, as JPEG, style sheets and a script; as for the pages of a report, nothing else is fetched.
"""

import io
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from qgbench.base.cores import in_threads
from qgbench.base.files import write_atomically
from qgbench.base.progress import Track, no_progress
from qgbench.data.sheet import class_colours, outlined
from qgbench.data.source import Source
from qgbench.report.page.names import visible

_SIDE = 256  # of a thumbnail, pixels
_STATIC = ("page.css", "gallery.css", "gallery.js")


@dataclass(frozen=True)
class Shot:
    """One thumbnail and what is said below it.

    Attributes
    ----------
    id : str
        Of the picture that is shown.
    name : str
        Of the image or volume that is judged.
    quality : float
    unlike : bool or None
        Whether the image is unlike those that g was trained on; None where that is not known.
    note : str
        Further words, such as which slice is shown.
    """

    id: str
    name: str
    quality: float
    unlike: bool | None
    note: str = ""


def write_gallery(
    shots: Sequence[Shot], source: Source, classes: Sequence[str], output: Path, track: Track = no_progress
) -> Path:
    """Write ``index.html``, its thumbnails and what they are shown with; the page is written last.

    Parameters
    ----------
    shots : sequence of Shot
        In the order in which the page begins.
    source : Source
        Gives images and masks.
    classes : sequence of str
        Those of the masks, for the colours' legend.
    output : Path
        Folder. Thumbnails of an earlier page are replaced.
    track : Track
        Shows progress.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    UserError
        An image or a mask cannot be read, or the folder cannot be written.
    """
    folder = output / "thumbnails"

    def draw(place: int) -> tuple[str, tuple[int, int]]:
        id = shots[place].id
        picture = outlined(source.image(id), source.mask(id), len(classes), _SIDE)
        content, name = io.BytesIO(), f"{place:06}.jpg"
        picture.save(content, "JPEG", quality=85, subsampling=0)  # an outline is a pixel wide, and coloured
        write_atomically(folder / name, content.getvalue())
        return name, picture.size

    with closing(in_threads(draw, range(len(shots)))) as drawn:
        pictures = list(track(drawn, "Thumbnails", len(shots), "images"))
    for old in set(folder.glob("[0-9]*.jpg")) - {folder / name for name, _ in pictures}:
        old.unlink(missing_ok=True)
    for name in _STATIC:
        content = files("qgbench.report.page").joinpath("static", name).read_bytes()
        write_atomically(output / "static" / name, content)
    environment = Environment(
        loader=PackageLoader("qgbench.report.page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["visible"] = visible
    legend = [(name, f"#{bytes(of).hex()}") for name, of in zip(classes, class_colours(len(classes)), strict=True)]
    text = environment.get_template("gallery.html").render(
        shots=list(zip(shots, pictures, strict=True)),
        knows_unlike=any(shot.unlike is not None for shot in shots),
        unlike=sum(bool(shot.unlike) for shot in shots),
        mean=sum(shot.quality for shot in shots) / len(shots),
        legend=legend if len(classes) > 1 else [],
        noun="volumes" if source.volumes else "images",
    )
    write_atomically(output / "index.html", text.encode())
    return output / "index.html"
