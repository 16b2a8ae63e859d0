"""Clinical tables of the phantom: what stands in them holds together."""

import pandas as pd
import pytest

from bids_alsmri.bids.clinical import read_clinical_table
from bids_alsmri.bids.clinical_checks import check_clinical
from bids_alsmri.errors import SettingsError
from bids_alsmri.phantom.clinical import write_clinical_dataset
from bids_alsmri.phantom.cohort import draw_cohort

PEOPLE = draw_cohort(("hc",) * 6 + ("fast",) * 20 + ("slow",) * 20, 4)
VISITS = ("m00", "m04", "m12")


@pytest.fixture(scope="module")
def visits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clinical") / "raw"
    write_clinical_dataset(folder, PEOPLE, sessions=VISITS, seed=4)
    return folder, read_clinical_table(folder)


def test_no_value_is_rejected_and_items_make_their_sums(visits):
    found = check_clinical(visits[1])
    assert found.rejected.values.tolist() == []
    assert found.warnings == ()


def test_patients_leave_and_controls_stay(visits):
    seen = visits[1].visits.groupby(["group", "session_id"])["participant_id"].nunique()
    assert seen["hc"].tolist() == [6, 6, 6]
    first, second, third = seen["als"]
    # Jenkins 2020: 16 of 29 are lost; of 40, 22 with a standard error of 3
    assert first == 40
    assert third < second <= first
    assert abs(40 - third - 22) < 10


def test_the_weak_have_fewer_and_larger_motor_units(visits):
    base = visits[1].visits
    base = base[(base["session_id"] == "ses-m00")]
    ill = base["group"] == "als"
    for name, sign in (("munix_tibialis_anterior", -1), ("musix_tibialis_anterior", 1)):
        assert sign * (base.loc[ill, name].mean() - base.loc[~ill, name].mean()) > 0
    assert (base.loc[~ill, "mrc_sum"] == 170).all()


def test_every_column_is_described(visits):
    folder, _ = visits
    for path in (folder / "phenotype").glob("*.tsv"):
        columns = pd.read_csv(path, sep="\t", nrows=0).columns
        described = pd.read_json(path.with_suffix(".json"), typ="series")
        assert set(columns) - {"participant_id", "session_id"} <= set(described.index)


def test_the_same_seed_writes_the_same_tables(visits, tmp_path):
    write_clinical_dataset(tmp_path / "again", PEOPLE, sessions=VISITS, seed=4)
    for path in (visits[0] / "phenotype").iterdir():
        assert (tmp_path / "again" / "phenotype" / path.name).read_bytes() == path.read_bytes()


def test_a_session_without_months_is_refused(tmp_path):
    with pytest.raises(SettingsError, match="'first' holds no number"):
        write_clinical_dataset(tmp_path / "raw", PEOPLE[:2], sessions=("first",), seed=1)
