"""Permutation inference on images and FSL's design files: ``python -m bids_alsmri.stats``."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bids_alsmri.errors import AlsMriError, DataError, ExitCode, RunError, SettingsError

if TYPE_CHECKING:
    from bids_alsmri.stats.inference import Direction, Inference, Permutation

log = logging.getLogger(__name__)

_Array = NDArray[np.float64]


@dataclass(frozen=True)
class _Study:
    data: _Array  # observations x voxels
    mask: NDArray[np.bool_]
    affine: _Array
    design: _Array
    contrasts: dict[str, _Array]  # by the end of the names of their images
    blocks: _Array | None
    variance_groups: _Array | None
    covariates: _Array | None  # covariates x observations x voxels


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
            "what compares. Each contrast is tested one-sided unless --two-sided is given."
        ),
    )
    add = parser.add_argument
    add("-i", "--input", type=Path, required=True, metavar="4D", help="image, a volume each")
    add("-o", "--output", required=True, metavar="OUT", help="start of the names of the results")
    add("-m", "--mask", type=Path, required=True, help="image; voxels above 0 are tested")
    add("-d", "--design", type=Path, metavar="MAT", help="design matrix, VEST (.mat)")
    add("-t", "--contrasts", type=Path, metavar="CON", help="t contrasts, VEST (.con)")
    add("-f", "--f-contrasts", type=Path, metavar="FTS", help="F contrasts, VEST (.fts)")
    add("--fonly", action="store_true", help="F contrasts only, not the t contrasts they join")
    add("-1", "--one-sample", action="store_true", help="test the mean by sign flips: no -d, -t")
    add("-e", "--blocks", type=Path, metavar="GRP", help="exchangeability blocks, VEST (.grp)")
    add(
        "--permute-blocks",
        "--permuteBlocks",
        action="store_true",
        help="exchange blocks as wholes, not observations within them",
    )
    add(
        "--variance-groups",
        type=Path,
        metavar="FILE",
        help="a number for each volume, equal where noise is of one variance: Welch's t instead of "
        "Student's, the G statistic instead of F. With groups of unlike variance the test is "
        "asymptotic, not exact, and holds its rate best with --sign-flips",
    )
    add(
        "--sign-flips",
        action="store_true",
        help="flip signs, as -1 does, instead of exchanging volumes: noise needs to be symmetric, "
        "not of one variance",
    )
    add(
        "--voxelwise-covariate",
        type=Path,
        action="append",
        metavar="4D",
        help="nuisance that differs by voxel, a volume for each of the input; may be repeated",
    )
    add("--two-sided", action="store_true", help="p-values of the magnitude of t")
    add("-D", "--demean", action="store_true", help="model the mean too")
    add("-n", "--permutations", type=int, default=5000, help="how many (default: %(default)s)")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("-T", "--tfce", action="store_true", help="TFCE: H=2, E=0.5, 6 neighbours")
    kind.add_argument("--T2", action="store_true", help="for skeletons: H=2, E=1, 26 neighbours")
    add("-x", "--voxelwise", action="store_true", help="p-values of t itself too")
    add("-c", "--cluster-t", type=float, metavar="T", help="cluster extent of t at or above this")
    add("-F", "--cluster-f", type=float, metavar="F", help="cluster extent of F at or above this")
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
    from bids_alsmri.stats.inference import infer

    out = Path(chosen.output)
    if not out.parent.is_dir():
        raise RunError(
            f"{out.parent} is no folder; make it, or choose another -o",
            exit_code=ExitCode.CANNOT_WRITE,
        )
    study = _read(chosen)
    flips = chosen.one_sample or chosen.sign_flips
    if study.blocks is not None and not chosen.permute_blocks and not flips:
        n_largest = int(np.unique(study.blocks, return_counts=True)[1].max())
        if n_largest > 2:
            log.warning(
                "up to %d volumes change places within a block: this assumes that any two of them "
                "are equally correlated (compound symmetry), which visits of a participant seldom "
                "are",
                n_largest,
            )
    exchange = make_exchange(
        len(study.data),
        permutes=not flips,
        flips=flips,
        blocks=study.blocks,
        moves_whole_blocks=chosen.permute_blocks,
        assumes_compound_symmetry=True,
    )
    neighbourhood = image_neighbourhood(study.mask, 26 if chosen.T2 else 6)
    done: dict[str, Inference] = {}
    for name, contrast in study.contrasts.items():
        # a contrast and its opposite share all relabellings
        opposite = _opposite(contrast, {name: study.contrasts[name] for name in done})
        if opposite is None:
            result = infer(
                study.data,
                study.design,
                contrast,
                neighbourhood,
                exchange=exchange,
                permutation=_permutation(chosen, is_f=len(contrast) > 1),
                variance_groups=study.variance_groups,
                voxelwise_covariates=study.covariates,
            )
        else:
            # p-values are those of the sides changed, statistics those of the sign
            result = _turned(done[opposite])
        done[name] = result
        kind = "all possible" if result.is_exhaustive else "random"
        log.info("%s: %d relabellings (%s)", name, result.n_relabellings, kind)
        if result.n_constant and len(done) == 1:
            log.warning("%d voxels have no variance; their statistic is 0", result.n_constant)
        direction = result.either if chosen.two_sided else result.positive
        _write(_images(direction, name, chosen), study, out)


def _opposite(contrast: _Array, others: dict[str, _Array]) -> str | None:
    if len(contrast) > 1:  # F has no sides
        return None
    return next((name for name, other in others.items() if np.array_equal(other, -contrast)), None)


def _permutation(chosen: argparse.Namespace, *, is_f: bool) -> Permutation:
    from bids_alsmri.stats.inference import Permutation

    return Permutation(
        n_permutations=chosen.permutations,
        seed=chosen.seed,
        extent_power=1.0 if chosen.T2 else 0.5,
        n_threads=chosen.n_procs,
        tail=chosen.tail,
        cluster_height=chosen.cluster_f if is_f else chosen.cluster_t,
    )


def _turned(result: Inference) -> Inference:
    either = replace(
        result.either, statistic=-result.either.statistic, enhanced=-result.either.enhanced
    )
    return replace(result, positive=result.negative, negative=result.positive, either=either)


def _images(direction: Direction, name: str, chosen: argparse.Namespace) -> dict[str, _Array]:
    images = {name: direction.statistic}
    if chosen.tfce or chosen.T2:
        images[f"tfce_{name}"] = direction.enhanced
        images[f"tfce_p_{name}"] = 1.0 - direction.p_enhanced
        images[f"tfce_corrp_{name}"] = 1.0 - direction.p_enhanced_fwe
    if direction.clusters is not None:
        images[f"clustere_{name}"] = direction.clusters.extent.astype(np.float64)
        images[f"clustere_corrp_{name}"] = 1.0 - direction.clusters.p_fwe
    if chosen.voxelwise or len(images) == 1:
        images[f"vox_p_{name}"] = 1.0 - direction.p_statistic
        images[f"vox_corrp_{name}"] = 1.0 - direction.p_statistic_fwe
    return images


def _read(chosen: argparse.Namespace) -> _Study:
    from bids_alsmri.interfaces.base import read_image

    if chosen.one_sample == (chosen.design is not None or chosen.contrasts is not None):
        raise SettingsError("give either -d and -t, or -1 for the mean of one group")
    if not chosen.one_sample and (chosen.design is None or chosen.contrasts is None):
        raise SettingsError("-d and -t belong together; give both")
    if chosen.f_contrasts is None and (chosen.fonly or chosen.cluster_f is not None):
        raise SettingsError("--fonly and -F need F contrasts; give -f")
    if chosen.f_contrasts is not None and chosen.one_sample:
        raise SettingsError("-f joins contrasts of -t; it does not go with -1")
    extras = chosen.voxelwise_covariate or []
    files = (chosen.input, chosen.mask, chosen.design, chosen.contrasts, chosen.f_contrasts)
    for path in (*files, chosen.blocks, chosen.variance_groups, *extras):
        if path is not None and not path.is_file():
            raise DataError(f"{path}: no such file", exit_code=ExitCode.NO_INPUT)
    mask = read_image(chosen.mask, ndim=3)
    inside = mask.data > 0
    if not inside.any():
        raise DataError(f"{chosen.mask}: no voxel is above 0; expected the region to test")
    data = _read_series(chosen.input, chosen.mask, mask.affine, inside)
    covariates = [_read_series(path, chosen.mask, mask.affine, inside) for path in extras]
    for path, covariate in zip(extras, covariates, strict=True):
        if len(covariate) != len(data):
            raise DataError(
                f"{path}: {len(covariate)} volumes, but {chosen.input} has {len(data)}; give one "
                "for each"
            )
    design, contrasts = _read_model(chosen, len(data))
    if chosen.demean:
        # as a regressor the mean also costs the degree of freedom that it is worth
        design = np.column_stack([design - design.mean(axis=0), np.ones(len(design))])
        contrasts = np.column_stack([contrasts, np.zeros(len(contrasts))])
    named: dict[str, _Array] = {}
    if not chosen.fonly:
        named = {f"tstat{k}": row[np.newaxis] for k, row in enumerate(contrasts, start=1)}
    if chosen.f_contrasts is not None:
        for k, takes_part in enumerate(_read_joined(chosen, len(contrasts)), start=1):
            named[f"fstat{k}"] = contrasts[takes_part]
    return _Study(
        data,
        inside,
        mask.affine,
        design,
        named,
        None if chosen.blocks is None else _read_vest(chosen.blocks).ravel(),
        None if chosen.variance_groups is None else _read_vest(chosen.variance_groups).ravel(),
        np.stack(covariates) if covariates else None,
    )


def _read_series(path: Path, mask_path: Path, affine: _Array, inside: NDArray[np.bool_]) -> _Array:
    from bids_alsmri.interfaces.base import read_image

    series = read_image(path, ndim=4, nonfinite="keep")
    if series.data.shape[:3] != inside.shape or not np.allclose(series.affine, affine, atol=1e-3):
        raise DataError(
            f"{mask_path}: grid {inside.shape} differs from that of {path} "
            f"{series.data.shape[:3]}, in size or position; resample one to the other"
        )
    data: _Array = series.data[inside].T.astype(np.float64)
    unusable = np.count_nonzero(~np.isfinite(data).all(axis=0))
    if unusable:
        raise DataError(
            f"{path}: {unusable} voxels of the mask are NaN or infinite in some volume; "
            "leave them out of the mask"
        )
    return data


def _read_model(chosen: argparse.Namespace, n: int) -> tuple[_Array, _Array]:
    if chosen.one_sample:
        return np.ones((n, 1)), np.ones((1, 1))
    design, contrasts = _read_vest(chosen.design), _read_vest(chosen.contrasts)
    # the reader drops an axis of length 1
    design = design[:, np.newaxis] if design.ndim == 1 else design
    if contrasts.ndim == 1:
        contrasts = contrasts.reshape((-1, 1) if design.shape[1] == 1 else (1, -1))
    if len(design) != n:
        raise DataError(
            f"{chosen.design}: {len(design)} rows, but {chosen.input} has {n} volumes; "
            "give one row for each"
        )
    return design, contrasts


def _read_joined(chosen: argparse.Namespace, n_contrasts: int) -> NDArray[np.bool_]:
    joined = np.atleast_2d(_read_vest(chosen.f_contrasts))
    if n_contrasts == 1:
        joined = joined.reshape(-1, 1)
    takes_part: NDArray[np.bool_] = joined != 0.0
    if joined.shape[1] != n_contrasts or (takes_part.sum(axis=1) < 2).any():
        raise DataError(
            f"{chosen.f_contrasts}: rows of {joined.shape[1]} values, but {chosen.contrasts} has "
            f"{n_contrasts} contrasts; expected a 0 or 1 for each, and two or more 1 in each row "
            "(F of one contrast is what --two-sided tests)"
        )
    return takes_part


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


def _write(images: dict[str, _Array], study: _Study, out: Path) -> None:
    from bids_alsmri.interfaces.base import write_image

    for name, values in images.items():
        image = np.zeros(study.mask.shape, np.float32)
        image[study.mask] = values
        path = out.with_name(f"{out.name}_{name}.nii.gz")
        write_image(image, study.affine, path, space="aligned")
        log.info("%s", path)


if __name__ == "__main__":
    sys.exit(main())
