"""Permutation inference on images and FSL's design files: ``python -m bids_alsmri.stats``."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bids_alsmri.errors import AlsMriError, DataError, ExitCode, RunError, SettingsError

if TYPE_CHECKING:
    from bids_alsmri.stats.inference import Inference

log = logging.getLogger(__name__)

_Array = NDArray[np.float64]


@dataclass(frozen=True)
class _Problem:
    data: _Array  # observations x voxels
    mask: NDArray[np.bool_]
    affine: _Array
    design: _Array
    contrasts: _Array


def build_parser() -> argparse.ArgumentParser:
    """Make the parser.

    Returns
    -------
    ArgumentParser
        Flags are those of FSL's randomise where it has them.
    """
    parser = argparse.ArgumentParser(
        prog="python -m bids_alsmri.stats",
        description=(
            "Permutation inference on one 4D image: reads FSL's design files, writes randomise's "
            "file names. p images hold 1 - p, as there. TFCE is integrated exactly, not in a "
            "hundred steps, so TFCE images differ from randomise's by their height step (their "
            "values are larger by one over it) and by the coarseness of the steps; p images are "
            "what compares. Each contrast is tested one-sided."
        ),
    )
    add = parser.add_argument
    add("-i", "--input", type=Path, required=True, metavar="4D", help="image, a volume each")
    add("-o", "--output", required=True, metavar="OUT", help="start of the names of the results")
    add("-m", "--mask", type=Path, required=True, help="image; voxels above 0 are tested")
    add("-d", "--design", type=Path, metavar="MAT", help="design matrix, VEST (.mat)")
    add("-t", "--contrasts", type=Path, metavar="CON", help="t contrasts, VEST (.con)")
    add("-1", "--one-sample", action="store_true", help="test the mean by sign flips: no -d, -t")
    add("-e", "--blocks", type=Path, metavar="GRP", help="exchangeability blocks, VEST (.grp)")
    add(
        "--permute-blocks",
        "--permuteBlocks",
        action="store_true",
        help="exchange blocks as wholes, not observations within them",
    )
    add("-D", "--demean", action="store_true", help="model the mean too")
    add("-n", "--permutations", type=int, default=5000, help="how many (default: %(default)s)")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("-T", "--tfce", action="store_true", help="TFCE: H=2, E=0.5, 6 neighbours")
    kind.add_argument("--T2", action="store_true", help="for skeletons: H=2, E=1, 26 neighbours")
    add("-x", "--voxelwise", action="store_true", help="p-values of t itself too")
    add("--tail", action="store_true", help="small corrected p from a fitted tail: 500 will do")
    add("--seed", type=int, default=20221, help="of the permutations (default: %(default)s)")
    add("--n-procs", type=int, default=1, help="threads; results do not depend on them")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments without the program's name; those of the process by default.

    Returns
    -------
    int
        Exit code: 0, 64 usage, 65 bad data, 66 no such file, 73 cannot be written.
    """
    parser = build_parser()
    try:
        chosen = parser.parse_args(argv)
    except SystemExit as end:
        # argparse leaves with 2, which BIDS Apps reserve; 0 is --help
        return int(ExitCode.USAGE) if end.code else int(ExitCode.DONE)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        _run(chosen)
    except AlsMriError as error:
        log.error("%s", "; ".join([str(error), *getattr(error, "__notes__", [])]))
        return int(error.exit_code)
    return int(ExitCode.DONE)


def _run(chosen: argparse.Namespace) -> None:
    from bids_alsmri.numerics.permutation import make_exchange
    from bids_alsmri.numerics.tfce import image_neighbourhood
    from bids_alsmri.stats.inference import Permutation, infer

    out = Path(chosen.output)
    if not out.parent.is_dir():
        raise RunError(
            f"{out.parent} is no folder; make it, or choose another -o",
            exit_code=ExitCode.CANNOT_WRITE,
        )
    problem = _read(chosen)
    exchange = make_exchange(
        len(problem.data),
        permutes=not chosen.one_sample,
        flips=chosen.one_sample,
        blocks=None if chosen.blocks is None else _read_vest(chosen.blocks).ravel(),
        moves_whole_blocks=chosen.permute_blocks,
    )
    neighbourhood = image_neighbourhood(problem.mask, 26 if chosen.T2 else 6)
    permutation = Permutation(
        n_permutations=chosen.permutations,
        seed=chosen.seed,
        extent_power=1.0 if chosen.T2 else 0.5,
        n_threads=chosen.n_procs,
        tail=chosen.tail,
    )
    done: dict[tuple[float, ...], int] = {}
    results: list[Inference] = []
    for number, contrast in enumerate(problem.contrasts, start=1):
        # a contrast and its opposite share all relabellings
        opposite = done.get(tuple(-contrast))
        if opposite is None:
            result = infer(
                problem.data,
                problem.design,
                contrast,
                neighbourhood,
                exchange=exchange,
                permutation=permutation,
            )
            direction = result.positive
        else:
            result = results[opposite]
            direction = result.negative
        done[tuple(contrast)] = number - 1
        results.append(result)
        kind = "all possible" if result.is_exhaustive else "random"
        log.info("contrast %d: %d relabellings (%s)", number, result.n_relabellings, kind)
        if result.n_constant and number == 1:
            log.warning("%d voxels have no variance; their t is 0", result.n_constant)
        images = {f"tstat{number}": direction.statistic}
        if chosen.tfce or chosen.T2:
            images[f"tfce_tstat{number}"] = direction.enhanced
            images[f"tfce_p_tstat{number}"] = 1.0 - direction.p_enhanced
            images[f"tfce_corrp_tstat{number}"] = 1.0 - direction.p_enhanced_fwe
        if chosen.voxelwise or not (chosen.tfce or chosen.T2):
            images[f"vox_p_tstat{number}"] = 1.0 - direction.p_statistic
            images[f"vox_corrp_tstat{number}"] = 1.0 - direction.p_statistic_fwe
        _write(images, problem, out)


def _read(chosen: argparse.Namespace) -> _Problem:
    from bids_alsmri.interfaces.base import read_image

    if chosen.one_sample == (chosen.design is not None or chosen.contrasts is not None):
        raise SettingsError("give either -d and -t, or -1 for the mean of one group")
    if not chosen.one_sample and (chosen.design is None or chosen.contrasts is None):
        raise SettingsError("-d and -t belong together; give both")
    for path in (chosen.input, chosen.mask, chosen.design, chosen.contrasts, chosen.blocks):
        if path is not None and not path.is_file():
            raise DataError(f"{path}: no such file", exit_code=ExitCode.NO_INPUT)
    mask = read_image(chosen.mask, ndim=3)
    series = read_image(chosen.input, ndim=4, nonfinite="keep")
    if series.data.shape[:3] != mask.data.shape or not np.allclose(
        series.affine, mask.affine, atol=1e-3
    ):
        raise DataError(
            f"{chosen.mask}: grid {mask.data.shape} differs from that of {chosen.input} "
            f"{series.data.shape[:3]}, in size or position; resample one to the other"
        )
    inside = mask.data > 0
    if not inside.any():
        raise DataError(f"{chosen.mask}: no voxel is above 0; expected the region to test")
    data = series.data[inside].T.astype(np.float64)
    unusable = np.count_nonzero(~np.isfinite(data).all(axis=0))
    if unusable:
        raise DataError(
            f"{chosen.input}: {unusable} voxels of the mask are NaN or infinite in some volume; "
            "leave them out of the mask"
        )
    if chosen.one_sample:
        design, contrasts = np.ones((len(data), 1)), np.ones((1, 1))
    else:
        design, contrasts = _read_vest(chosen.design), _read_vest(chosen.contrasts)
        # the reader drops an axis of length 1
        design = design[:, np.newaxis] if design.ndim == 1 else design
        if contrasts.ndim == 1:
            contrasts = contrasts.reshape((-1, 1) if design.shape[1] == 1 else (1, -1))
        if len(design) != len(data):
            raise DataError(
                f"{chosen.design}: {len(design)} rows, but {chosen.input} has {len(data)} volumes; "
                "give one row for each"
            )
    if chosen.demean:
        # as a regressor the mean also costs the degree of freedom that it is worth
        design = np.column_stack([design - design.mean(axis=0), np.ones(len(design))])
        contrasts = np.column_stack([contrasts, np.zeros(len(contrasts))])
    return _Problem(data, inside, mask.affine, design, contrasts)


def _read_vest(path: Path) -> _Array:
    from fsl.data.vest import loadVestFile

    try:
        found: _Array = np.atleast_1d(np.asarray(loadVestFile(str(path)), dtype=np.float64))
    except (ValueError, OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path}: no VEST file ({error}); expected /Matrix and rows of numbers, as FSL's Glm "
            "or text2vest write them"
        ) from None
    return found


def _write(images: dict[str, _Array], problem: _Problem, out: Path) -> None:
    from bids_alsmri.interfaces.base import write_image

    for name, values in images.items():
        image = np.zeros(problem.mask.shape, np.float32)
        image[problem.mask] = values
        path = out.with_name(f"{out.name}_{name}.nii.gz")
        write_image(image, problem.affine, path, space="aligned")
        log.info("%s", path)


if __name__ == "__main__":
    sys.exit(main())
