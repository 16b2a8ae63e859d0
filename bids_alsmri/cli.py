"""Command line: parse, call one level, return an exit code."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import shlex
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

from bids_alsmri.comparisons.settings import GroupSettings
from bids_alsmri.engine.pipeline import registry
from bids_alsmri.environment import choose_socket_folder, copy_kernels
from bids_alsmri.errors import AlsMriError, ExitCode, RunError, SettingsError, StopRequest
from bids_alsmri.options import Option, SettingsModel, add_to_parser, options_of
from bids_alsmri.settings import GROUP, LEVELS, RunSettings, make_run_settings, read_settings_file
from bids_alsmri.version import VERSION

if TYPE_CHECKING:
    from rich.console import Console

log = logging.getLogger("bids_alsmri")

DESCRIPTION = (
    "Turns sodium, diffusion, 7T cortical and whole-body muscle MRI in amyotrophic lateral "
    "sclerosis into quantitative maps, tables and group statistics."
)
EXIT_CODES = (
    "Exit codes: 0 done, also when everything had been done before; 1 some scans failed; "
    "16 invalid BIDS; 17 unknown level; 18 labels or filters match nothing; 64 usage; 65 bad "
    "data; 66 no input; 73 output cannot be written. Long flags may be spelled with underscores "
    "too, as in --participant_label. A run that is stopped by a signal ends with 128 + its number."
)
POSITIONALS = {
    "bids_dir": "Folder of the BIDS dataset.",
    "output_dir": "Folder for the results, outside the dataset or in its derivatives.",
    "analysis_level": "Level: participant or group.",
}
# set in images: folder of kernels that were compiled when the image was built
KERNELS_VARIABLE = "ALSMRI_KERNELS"
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class UsageParser(argparse.ArgumentParser):
    """Parser that ends with the exit codes of the BIDS Apps specification."""

    def error(self, message: str) -> NoReturn:
        """Raise what the parser found, instead of leaving the interpreter."""
        raise SettingsError(f"{message}; see {self.prog} --help")


def run_options() -> list[Option]:
    """Options of every run, in the order of the settings.

    Returns
    -------
    list of Option
        Without those of the pipelines.
    """
    return options_of(RunSettings, group="run")


def pipeline_options() -> dict[str, list[Option]]:
    """Options of each pipeline and of the group level, by its name.

    Returns
    -------
    dict of list of Option
        In the order of the registry, the group level last.
    """
    return {name: options_of(model, prefix=name, group=name) for name, model in models().items()}


def models() -> dict[str, type[SettingsModel]]:
    """Settings models of the pipelines and of the group level, by name.

    Returns
    -------
    dict of type
        In the order of the registry, the group level last.
    """
    return {**{name: p.settings for name, p in registry().items()}, GROUP: GroupSettings}


def make_parser(*, is_lenient: bool = False) -> argparse.ArgumentParser:
    """Parser of the command line.

    Parameters
    ----------
    is_lenient : bool
        Whether values are taken as they stand, for reading the level of a wrong call.

    Returns
    -------
    argparse.ArgumentParser
        With one flag per setting.
    """
    parser = UsageParser(
        prog="bids_alsmri",
        usage="bids_alsmri BIDS_DIR OUTPUT_DIR {participant,group} [options]",
        description=DESCRIPTION,
        epilog=EXIT_CODES,
        allow_abbrev=False,
    )
    for name, text in POSITIONALS.items():
        path = name.endswith("_dir") and not is_lenient
        parser.add_argument(name, help=text, type=Path if path else str, nargs="?")
    parser.add_argument("--version", action="version", version=f"bids_alsmri {VERSION}")
    parser.add_argument(
        "--bids-exec-spec", action="store_true", help="Print the Boutiques descriptor and end."
    )
    parser.add_argument(
        "--settings", type=Path, help="Settings file, such as logs/<run>/settings.json, to repeat."
    )
    parser.add_argument(
        "--mem-mb", type=float, help="Memory that steps may take together, in MB; see --mem-gb."
    )
    for option in run_options():
        add_to_parser(parser, option, dest=f"run.{option.name}")
    for name, options in pipeline_options().items():
        title = "Group level" if name == GROUP else registry()[name].title
        group = parser.add_argument_group(title)
        for option in options:
            add_to_parser(group, option, dest=f"{name}.{option.name}")
    return parser


def parse(arguments: Sequence[str]) -> RunSettings:
    """Settings of a run from the words of a command line.

    Parameters
    ----------
    arguments : sequence of str
        Words after the program's name.

    Returns
    -------
    RunSettings
        Checked and frozen.

    Raises
    ------
    SettingsError
        If the call is wrong; an unknown level wins over other faults.
    """
    parser = make_parser()
    words = _with_hyphens(arguments, parser)
    try:
        # positionals may stand apart, as in BIDS_DIR OUT --mode paper participant
        parsed = parser.parse_intermixed_args(words)
    except SettingsError:
        _raise_on_unknown_level(words)
        raise
    if parsed.analysis_level not in (None, *LEVELS):
        _raise_unknown_level(parsed.analysis_level)
    run, pipelines = _from_file(parsed.settings)
    _require_mode_of_file(parsed, run, pipelines)
    level = parsed.analysis_level or run.get("level")
    given = {name: value for name, value in vars(parsed).items() if "." in name}
    for name, value in given.items():
        owner, _, field = name.partition(".")
        (run if owner == "run" else pipelines.setdefault(owner, {}))[field] = value
    if parsed.mem_mb is not None:
        if "run.mem_gb" in given:
            raise SettingsError("--mem-gb and --mem-mb are both given; give one of them")
        run["mem_gb"] = parsed.mem_mb / 1000
    for name, value in (("bids_dir", parsed.bids_dir), ("output_dir", parsed.output_dir)):
        if value is not None:
            run[name] = value
    run["level"] = level
    missing = [name for name in ("bids_dir", "output_dir", "level") if run.get(name) is None]
    if missing:
        raise SettingsError(f"{', '.join(missing)} not given; see bids_alsmri --help")
    for name in ("bids_dir", "output_dir"):
        run[name] = Path(os.path.abspath(run[name]))
    return make_run_settings(run, pipelines, models())


def _from_file(path: Path | None) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    return ({}, {}) if path is None else read_settings_file(path)


def _require_mode_of_file(
    parsed: argparse.Namespace,
    run: Mapping[str, Any],
    pipelines: Mapping[str, Mapping[str, Any]],
) -> None:
    """Raise where a mode is asked for, and a file holds the values of the other one."""
    asked, kept = getattr(parsed, "run.mode", None), run.get("mode", "best")
    if asked in (None, kept):
        return
    for name, options in pipeline_options().items():
        by_mode = {option.name for option in options if option.has_paper_value}
        if by_mode and by_mode <= set(pipelines.get(name, {})):
            raise SettingsError(
                f"--mode is {asked}, but {parsed.settings} holds every value of a run in mode "
                f"{kept}, which would count; leave --mode out to repeat that run, or remove "
                f'"pipelines" from a copy of the file to run in mode {asked}'
            )


def _with_hyphens(arguments: Sequence[str], parser: argparse.ArgumentParser) -> list[str]:
    """Words of a call with the flags that BIDS Apps spell with underscores, as we spell them."""
    known = parser._option_string_actions
    words = []
    for word in arguments:
        flag, equals, value = word.partition("=")
        hyphened = flag.replace("_", "-")
        is_alias = flag.startswith("--") and flag not in known and hyphened in known
        words.append(f"{hyphened}{equals}{value}" if is_alias else word)
    return words


def _raise_on_unknown_level(arguments: Sequence[str]) -> None:
    lenient = make_parser(is_lenient=True)
    for action in lenient._actions:
        action.type, action.choices = None, None
        if action.option_strings and action.nargs in (None, "+"):
            action.nargs = "?" if action.nargs is None else "*"
    try:
        known, surplus = lenient.parse_known_intermixed_args(arguments)
        flags = [word for word in surplus if word.startswith("-")]
        # what follows a flag that is not ours may be its value
        certain = arguments[: arguments.index(flags[0])] if flags else arguments
        level = lenient.parse_known_intermixed_args(certain)[0].analysis_level
    except SettingsError:
        return
    is_given = any(word in LEVELS for word in (known.analysis_level, *surplus))
    if level not in (None, *LEVELS) and not is_given:
        _raise_unknown_level(level)


def _raise_unknown_level(level: str) -> NoReturn:
    raise SettingsError(
        f"analysis level {level!r} is unknown; give one of {', '.join(LEVELS)}",
        exit_code=ExitCode.UNKNOWN_LEVEL,
    )


def prepare_environment(settings: RunSettings) -> list[Path]:
    """Set what libraries read once, at their import: threads, caches, no network.

    Parameters
    ----------
    settings : RunSettings
        Gives the threads and the work folder.

    Returns
    -------
    list of Path
        Folders that were made, the innermost first; the first of them is for temporary files of
        this process alone.

    Raises
    ------
    RunError
        If the work folder cannot be written.
    """
    os.environ["NIPYPE_NO_ET"] = "1"
    for name in THREAD_VARIABLES:
        os.environ[name] = str(settings.omp_nthreads)
    os.environ.setdefault("NUMBA_NUM_THREADS", str(settings.omp_nthreads))
    os.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] = "1"
    if settings.plan:
        return []
    work = settings.work_folder
    made = [] if work.exists() else [work]
    try:
        work.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=work):
            pass
    except OSError as error:
        raise RunError(
            f"work folder {work} cannot be written ({error.strerror}); choose another with -w",
            exit_code=ExitCode.CANNOT_WRITE,
        ) from None
    made += _place_caches(work / "cache")
    choose_socket_folder()
    # of this process alone: another run may share the work folder, and clean up before this one
    (work / "tmp").mkdir(exist_ok=True)
    own = Path(tempfile.mkdtemp(prefix="run-", dir=work / "tmp"))
    os.environ["TMPDIR"] = str(own)
    tempfile.tempdir = None
    return [own, work / "tmp", *reversed(made)]


def _place_caches(cache: Path) -> list[Path]:
    """Make the folders that matplotlib and numba write to, and return those that were not there."""
    made: list[Path] = []
    for name, folder in (("MPLCONFIGDIR", "matplotlib"), ("NUMBA_CACHE_DIR", "numba")):
        if name not in os.environ:
            os.environ[name] = str(cache / folder)
            made += [f for f in (cache, cache / folder) if not f.exists()]
            (cache / folder).mkdir(parents=True, exist_ok=True)
            if name == "NUMBA_CACHE_DIR" and KERNELS_VARIABLE in os.environ:
                kernels = copy_kernels(Path(os.environ[KERNELS_VARIABLE]), cache / folder)
                os.environ[name] = str(kernels)
    return made


def _tidy_up(made: Sequence[Path], *, with_empty: bool) -> None:
    shutil.rmtree(made[0], ignore_errors=True)
    # only what is empty goes
    for folder in made if with_empty else made[1:2]:
        with contextlib.suppress(OSError):
            folder.rmdir()


def _start_logging(settings: RunSettings, console: Console) -> None:
    from rich.logging import RichHandler

    level = logging.DEBUG if settings.verbose else logging.INFO
    if console.is_terminal:
        # lines that go past the live display would garble it
        handler = RichHandler(console=console, show_path=False, log_time_format="%H:%M:%S")
        logging.basicConfig(level=level, format="%(message)s", handlers=[handler], force=True)
    else:
        line = "%(asctime)s %(levelname)s %(message)s"
        logging.basicConfig(
            level=level, format=line, datefmt="%H:%M:%S", stream=sys.stderr, force=True
        )
    # their own words repeat what our lines say
    for name in ("numba", "matplotlib"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def run_level(settings: RunSettings, command_line: str) -> ExitCode:
    """Run the level that was asked for.

    Parameters
    ----------
    settings : RunSettings
        What was asked for.
    command_line : str
        As the user typed it.

    Returns
    -------
    ExitCode
        What became of it.

    Raises
    ------
    AlsMriError
        If nothing can be processed.
    """
    from bids_alsmri.planning import check_folders

    check_folders(settings)
    with _environment_restored():
        made = prepare_environment(settings)
        leaves_none = False
        try:
            code = _run_level(settings, command_line)
            leaves_none = settings.clean_workdir
        except AlsMriError:
            leaves_none = True
            raise
        finally:
            if made:
                _tidy_up(made, with_empty=leaves_none)
    return code


@contextlib.contextmanager
def _environment_restored() -> Iterator[None]:
    # a Python program that calls main goes on without folders of the run, which may be gone
    earlier = dict(os.environ)
    try:
        yield
    finally:
        for name in os.environ.keys() - earlier.keys():
            del os.environ[name]
        os.environ.update(earlier)
        tempfile.tempdir = None


def _run_level(settings: RunSettings, command_line: str) -> ExitCode:
    from rich.console import Console

    console = Console(stderr=True)
    _start_logging(settings, console)
    if settings.level == "group":
        from bids_alsmri.group import run_group_level

        return run_group_level(settings, command_line, console)
    from bids_alsmri.participant import run_participant_level

    return run_participant_level(settings, command_line, console)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of the command ``bids_alsmri``.

    Parameters
    ----------
    arguments : sequence of str, optional
        Words of the command line; those of the process if not given.

    Returns
    -------
    int
        Exit code.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if {"--bids-exec-spec", "--bids_exec_spec"} & set(words):
        from bids_alsmri.descriptor import make_descriptor

        sys.stdout.write(json.dumps(make_descriptor(), indent=2) + "\n")
        return ExitCode.DONE
    try:
        with _signals_raise():
            return run_level(parse(words), shlex.join(["bids_alsmri", *words]))
    except AlsMriError as error:
        for line in _lines_of(error):
            sys.stderr.write(line + "\n")
        return int(error.exit_code)
    except StopRequest as request:
        sys.stderr.write("bids_alsmri: interrupted; the same call goes on where this one stopped\n")
        return request.exit_code


@contextlib.contextmanager
def _signals_raise() -> Iterator[None]:
    # a scheduler that ends a job, and docker stop, send SIGTERM; its default leaves no report
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise StopRequest(number)

    numbers = (signal.SIGINT, signal.SIGTERM)
    earlier = [signal.signal(number, stop) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, earlier, strict=True):
            signal.signal(number, handler)


def _lines_of(error: AlsMriError) -> Iterator[str]:
    yield f"bids_alsmri: {error}"
    yield from getattr(error, "__notes__", [])
