"""What the group level will compare: who, on which maps, adjusted for what."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from typing import TYPE_CHECKING, Any, cast

from bids_alsmri.bids.query import list_participants
from bids_alsmri.collection import Finished, finished_of, read_tables
from bids_alsmri.comparisons.settings import GroupSettings, group_settings
from bids_alsmri.engine.pipeline import Pipeline, registry
from bids_alsmri.errors import AlsMriError, DataError, ExitCode, SettingsError

if TYPE_CHECKING:
    import pandas as pd

    from bids_alsmri.bids.clinical import ClinicalTable
    from bids_alsmri.bids.spec import OutputSpec
    from bids_alsmri.comparisons.cohort import CohortNames, Contrast, ScanState
    from bids_alsmri.comparisons.demographics import Demographics
    from bids_alsmri.settings import RunSettings

log = logging.getLogger(__name__)

QUALITY = "quality"
# labels of the column qc in scans.tsv
EXCLUDING = ("fail", "bad", "exclude", "reject")
KEEPING = ("pass", "good", "include", "accept", "ok", "warn")
N_LEAST = 3  # of a group whose maps are compared
# of one whose change is tested: of four, signs have 16 ways, and p stays above 0.05
N_LEAST_CHANGE = 5
NO_CHANGE = "0"  # in place of a second group
# p below which groups are said to differ in the quality of their scans
QUALITY_ALPHA = 0.05


@dataclass(frozen=True)
class Comparison:
    """One contrast of one modality.

    Parameters
    ----------
    modality : str
        Pipeline.
    contrast : Contrast
        Groups.
    included : DataFrame
        Rows of the flow that take part, see `bids_alsmri.comparisons.cohort.participation`.
    covariates : DataFrame
        As many rows, in the same order.
    """

    modality: str
    contrast: Contrast
    included: pd.DataFrame
    covariates: pd.DataFrame

    @property
    def name(self) -> str:
        """Such as ``diffusion als-hc``."""
        return f"{self.modality} {self.contrast.name}"


@dataclass(frozen=True)
class GroupPlan:
    """What the group level will do.

    Parameters
    ----------
    names : CohortNames
        Columns and labels.
    clinical : ClinicalTable
        What is known of participants and visits.
    labels : DataFrame
        Group and progression of each participant.
    contrasts : tuple of Contrast
        What is compared.
    flow : DataFrame
        Who takes part and who does not, by modality and contrast.
    comparisons : tuple of Comparison
        One for each modality and contrast.
    finished : mapping of sequence of Finished
        Scans by modality.
    anatomical : tuple of Finished
        T1w images of all participants and sessions, which maps may be aligned to.
    quality : DataFrame
        Measures of all scans: modality, participant_id, session_id, scan, measure, value, unit,
        low, high and is_flagged.
    quality_tests : DataFrame
        Groups compared by these measures.
    demographics : Demographics
        Summaries of the groups and tests between them.
    warnings : tuple of str
        What may make the comparisons worse than the reader thinks.
    """

    names: CohortNames
    clinical: ClinicalTable
    labels: pd.DataFrame
    contrasts: tuple[Contrast, ...]
    flow: pd.DataFrame
    comparisons: tuple[Comparison, ...]
    finished: Mapping[str, Sequence[Finished]]
    anatomical: tuple[Finished, ...]
    quality: pd.DataFrame
    quality_tests: pd.DataFrame
    demographics: Demographics
    warnings: tuple[str, ...]

    @property
    def modalities(self) -> tuple[str, ...]:
        """Pipelines whose maps are compared."""
        return tuple(dict.fromkeys(comparison.modality for comparison in self.comparisons))


def plan_comparisons(
    settings: RunSettings, finished: Mapping[str, Sequence[Finished]], faults: list[str]
) -> GroupPlan:
    """Find out who is compared with whom, before anything is computed.

    Parameters
    ----------
    settings : RunSettings
        What was asked for.
    finished : mapping of sequence of Finished
        Scans by pipeline.
    faults : list of str
        Takes what cannot be read.

    Returns
    -------
    GroupPlan
        With every group large enough, and every covariate usable.

    Raises
    ------
    SettingsError
        If a contrast, table or test that was asked for does not exist.
    DataError
        If tables are faulty, groups too small or covariates useless.
    """
    from bids_alsmri.bids.clinical import find_clinical_root, read_clinical_table
    from bids_alsmri.comparisons.cohort import label_participants

    cfg = group_settings(settings)
    names, modalities = names_of(cfg), compared_modalities(finished, cfg.maps)
    if not modalities:
        raise DataError(
            f"{settings.output_dir}: holds no finished scan with maps that groups are compared on; "
            "run the participant level first, or give --no-group-compare to collect tables only"
        )
    _require_known_covariates(cfg, modalities)
    root = find_clinical_root(settings.bids_dir, settings.output_dir)
    seen = {
        (f"sub-{scan.participant}", None if scan.session is None else f"ses-{scan.session}")
        for name in modalities
        for scan in finished[name]
    }
    clinical = read_clinical_table(root, visits=seen)
    if not cfg.given_progression_counts and cfg.progression_column in clinical.visits:
        visits = clinical.visits.drop(columns=cfg.progression_column)
        clinical = replace(clinical, visits=visits)
    _require_what_was_named(cfg, clinical)
    labels = label_participants(clinical, names, rule_of(cfg))
    contrasts = contrasts_asked(cfg, names)
    quality = quality_of(settings, finished, modalities, faults)
    flow, comparisons = _comparisons(
        settings, clinical, labels, contrasts, modalities, finished, quality
    )
    require_atlases(settings)
    tests = compare_quality(quality, flow, contrasts)
    demographics = _demographics(cfg, clinical, labels, contrasts, flow)
    return GroupPlan(
        names=names,
        clinical=clinical,
        labels=labels,
        contrasts=contrasts,
        flow=flow,
        comparisons=comparisons,
        finished={name: finished[name] for name in modalities},
        # those asked for have told their faults before
        anatomical=tuple(finished_of(settings, "anatomical", [])),
        quality=quality,
        quality_tests=tests,
        demographics=demographics,
        warnings=(
            *_warnings_of_quality(tests),
            *_warnings_of_flags(quality, flow),
            *_warnings_of_variance(cfg),
        ),
    )


def _require_known_covariates(cfg: GroupSettings, modalities: Sequence[str]) -> None:
    known = {name: list(covariate_outputs(name, None)) for name in registry()}
    own = {covariate for name in modalities for covariate in known[name]}
    unknown = [name for name in cfg.voxelwise_covariates if name not in own]
    if unknown:
        listed = [f"{covariate} for maps of {name}" for name in known for covariate in known[name]]
        raise SettingsError(
            f"--group-voxelwise-covariates: {unknown[0]!r} is no map that those of "
            f"{', '.join(modalities)} can be adjusted for; expected {' or '.join(listed)}; correct "
            "it, or compare such maps"
        )


def covariate_outputs(modality: str, asked: Sequence[str] | None) -> dict[str, OutputSpec]:
    """Outputs that the maps of a pipeline can be adjusted for in every voxel.

    Parameters
    ----------
    modality : str
        Pipeline.
    asked : sequence of str or None
        Names of those that are wanted, where the pipeline has them; None for all.

    Returns
    -------
    dict of OutputSpec
        By the name that ``io_spec.json`` gives them as covariates, in the order of `asked`.
    """
    specs = registry()[modality].io_spec.outputs.values()
    own = {spec.covariate["map"]: spec for spec in specs if spec.covariate}
    wanted = own if asked is None else dict.fromkeys(asked)
    return {name: own[name] for name in wanted if name in own}


def _require_what_was_named(cfg: GroupSettings, clinical: ClinicalTable) -> None:
    if cfg.correct_across == "contrasts" and cfg.model != "all_groups":
        raise SettingsError(
            "--group-correct-across contrasts: relabellings of several contrasts are the same only "
            f"where all groups are exchanged, but --group-model is {cfg.model}; give --group-model "
            "all_groups with it"
        )
    if cfg.fa_target is not None and not cfg.fa_target.is_file():
        raise SettingsError(
            f"--diffusion-fa-target {cfg.fa_target}: no such file; expected an FA image in "
            "template space; correct the path, or leave it out",
            exit_code=ExitCode.NO_INPUT,
        )
    if cfg.visit == "slope" and cfg.time_column not in clinical.visits:
        raise DataError(
            f"{clinical.file_of(cfg.time_column)}: no column {cfg.time_column} there or in "
            "sessions files; expected the time of each visit in months, for the slope; add it, or "
            "name another with --group-time-column"
        )


def require_atlases(settings: RunSettings) -> None:
    """Raise where an atlas cannot be used, before anything is computed.

    Parameters
    ----------
    settings : RunSettings
        What was asked for.

    Raises
    ------
    DataError
        If an atlas is broken, or its left is its right.
    """
    from bids_alsmri.spaces.atlases import load_atlases
    from bids_alsmri.spaces.templates import get_template

    cfg = group_settings(settings)
    load_atlases(
        get_template(settings.template, cfg.resolution_mm),
        atlas_dir=settings.atlas_dir,
        threshold_percent=settings.atlas_threshold_percent,
    )


def names_of(cfg: GroupSettings) -> CohortNames:
    """Columns and labels of the groups.

    Parameters
    ----------
    cfg : GroupSettings
        What was asked for.

    Returns
    -------
    CohortNames
        The same values.
    """
    from bids_alsmri.comparisons.cohort import CohortNames

    return CohortNames(
        group=cfg.group_column,
        progression=cfg.progression_column,
        alsfrs_r=cfg.alsfrs_r_column,
        duration_months=cfg.duration_column,
        patient=cfg.patient_label,
        control=cfg.control_label,
        fast=cfg.fast_label,
        slow=cfg.slow_label,
        others=cfg.other_labels,
    )


def rule_of(cfg: GroupSettings) -> Any:
    """Rule by which a rate becomes fast or slow.

    Parameters
    ----------
    cfg : GroupSettings
        What was asked for.

    Returns
    -------
    ProgressionRule
        With a threshold only where there is one.
    """
    from bids_alsmri.comparisons.cohort import ProgressionRule

    if cfg.progression_rule == "median":
        return ProgressionRule("median")
    return ProgressionRule("threshold", cfg.progression_threshold_per_month)


def contrasts_asked(cfg: GroupSettings, names: CohortNames) -> tuple[Contrast, ...]:
    """Contrasts by the names that were asked for.

    Parameters
    ----------
    cfg : GroupSettings
        What was asked for.
    names : CohortNames
        Labels.

    Returns
    -------
    tuple of Contrast
        The paper's four where none was asked for.

    Raises
    ------
    SettingsError
        If a name is made of no two labels.
    """
    from bids_alsmri.comparisons.cohort import Contrast, contrasts_of

    if not cfg.contrasts:
        return contrasts_of(names)
    labels = (names.patient, names.control, names.fast, names.slow, *names.others)
    # labels may hold hyphens themselves
    possible = {f"{a}-{b}": Contrast(a, b) for a, b in permutations(labels, 2)}
    changes = {f"{a}-{NO_CHANGE}": Contrast(a, NO_CHANGE, is_change=True) for a in labels}
    if cfg.visit in ("change", "slope"):
        possible = {**changes, **possible}
    unknown = [name for name in cfg.contrasts if name not in possible]
    if unknown and unknown[0] in changes:
        raise SettingsError(
            f"--group-contrasts {unknown[0]}: a change is tested of maps that are changes, but "
            f"--group-visit is {cfg.visit}; give --group-visit change or slope with it"
        )
    if unknown:
        raise SettingsError(
            f"--group-contrasts: {unknown[0]!r} is no contrast; expected two of the labels "
            f"{', '.join(labels)} joined by a hyphen, such as {labels[0]}-{labels[1]}, or one and "
            f"{NO_CHANGE} for its change; correct it, or name the label with --group-other-labels"
        )
    return tuple(possible[name] for name in dict.fromkeys(cfg.contrasts))


def compared_modalities(
    finished: Mapping[str, Sequence[Finished]], maps: Sequence[str]
) -> tuple[str, ...]:
    """Pipelines with finished scans whose maps groups are compared on.

    Parameters
    ----------
    finished : mapping of sequence of Finished
        Scans by pipeline.
    maps : sequence of str
        Maps that were asked for; all if empty, or if no pipeline has any of them, which is an
        error of its own.

    Returns
    -------
    tuple of str
        In the order of the registry.
    """
    found = {
        name: {s.compared["map"] for s in registry()[name].io_spec.outputs.values() if s.compared}
        for name, scans in finished.items()
        if scans and is_compared(registry()[name])
    }
    asked = tuple(name for name, own in found.items() if own & set(maps))
    return asked or tuple(found)


def have_tables_only(finished: Mapping[str, Sequence[Finished]]) -> bool:
    """Whether nothing that is finished has maps to compare, but some has tables of its own.

    Parameters
    ----------
    finished : mapping of sequence of Finished
        Scans by pipeline.

    Returns
    -------
    bool
        Such as for a dataset of muscles alone.
    """
    own = [registry()[name] for name, scans in finished.items() if scans]
    return any(p.group_tables for p in own) and not any(is_compared(p) for p in own)


def is_compared(pipeline: Pipeline) -> bool:
    """Whether a pipeline saves maps that groups are compared on.

    Parameters
    ----------
    pipeline : Pipeline
        Any.

    Returns
    -------
    bool
        As its ``io_spec.json`` declares.
    """
    return any(spec.compared for spec in pipeline.io_spec.outputs.values())


def quality_of(
    settings: RunSettings,
    finished: Mapping[str, Sequence[Finished]],
    modalities: Sequence[str],
    faults: list[str],
) -> pd.DataFrame:
    """Measures of quality of all scans, and which lie outside their sensible range.

    Parameters
    ----------
    settings : RunSettings
        Give the output folder.
    finished : mapping of sequence of Finished
        Scans by pipeline.
    modalities : sequence of str
        Pipelines.
    faults : list of str
        Takes what cannot be read.

    Returns
    -------
    DataFrame
        See `GroupPlan`.
    """
    import pandas as pd

    rows: list[dict[str, object]] = []
    for name in modalities:
        spec = registry()[name].io_spec.outputs[QUALITY]
        for scan, table in read_tables(settings.output_dir, finished[name], spec, faults):
            for row in table.to_dict("records"):
                value, low, high = (float(row[column]) for column in ("value", "low", "high"))
                # comparisons with a missing bound are false
                rows.append(
                    {
                        "modality": name,
                        "participant_id": f"sub-{scan.participant}",
                        "session_id": None if scan.session is None else f"ses-{scan.session}",
                        "scan": scan.label,
                        "measure": row["measure"],
                        "value": value,
                        "unit": row["unit"],
                        "low": low,
                        "high": high,
                        "is_flagged": value < low or value > high,
                    }
                )
    columns = ["modality", "participant_id", "session_id", "scan", "measure", "value", "unit"]
    return pd.DataFrame(rows, columns=[*columns, "low", "high", "is_flagged"])


def _comparisons(
    settings: RunSettings,
    clinical: ClinicalTable,
    labels: pd.DataFrame,
    contrasts: Sequence[Contrast],
    modalities: Sequence[str],
    finished: Mapping[str, Sequence[Finished]],
    quality: pd.DataFrame,
) -> tuple[pd.DataFrame, tuple[Comparison, ...]]:
    import pandas as pd

    from bids_alsmri.comparisons.cohort import covariate_columns, participation, require_groups

    cfg = group_settings(settings)
    names = names_of(cfg)
    states = scan_states(settings, clinical, finished, modalities)
    exclusions = _exclusions(settings, clinical, states, quality)
    measures = _measures_of(quality, modalities, cfg.quality_covariates)
    covariates = {name: (*cfg.covariates, *measures[name]) for name in modalities}
    flows, adjusted = [], {}
    for modality in modalities:
        adjusted[modality] = _with_quality(clinical, quality, modality, measures[modality])
        flows.append(
            participation(
                adjusted[modality],
                labels,
                states,
                exclusions,
                names=names,
                contrasts=contrasts,
                modalities=[modality],
                covariates=covariates[modality],
                once_per_participant=cfg.visit == "first",
            )
        )
    flow = _with_enough_visits(pd.concat(flows, ignore_index=True), cfg.visit)
    for is_change, n_least in ((False, N_LEAST), (True, N_LEAST_CHANGE)):
        require_groups(
            flow,
            contrasts=[one for one in contrasts if one.is_change == is_change],
            modalities=modalities,
            n_least=n_least,
            source=clinical.file_of(names.group),
        )
    comparisons = []
    for modality in modalities:
        for contrast in contrasts:
            is_own = (flow["modality"] == modality) & (flow["contrast"] == contrast.name)
            included = flow[is_own & flow["is_included"]]
            if cfg.model == "all_groups" and not contrast.is_change:
                included = _with_others(included, flow, labels, modality)
            # one row for each participant: covariates are those of the first visit
            first = included.drop_duplicates("participant_id")
            columns = covariate_columns(adjusted[modality], first, covariates[modality])
            comparisons.append(Comparison(modality, contrast, included, columns))
    return flow, tuple(comparisons)


def _with_others(
    included: pd.DataFrame, flow: pd.DataFrame, labels: pd.DataFrame, modality: str
) -> pd.DataFrame:
    """Scans of a comparison, then those of other groups that take part in any."""
    import pandas as pd

    from bids_alsmri.comparisons.cohort import cell_label

    is_in = (flow["modality"] == modality) & flow["is_included"]
    others = flow[is_in & ~flow["scan"].isin(included["scan"])].drop_duplicates("scan").copy()
    own = labels.set_index("participant_id")
    others["group"] = [
        cell_label(own.loc[who, "progression"]) or cell_label(own.loc[who, "group"])
        for who in others["participant_id"]
    ]
    others["contrast"] = included["contrast"].iloc[0]
    # the same order in all comparisons, so that relabellings of them can be the same
    return pd.concat([included, others]).sort_values("participant_id", kind="stable")


def scan_states(
    settings: RunSettings,
    clinical: ClinicalTable,
    finished: Mapping[str, Sequence[Finished]],
    modalities: Sequence[str],
) -> list[ScanState]:
    """What became of each scan, those that failed among them.

    Parameters
    ----------
    settings : RunSettings
        What was asked for.
    clinical : ClinicalTable
        Gives the participants.
    finished : mapping of sequence of Finished
        Scans by pipeline.
    modalities : sequence of str
        Pipelines.

    Returns
    -------
    list of ScanState
        Scans that lie in the dataset without results have failed, or were never processed.
    """
    from bids_alsmri.comparisons.cohort import ScanState

    asked = group_settings(settings).voxelwise_covariates
    states = [
        ScanState(
            participant_id=f"sub-{scan.participant}",
            session_id=None if scan.session is None else f"ses-{scan.session}",
            modality=name,
            label=scan.label,
            images=scan.images,
            failure=_without_maps(scan, registry()[name]),
            lacking=_lacking(settings, scan, covariate_outputs(name, asked)),
        )
        for name in modalities
        for scan in finished[name]
    ]
    with_all = [
        frozenset(state.participant_id for state in states if state.modality == name)
        for name in modalities
    ]
    in_dataset = {f"sub-{label}" for label in list_participants(settings.bids_dir)}
    lacking = sorted(in_dataset & set(clinical.participants) - frozenset.intersection(*with_all))
    return [*states, *_unfinished(settings, lacking, modalities)]


def _without_maps(scan: Finished, pipeline: Pipeline) -> str:
    """Why a finished scan cannot be compared; empty where it can."""
    compared = [spec.name for spec in pipeline.io_spec.outputs.values() if spec.compared]
    if not compared or any(name in scan.record.outputs for name in compared):
        return ""
    # as of sodium images that were mapped in their own space alone
    return (
        "no map in the template's space, as happens without a T1w; see the participant's report "
        "and run the participant level again once there is one"
    )


def _lacking(settings: RunSettings, scan: Finished, covariates: Mapping[str, OutputSpec]) -> str:
    """Covariates of which the participant level left no map, with what to do."""
    outputs = scan.record.outputs
    absent = [
        name
        for name, spec in covariates.items()
        if spec.name not in outputs or not (settings.output_dir / outputs[spec.name]).is_file()
    ]
    return f"no map of {', '.join(absent)}; run the participant level again" if absent else ""


def _unfinished(
    settings: RunSettings, participants: Sequence[str], modalities: Sequence[str]
) -> list[ScanState]:
    from bids_alsmri.comparisons.cohort import ScanState
    from bids_alsmri.planning import find_plan

    if not participants:
        return []
    labels = tuple(who.removeprefix("sub-") for who in participants)
    asked = settings.model_copy(update={"participant_label": labels, "session_label": ()})
    try:
        plan = find_plan(asked)
    except AlsMriError as error:
        # results may lie here without raw data that can be indexed
        log.warning("scans without results were not looked for in %s: %s", asked.bids_dir, error)
        return []
    found = []
    for job in plan.jobs:
        scan, name = job.scan, job.pipeline.name
        if name in modalities and job.record is None:
            failure = "no results of the participant level; see the participant's report"
            found.append((name, scan.participant, scan.session, scan.label, failure))
    for skip in plan.skips:
        if skip.is_error and skip.pipeline in modalities:
            session = "" if skip.session is None else f"_ses-{skip.session}"
            label = f"sub-{skip.participant}{session}"
            found.append((skip.pipeline, skip.participant, skip.session, label, skip.reason))
    return [
        ScanState(
            participant_id=f"sub-{participant}",
            session_id=None if session is None else f"ses-{session}",
            modality=name,
            label=label,
            failure=failure,
        )
        for name, participant, session, label, failure in found
    ]


def _exclusions(
    settings: RunSettings,
    clinical: ClinicalTable,
    states: Sequence[ScanState],
    quality: pd.DataFrame,
) -> pd.DataFrame:
    import pandas as pd

    from bids_alsmri.bids.clinical import read_exclusions, read_quality_labels
    from bids_alsmri.comparisons.cohort import require_known_exclusions

    cfg = group_settings(settings)
    parts = []
    if cfg.exclusions is not None:
        asked = read_exclusions(cfg.exclusions)
        sessions = {str(value) for value in clinical.visits["session_id"].dropna()}
        require_known_exclusions(
            asked,
            participants={*clinical.participants, *(state.participant_id for state in states)},
            sessions=sessions | {s.session_id for s in states if s.session_id is not None},
            modalities=[name for name, pipeline in registry().items() if is_compared(pipeline)],
        )
        parts.append(asked)
    parts.append(read_quality_labels(settings.bids_dir, excluding=EXCLUDING, keeping=KEEPING))
    if cfg.exclude_flagged:
        images = {(s.modality, s.label): s.images for s in states}
        parts.append(_flagged(quality, images))
    return pd.concat(parts, ignore_index=True)


def _flagged(
    quality: pd.DataFrame, images: Mapping[tuple[str, str], frozenset[str]]
) -> pd.DataFrame:
    """Exclusions of scans out of range, one row per image, so that other runs stay."""
    import pandas as pd

    rows = []
    for _, part in quality[quality["is_flagged"]].groupby(["modality", "scan"]):
        row = part.iloc[0]
        for image in sorted(images.get((row["modality"], row["scan"]), frozenset())):
            rows.append(
                {
                    "participant_id": row["participant_id"],
                    "session_id": row["session_id"],
                    "modality": row["modality"],
                    "image": image,
                    "reason": "; ".join(_flag_text(one) for one in part.to_dict("records")),
                    "source": "sensible ranges of quality",
                }
            )
    columns = ["participant_id", "session_id", "modality", "image", "reason", "source"]
    return pd.DataFrame(rows, columns=columns, dtype=object)


def _flag_text(row: Mapping[Any, Any]) -> str:
    side, bound = ("below", row["low"]) if row["value"] < row["low"] else ("above", row["high"])
    unit = "" if row["unit"] in ("1", None) else f" {row['unit']}"
    return f"{row['measure']} {row['value']:.3g}{unit}, {side} {bound:g}"


def _measures_of(
    quality: pd.DataFrame, modalities: Sequence[str], asked: Sequence[str]
) -> dict[str, tuple[str, ...]]:
    """Measures of quality that were asked for, by the modalities that have them."""
    own = {
        name: tuple(
            m for m in asked if m in set(quality.loc[quality["modality"] == name, "measure"])
        )
        for name in modalities
    }
    unknown = [measure for measure in asked if not any(measure in found for found in own.values())]
    if unknown:
        known = sorted(set(quality["measure"]))
        raise SettingsError(
            f"--group-quality-covariates: {unknown[0]!r} is no measure of {', '.join(modalities)}; "
            f"expected one of {', '.join(known)}"
        )
    return own


def _with_quality(
    clinical: ClinicalTable, quality: pd.DataFrame, modality: str, measures: Sequence[str]
) -> ClinicalTable:
    """Clinical table with measures of quality as further columns."""
    if not measures:
        return clinical
    own = quality[quality["modality"] == modality]
    visits = clinical.visits.copy()
    for measure in measures:
        # of several scans of a visit the first counts, as it is the one that takes part
        table = own[own["measure"] == measure].sort_values("scan")
        by_visit = {
            (row["participant_id"], row["session_id"]): row["value"]
            for row in reversed(table.to_dict("records"))
        }
        by_person = {who: value for (who, _), value in by_visit.items()}
        n_visits = visits["participant_id"].map(visits["participant_id"].value_counts())
        visits[measure] = [
            by_visit.get((who, visit), by_person.get(who) if n == 1 else None)
            for who, visit, n in zip(
                visits["participant_id"], visits["session_id"], n_visits, strict=True
            )
        ]
        visits[measure] = visits[measure].astype(float)
    return replace(clinical, visits=visits)


def _with_enough_visits(flow: pd.DataFrame, visit: str) -> pd.DataFrame:
    """Flow in which those with a single usable visit are out, where a change is to be tested."""
    from bids_alsmri.comparisons.cohort import TOO_FEW_VISITS

    if visit not in ("change", "slope"):
        return flow
    keys = ["modality", "contrast", "participant_id"]
    n_visits = flow[flow["is_included"]].groupby(keys)["session_id"].nunique()
    flow = flow.copy()
    for index, row in flow[flow["is_included"]].iterrows():
        n = int(n_visits[tuple(row[key] for key in keys)])
        if n < 2:
            flow.loc[index, "is_included"] = False
            flow.loc[index, ["reason", "detail"]] = [TOO_FEW_VISITS, f"{n} usable; 2 are needed"]
    return flow


def compare_quality(
    quality: pd.DataFrame, flow: pd.DataFrame, contrasts: Sequence[Contrast]
) -> pd.DataFrame:
    """Groups compared by the measures of quality of the scans that take part.

    Parameters
    ----------
    quality : DataFrame
        See `GroupPlan`.
    flow : DataFrame
        Who takes part.
    contrasts : sequence of Contrast
        Groups.

    Returns
    -------
    DataFrame
        One row per modality, contrast and measure: medians, and the p-value of a Mann-Whitney
        test, not corrected.
    """
    import pandas as pd

    from bids_alsmri.comparisons.demographics import compare_numbers

    rows = []
    included = flow[flow["is_included"]]
    for (modality, measure), part in quality.groupby(["modality", "measure"], sort=False):
        values = part.set_index("scan")["value"]
        for contrast in (one for one in contrasts if not one.is_change):
            is_own = (included["modality"] == modality) & (included["contrast"] == contrast.name)
            scans = included[is_own]
            sides = [
                values.reindex(scans.loc[scans["group"] == group, "scan"]).dropna()
                for group in contrast.groups
            ]
            if min(len(side) for side in sides) < N_LEAST:
                continue
            result = compare_numbers(sides[0].to_numpy(), sides[1].to_numpy(), "mann-whitney")
            rows.append(
                {
                    "modality": modality,
                    "contrast": contrast.name,
                    "measure": measure,
                    "unit": part["unit"].iloc[0],
                    "first": contrast.first,
                    "median_first": sides[0].median(),
                    "second": contrast.second,
                    "median_second": sides[1].median(),
                    "test": result.test,
                    "p": result.p,
                    "n_first": result.n_first,
                    "n_second": result.n_second,
                }
            )
    columns = ["modality", "contrast", "measure", "unit", "first", "median_first", "second"]
    columns += ["median_second", "test", "p", "n_first", "n_second"]
    return pd.DataFrame(rows, columns=columns)


def _warnings_of_quality(tests: pd.DataFrame) -> list[str]:
    # motion and noise make differences of their own
    of_interest = ("displacement", "snr", "outlier", "noise")
    found = []
    for row in tests[tests["p"] < QUALITY_ALPHA].to_dict("records"):
        if any(word in str(row["measure"]) for word in of_interest):
            found.append(
                f"{row['modality']}, {row['contrast']}: {row['measure']} differs between the "
                f"groups (median {row['median_first']:.3g} in {row['first']}, "
                f"{row['median_second']:.3g} in {row['second']}; {row['test']}, p = {row['p']:.2g})"
                "; a difference of the maps may come from it: compare again with "
                f"--group-quality-covariates {row['measure']}"
            )
    return found


def _warnings_of_variance(cfg: GroupSettings) -> list[str]:
    if cfg.variance != "unequal" or cfg.relabelling != "permutations":
        return []
    return [
        "Welch's v under permutations holds its level only in large groups: where the smaller "
        "group has four times the variance, 12 to 16 % of studies of paper 1's size found a "
        "difference that was not there; --group-relabelling sign_flips holds it better where noise "
        "is symmetric"
    ]


def _warnings_of_flags(quality: pd.DataFrame, flow: pd.DataFrame) -> list[str]:
    used = set(flow.loc[flow["is_included"], "scan"])
    is_used = quality["is_flagged"] & quality["scan"].isin(used)
    found = []
    for (modality, scan), part in quality[is_used].groupby(["modality", "scan"], sort=False):
        texts = "; ".join(_flag_text(row) for row in part.to_dict("records"))
        found.append(
            f"{scan} {modality} takes part with {texts}; look at its report, and leave it out with "
            "--exclusions or --exclude-flagged if it is bad"
        )
    return found


def _demographics(
    cfg: GroupSettings,
    clinical: ClinicalTable,
    labels: pd.DataFrame,
    contrasts: Sequence[Contrast],
    flow: pd.DataFrame,
) -> Demographics:
    from bids_alsmri.comparisons.demographics import Variable, baseline, describe

    people = baseline(clinical, labels)
    usual = type(cfg).model_fields["describe"].default
    variables = []
    for text in cfg.describe:
        column, colon, test = text.rpartition(":")
        if not colon:
            raise SettingsError(
                f"--group-describe: {text!r} names no test; expected COLUMN:TEST, such as age:t"
            )
        if column in people or cfg.describe != usual:
            variables.append(Variable(column, cast("Any", test)))
    taking_part = set(flow.loc[flow["is_included"], "participant_id"])
    members = people[people["participant_id"].isin(taking_part)]
    return describe(clinical, members, variables, contrasts)
