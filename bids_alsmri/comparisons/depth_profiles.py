"""Profiles across the cortex of all participants: means and spread of patients and controls."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd

from bids_alsmri.bids.clinical import natural_key

SUPERFICIAL_MM = 0.6  # of the first depths, whose mean signal is 1
PROFILE_COLUMNS = ("region", "side", "depth", "mean")
COLUMNS = ("region", "group", "depth", "n", "mean", "sd")


def cohort_profiles(
    tables: Iterable[tuple[str, str | None, pd.DataFrame]], groups: Mapping[str, str]
) -> pd.DataFrame:
    """Mean profile of each area and group, with its spread over participants.

    Parameters
    ----------
    tables : iterable of (str, str or None, DataFrame)
        Participant, session, and a table with region, side, depth (mm) and mean signal (any unit).
        Of several sessions the first counts (m4 before m12), of several slabs of one session their
        mean.
    groups : mapping of str
        Group of each participant; others are left out.

    Returns
    -------
    DataFrame
        ``region``, ``group``, ``depth`` (mm), ``n`` (participants), ``mean`` and ``sd`` of the
        signal over that of the superficial cortex of the same area; sides are averaged within
        participants, and ``sd`` is missing for a single one.

    Examples
    --------
    >>> own = pd.DataFrame({"region": "hand", "side": "left", "depth": [0.8, 2.0]})
    >>> tables = [("sub-1", None, own.assign(mean=[50.0, 45.0])),
    ...     ("sub-2", None, own.assign(mean=[100.0, 80.0]))]
    >>> found = cohort_profiles(tables, {"sub-1": "hc", "sub-2": "hc"})
    >>> found[["depth", "n", "mean"]].values.round(2).tolist()
    [[0.8, 2.0, 1.0], [2.0, 2.0, 0.85]]
    """
    parts = []
    first: dict[str, str | None] = {}
    for who, session, table in sorted(tables, key=lambda one: (one[0], natural_key(one[1] or ""))):
        if who not in groups or not len(table) or first.setdefault(who, session) != session:
            continue
        parts += [
            _relative(own).assign(participant=who, group=groups[who])
            for _, own in table.groupby(["region", "side"], sort=False)
        ]
    if not parts:
        return pd.DataFrame(columns=list(COLUMNS))
    everything = pd.concat(parts, ignore_index=True)
    order = {region: rank for rank, region in enumerate(dict.fromkeys(everything["region"]))}
    keys = ["region", "group", "depth"]
    of_people = everything.groupby([*keys, "participant"], as_index=False)["mean"].mean()
    found = of_people.groupby(keys)["mean"].agg(n="count", mean="mean", sd="std").reset_index()
    found = found.sort_values(
        keys, key=lambda column: column.map(order) if column.name == "region" else column
    )
    return pd.DataFrame(found[list(COLUMNS)]).reset_index(drop=True)


def _relative(own: pd.DataFrame) -> pd.DataFrame:
    depth = own["depth"].to_numpy(float)
    mean = own["mean"].to_numpy(float)
    superficial = float(np.mean(mean[depth < depth.min() + SUPERFICIAL_MM]))
    # steps of depth are tenths; float errors must not part them
    return own[["region"]].assign(depth=depth.round(3), mean=mean / superficial)
