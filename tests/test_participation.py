"""A worker's part in a study: its own examples where it was started with a site.toml, and no other file."""

import numpy as np
import pytest

from tasks.ledger import Ledger
from tasks.participation import own_file, participation
from tests.conftest import make_spec, zeros
from tests.test_checking import HEART, site
from tests.test_sources import CLEVELAND, cells_of
from workers import data
from workers.data import load_site
from workers.errors import DataError
from workers.spec import Spec

TARGET = {"kind": "regression", "column": "thalach"}
AT_SITES = {"dataset": "heart", "layout": {"features": ["age"], "target": TARGET}, "standardize": "none"}


@pytest.fixture(autouse=True)
def forget():
    participation.cache_clear()
    yield
    participation.cache_clear()


def submitted(client, **data):
    spec = make_spec(data=data)
    Ledger(client).create("trial", spec, zeros())
    return spec


def test_a_worker_with_a_site_s_file_trains_on_what_it_has(client, tmp_path, monkeypatch):
    monkeypatch.setenv("FEDELTA_SITE_FILE", str(site(tmp_path, HEART)))
    submitted(client, **AT_SITES)
    part = participation("trial", "a")
    ages = [float(row[0]) for row in cells_of(CLEVELAND)]
    found = np.concatenate([part.data.train.features, part.data.holdout.features])
    assert sorted(found[:, 0].tolist()) == sorted(ages)
    assert own_file().name == "lakeside"


def test_a_worker_without_one_has_nothing_of_its_own(client):
    assert own_file() is None
    submitted(client, **AT_SITES)
    with pytest.raises(DataError, match="its site.toml has no data set 'heart'"):
        participation("trial", "a")


@pytest.mark.parametrize("has_data", [True, False])
def test_a_file_that_the_centre_names_is_never_opened_where_there_is_a_site_s_file(
    client, tmp_path, monkeypatch, has_data
):
    monkeypatch.setattr(data, "_whole", lambda *_: pytest.fail("it is opened"))
    monkeypatch.setenv("FEDELTA_SITE_FILE", str(site(tmp_path, *([HEART] if has_data else []))))
    layout = {"features": ["age"], "target": TARGET}
    submitted(client, file=str(CLEVELAND), site_column="sex", layout=layout)
    with pytest.raises(DataError, match="expected a data set of its site.toml"):
        participation("trial", "a")


def test_a_site_without_data_takes_part_in_a_trial_of_public_data_and_one_with_data_does_not():
    trial = make_spec(data={"dataset": "two-hospitals", "partition": {"kind": "iid"}})
    spec = Spec(experiment=trial.experiment, schema=trial.schema)
    assert len(load_site(spec, "a", {}).train) > 0
    with pytest.raises(DataError, match="expected a data set of its site.toml, got two-hospitals"):
        load_site(spec, "a", {"heart": None})
