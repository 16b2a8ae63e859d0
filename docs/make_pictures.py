"""Pictures of the tutorial, from what `make demo` has left.

Run after `make demo`, with chromium installed::

    python docs/make_pictures.py demo/derivatives docs/pictures

Figures become WebP of at most 1200 pixels; the reports are photographed by the browser.
"""

from __future__ import annotations

import argparse
import io
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

WIDTH_PIXELS = 1200
LARGEST_BYTES = 100_000


@dataclass(frozen=True)
class Picture:
    """One picture of the tutorial.

    Parameters
    ----------
    name : str
        Name of the file, without extension.
    source : str
        Figure or page, relative to the derivatives.
    view : (int, int)
        Width and height of the browser's window in pixels, for what is no picture already.
    """

    name: str
    source: str
    view: tuple[int, int] = (1200, 700)


PICTURES = (
    Picture("report", "sub-04.html", (1200, 760)),
    Picture("tissues", "sub-04/figures/sub-04_desc-tissues_T1w.svg"),
    Picture("colour-fa", "sub-04/figures/sub-04_dir-AP_desc-colourfa_dwi.svg"),
    Picture("motion", "sub-04/figures/sub-04_dir-AP_desc-motion_dwi.svg"),
    Picture("muscles", "sub-04/figures/sub-04_desc-chart_T2w.svg"),
    Picture("ribbon", "sub-04/figures/sub-04_acq-M1_desc-ribbon_MEGRE.svg"),
    Picture("group-report", "group.html", (1200, 760)),
    Picture("skeleton", "group/figures/desc-skeleton_mask.webp"),
    Picture("effect", "group/figures/contrast-fastVsHc_desc-faSkeletonEffect_statmap.webp"),
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Write all pictures.

    Parameters
    ----------
    arguments : sequence of str, optional
        Words of the command line; those of the process if not given.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("derivatives", type=Path, help="OUTPUT_DIR of the demo")
    parser.add_argument("pictures", type=Path, help="folder of the pictures")
    parsed = parser.parse_args(arguments)
    parsed.pictures.mkdir(exist_ok=True)
    for picture in PICTURES:
        image = read(parsed.derivatives / picture.source, picture)
        (parsed.pictures / f"{picture.name}.webp").write_bytes(compressed(image))


def read(source: Path, picture: Picture) -> Image.Image:
    """Image of a figure or page.

    Parameters
    ----------
    source : Path
        The figure or page.
    picture : Picture
        How it is looked at.

    Returns
    -------
    Image
        In colour, at most `WIDTH_PIXELS` wide.
    """
    if source.suffix == ".webp":
        image = Image.open(source).convert("RGB")
    else:
        image = photographed(source, picture)
    image.thumbnail((WIDTH_PIXELS, WIDTH_PIXELS))
    return image


def photographed(source: Path, picture: Picture) -> Image.Image:
    """What the browser shows of a file.

    Parameters
    ----------
    source : Path
        SVG or page.
    picture : Picture
        How it is looked at.

    Returns
    -------
    Image
        In colour; of an SVG its whole area.
    """
    width, height = picture.view
    with tempfile.TemporaryDirectory() as folder:
        page = source.absolute()
        if source.suffix == ".svg":
            page = Path(folder) / "figure.html"
            page.write_text(
                f'<body style="margin:0"><img src="{source.absolute().as_uri()}" '
                'style="width:100%;display:block">'
            )
            height = round(width * _aspect(source))
        shot = Path(folder) / "shot.png"
        subprocess.run(
            [
                *("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
                "--allow-file-access-from-files",
                f"--window-size={width},{height}",
                f"--screenshot={shot}",
                page.as_uri(),
            ],
            check=True,
            capture_output=True,
        )
        return Image.open(io.BytesIO(shot.read_bytes())).convert("RGB").crop((0, 0, width, height))


def _aspect(source: Path) -> float:
    """Height over width of an SVG."""
    head = source.read_text("utf-8")[:2000]
    _, _, width, height = head.partition('viewBox="')[2].partition('"')[0].split()
    return float(height) / float(width)


def compressed(image: Image.Image) -> bytes:
    """Picture as WebP, no larger than `LARGEST_BYTES`.

    Parameters
    ----------
    image : Image
        The picture.

    Returns
    -------
    bytes
        Content of the file, at the best quality that fits.

    Raises
    ------
    ValueError
        If no quality does.
    """
    for quality in range(90, 20, -10):
        target = io.BytesIO()
        image.save(target, "WEBP", quality=quality, method=6)
        if target.tell() <= LARGEST_BYTES:
            return target.getvalue()
    raise ValueError(f"picture of {image.size} pixels takes more than {LARGEST_BYTES} bytes")


if __name__ == "__main__":
    main()
