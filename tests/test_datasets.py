import csv
from collections import Counter

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split

from tests.conftest import PUBLISHED
from workers import data, datasets, partitions
from workers.catalogue import CATALOGUE
from workers.data_settings import GIVEN, GROUPED, TARGET_KINDS, Data, Dirichlet, Iid, Natural
from workers.datasets import LOADERS, heart_disease, two_hospitals
from workers.errors import DataError
from workers.models import LogisticRegression
from workers.spec import Experiment, LocalTraining, Spec, Stop
from workers.strategies import FedAsync

HOSPITALS = ("cleveland", "hungarian", "switzerland", "va")


@pytest.fixture(scope="module")
def loaded():
    return {name: datasets.load(name, 0) for name in LOADERS}


def test_loaders_catalogue_and_target_kinds_speak_of_the_same_data_sets():
    assert set(LOADERS) == set(TARGET_KINDS) == set(CATALOGUE)
    assert {name for name, entry in CATALOGUE.items() if entry.num_test} == GIVEN
    assert {name for name, entry in CATALOGUE.items() if entry.sites} == {*GROUPED, "two-hospitals"}


@pytest.mark.parametrize("name", LOADERS)
def test_every_data_set_is_finite_and_as_the_catalogue_says(loaded, name):
    dataset, entry = loaded[name], CATALOGUE[name]
    is_image = dataset.features.ndim == 4
    assert dataset.features.shape == (entry.num_examples, *entry.shape)
    assert dataset.features.shape[-1] == len(dataset.feature_names) == len(set(dataset.feature_names))
    assert dataset.features.dtype == (np.float32 if is_image else np.float64)
    assert dataset.targets.dtype == np.float64 and len(dataset.targets) == entry.num_examples
    assert np.isfinite(dataset.features).all() and np.isfinite(dataset.targets).all()


def test_breast_cancer_is_scikit_learns(loaded):
    found, expected = loaded["breast-cancer"], load_breast_cancer()
    np.testing.assert_array_equal(found.features, expected.data, strict=True)
    np.testing.assert_array_equal(found.targets, expected.target)
    assert found.feature_names == tuple(expected.feature_names)
    assert found.classes == tuple(expected.target_names)


@pytest.mark.parametrize("name", LOADERS)
def test_groups_and_test_set_are_as_the_catalogue_says(loaded, name):
    dataset, entry = loaded[name], CATALOGUE[name]
    if entry.sites:
        assert np.unique(dataset.groups).tolist() == list(range(len(entry.sites)))
    else:
        assert dataset.groups is None
    if entry.num_test:
        assert dataset.is_test.dtype == np.bool_ and dataset.is_test.shape == (len(dataset),)
        assert dataset.is_test.sum() == entry.num_test
    else:
        assert dataset.is_test is None
    if name in GROUPED:
        assert dataset.group_names == entry.sites


@pytest.mark.parametrize("name", LOADERS)
def test_the_kind_of_target_is_right_for_the_targets(loaded, name):
    dataset, target_kind = loaded[name], TARGET_KINDS[name]
    if target_kind == "regression":
        assert dataset.classes == ()
        assert len(set(dataset.targets)) > 100
    elif target_kind == "survival":
        assert dataset.classes == () and dataset.targets.shape == (len(dataset), 2)
        assert (dataset.targets[:, 0] >= 0).all()
        assert set(dataset.targets[:, 1]) == {0, 1}
    else:
        assert sorted(set(dataset.targets)) == list(range(len(dataset.classes)))
        assert (len(dataset.classes) == 2) == (target_kind == "binary")


@pytest.mark.parametrize(
    ("name", "shape", "classes"),
    [
        ("breast-cancer", (569, 30), ("malignant", "benign")),
        ("diabetes", (442, 10), ()),
        ("digits", (1797, 64), tuple("0123456789")),
        ("iris", (150, 4), ("setosa", "versicolor", "virginica")),
        ("two-hospitals", (2000, 1), ()),
        ("wine", (178, 13), ("class_0", "class_1", "class_2")),
    ],
)
def test_data_sets_of_scikit_learn_are_the_published_ones(loaded, name, shape, classes):
    assert (loaded[name].features.shape, loaded[name].classes) == (shape, classes)


def test_the_seed_draws_the_two_hospitals_and_changes_nothing_else():
    for name in LOADERS:
        one, same, other = (datasets.load(name, seed) for seed in (1, 1, 2))
        np.testing.assert_array_equal(one.features, same.features)
        np.testing.assert_array_equal(one.targets, same.targets)
        assert np.array_equal(one.features, other.features) == (name != "two-hospitals")


@pytest.mark.parametrize(("group", "low", "high", "slope"), [(0, 0, 10, 3), (1, 5, 15, 4)])
def test_two_hospitals_follow_the_law_that_is_documented(group, low, high, slope):
    dataset = two_hospitals.draw(seed=0)
    chosen = dataset.groups == group
    x, y = dataset.features[chosen, 0], dataset.targets[chosen]
    noise = y - slope * x
    assert chosen.sum() == 1000
    assert low <= x.min() < low + 0.2 and high - 0.2 < x.max() < high
    assert 0 <= noise.min() < 0.05 and 1.95 < noise.max() < 2
    # Means of 1,000 uniform draws: standard errors 0.09 and 0.02.
    assert x.mean() == pytest.approx((low + high) / 2, abs=0.4)
    assert noise.mean() == pytest.approx(1.0, abs=0.08)
    assert abs(np.corrcoef(x, noise)[0, 1]) < 0.1


def patients(hospital):
    """The hospital's file as text: 14 columns."""
    with (PUBLISHED / "heart-disease" / f"processed.{hospital}.data").open() as file:
        return list(csv.reader(file))


# "Class Distribution" of UCI's heart-disease.names: degrees of narrowing 0 to 4; the Hungarian file has 1 for
# each of the 37, 26, 28 and 15 patients of degrees 1 to 4.
@pytest.mark.parametrize(
    ("hospital", "degrees"),
    [
        ("cleveland", [164, 55, 36, 35, 13]),
        ("hungarian", [188, 37 + 26 + 28 + 15]),
        ("switzerland", [8, 48, 32, 30, 5]),
        ("va", [51, 56, 41, 42, 10]),
    ],
)
def test_the_hospitals_files_have_the_classes_that_uci_publishes(hospital, degrees):
    assert np.bincount([int(row[13]) for row in patients(hospital)]).tolist() == degrees


def test_heart_disease_has_the_counts_that_flamby_publishes(loaded):
    dataset = loaded["heart-disease"]
    assert np.bincount(dataset.groups[~dataset.is_test]).tolist() == [199, 172, 30, 85]
    assert np.bincount(dataset.groups[dataset.is_test]).tolist() == [104, 89, 16, 45]
    assert [int(dataset.targets[dataset.groups == group].sum()) for group in range(4)] == [139, 98, 45, 101]


@pytest.mark.parametrize("group", range(4))
def test_heart_disease_is_prepared_and_split_as_flamby_does_it(loaded, group):
    rows = [row[:10] + row[13:] for row in patients(HOSPITALS[group])]
    rows = np.array([row for row in rows if "?" not in row], float)
    is_diseased = rows[:, -1] > 0
    _, test = train_test_split(
        range(len(rows)),
        test_size=1.0 - 0.66,
        train_size=0.66,
        random_state=43,
        # Of the Swiss patients with no value missing a single one is healthy.
        stratify=None if HOSPITALS[group] == "switzerland" else is_diseased,
    )
    dataset = loaded["heart-disease"]
    site = dataset[dataset.groups == group]
    assert np.flatnonzero(site.is_test).tolist() == sorted(test)
    np.testing.assert_array_equal(site.targets, is_diseased)
    raw = site.features + [0, 0, 1, 0, 0, 0, 0, 0, 0, 0]  # chest pain is 1 to 4 in the file
    np.testing.assert_array_equal(raw, rows[:, :-1])


def test_the_model_sees_heart_disease_as_13_inputs(loaded):
    schema = data.schema_of(Data(dataset="heart-disease"))
    assert schema.inputs == (
        *("age", "sex", "cp = 2", "cp = 3", "cp = 4", "trestbps", "chol", "fbs"),
        *("restecg = 1", "restecg = 2", "thalach", "exang", "oldpeak"),
    )
    first = schema.encoded(loaded["heart-disease"].features)[1]
    # 67.0,1.0,4.0,160.0,286.0,0.0,2.0,108.0,1.0,1.5 in processed.cleveland.data
    assert first.tolist() == [67, 1, 0, 0, 1, 160, 286, 0, 0, 1, 108, 1, 1.5]


def test_a_category_of_heart_disease_is_its_code_in_the_files():
    for name, codes in heart_disease.CATEGORIES.items():
        column = heart_disease.FEATURES.index(name)
        found = {row[column] for hospital in HOSPITALS for row in patients(hospital)} - {"?"}
        assert {str(int(float(code))) for code in found} == set(codes)


def table(name):
    with (PUBLISHED / "tcga-brca" / name).open() as file:
        return list(csv.DictReader(file))


def test_tcga_brca_has_the_counts_that_flamby_publishes(loaded):
    dataset = loaded["tcga-brca"]
    assert np.bincount(dataset.groups[~dataset.is_test]).tolist() == [248, 156, 164, 129, 129, 40]
    assert np.bincount(dataset.groups[dataset.is_test]).tolist() == [63, 40, 42, 33, 33, 11]


def test_every_patient_of_tcga_brca_is_in_the_region_where_the_tissue_was_taken(loaded):
    region_of = {row["TSS Code"]: row["Region"].lower() for row in table("centers.csv")}
    listed = {row["pid"] for row in table("train_test_split.csv")}
    in_order = [region_of[row["pid"][5:7]] for row in table("brca.csv") if row["pid"] in listed]
    dataset = loaded["tcga-brca"]
    assert [dataset.group_names[group] for group in dataset.groups] == in_order


def test_patients_of_tcga_brca_are_those_of_the_split_with_their_own_features_days_and_deaths(loaded):
    fold_of = {row["pid"]: row["fold"] for row in table("train_test_split.csv")}
    rows = [row for row in table("brca.csv") if row["pid"] in fold_of]
    dataset = loaded["tcga-brca"]
    assert dataset.targets[:, 0].tolist() == [float(row["T"]) for row in rows]
    assert dataset.targets[:, 1].tolist() == [float(row["E"]) for row in rows]
    assert dataset.is_test.tolist() == [fold_of[row["pid"]] == "test" for row in rows]
    for column, name in enumerate(dataset.feature_names):
        assert dataset.features[:, column].tolist() == [float(row[name]) for row in rows]
    assert {"pid", "E", "T"}.isdisjoint(dataset.feature_names)


# Al-Dhabyani et al. 2020: 133 normal, 437 benign, 210 malignant. Kermany et al. 2018: 1,349 and 3,883 to
# train on, 234 and 390 to test on.
@pytest.mark.parametrize(
    ("name", "train", "test"),
    [("breastmnist", [210 - 42, 133 + 437 - 114], [42, 114]), ("pneumoniamnist", [1349, 3883], [234, 390])],
)
def test_images_have_the_classes_that_are_published(loaded, name, train, test):
    dataset = loaded[name]
    assert np.bincount(dataset.targets[~dataset.is_test].astype(int)).tolist() == train
    assert np.bincount(dataset.targets[dataset.is_test].astype(int)).tolist() == test


@pytest.mark.parametrize("name", ["breastmnist", "pneumoniamnist"])
def test_images_are_the_publishers_with_black_0_and_white_1(loaded, name):
    dataset, arrays = loaded[name], np.load(PUBLISHED / "medmnist" / f"{name}.npz")
    num_train = len(arrays["train_images"])
    assert (dataset.features.min(), dataset.features.max()) == (0, 1)
    for chosen, split in (
        (slice(num_train), "train"),
        (slice(num_train, len(dataset) - dataset.is_test.sum()), "val"),
        (dataset.is_test, "test"),
    ):
        np.testing.assert_array_equal(dataset.targets[chosen], arrays[f"{split}_labels"][:, 0])
        pixels = np.rint(dataset.features[chosen, :, :, 0] * 255)
        np.testing.assert_array_equal(pixels, arrays[f"{split}_images"])


def test_khan_has_the_tumours_that_the_paper_publishes(loaded):
    dataset = loaded["khan"]
    for chosen, split, counts in (
        (~dataset.is_test, "train", {"BL": 8, "EWS": 23, "NB": 12, "RMS": 20}),
        (dataset.is_test, "test", {"BL": 3, "EWS": 6, "NB": 6, "RMS": 5}),
    ):
        tumours = [dataset.classes[int(target)] for target in dataset.targets[chosen]]
        assert Counter(tumours) == counts
        with (PUBLISHED / "khan" / f"Khan_x{split}.csv").open() as file:
            names, *rows = csv.reader(file)
        assert dataset.feature_names == tuple(names)
        np.testing.assert_array_equal(dataset.features[chosen], np.array(rows, float))


def experiment_of(name, sites, **options):
    return Experiment(
        name="trial",
        sites=sites,
        data=Data(dataset=name, holdout="given", **options),
        model=LogisticRegression(),
        training=LocalTraining(epochs=1),
        strategy=FedAsync(),
        stop=Stop(updates=1),
    )


def load_all(experiment):
    spec = Spec(experiment=experiment, schema=data.describe(experiment))
    return [data.load_site(spec, site) for site in experiment.sites]


def test_hospitals_hold_out_their_own_part_of_the_given_test_set(loaded):
    sites = load_all(experiment_of("heart-disease", HOSPITALS, standardize="none"))
    assert [len(site.train) for site in sites] == [199, 172, 30, 85]
    assert [len(site.holdout) for site in sites] == [104, 89, 16, 45]
    schema = data.schema_of(Data(dataset="heart-disease"))
    dataset = loaded["heart-disease"]
    test = schema.encoded(dataset.features[dataset.is_test]).astype(np.float32)
    np.testing.assert_array_equal(np.concatenate([site.holdout.features for site in sites]), test)


EIGHT = tuple(f"site{number}" for number in range(8))


@pytest.mark.parametrize(
    ("name", "sites", "partition"),
    [
        ("breastmnist", EIGHT, Dirichlet(alpha=0.3)),
        ("pneumoniamnist", EIGHT, Dirichlet(alpha=0.3)),
        ("pneumoniamnist", EIGHT, Iid()),
        ("khan", EIGHT[:4], Dirichlet(alpha=0.5)),
        ("khan", EIGHT, Iid()),
    ],
)
def test_every_site_has_its_part_of_a_given_test_set(loaded, name, sites, partition):
    experiment = experiment_of(name, sites, partition=partition)
    found, dataset = load_all(experiment), loaded[name]
    assert sum(len(site.holdout) for site in found) == dataset.is_test.sum()
    assert sum(len(site.train) for site in found) == (~dataset.is_test).sum()
    assert all(len(site.train) and len(site.holdout) for site in found)
    if isinstance(partition, Iid):
        for parts in ([len(site.train) for site in found], [len(site.holdout) for site in found]):
            assert max(parts) - min(parts) <= 1


def test_both_parts_of_a_site_have_its_mix_of_classes(loaded):
    dataset = loaded["pneumoniamnist"]
    for part in partitions.split(dataset, Dirichlet(alpha=0.3), 8, seed=0):
        site = dataset[part]
        for label in (0, 1):
            of_class = dataset.targets == label
            whole_share = (of_class & dataset.is_test).sum() / of_class.sum()
            mine = site.targets == label
            assert abs((mine & site.is_test).sum() - whole_share * mine.sum()) < 2


def test_a_draw_that_leaves_a_site_nothing_to_test_on_is_no_good(loaded):
    with pytest.raises(DataError, match="gave each of 21 sites 1 of 83 examples, or some to test on; take"):
        partitions.split(loaded["khan"], Dirichlet(alpha=5.0, min_examples=1), 21, seed=0)


def test_the_first_site_has_the_first_region_and_all_of_it(loaded):
    dataset = loaded["tcga-brca"]
    parts = partitions.split(dataset, Natural(), 6, seed=0)
    assert [len(part) for part in parts] == [311, 196, 206, 162, 162, 51]


def test_who_names_too_few_sites_is_told_the_hospitals():
    with pytest.raises(DataError) as raised:
        data.describe(experiment_of("heart-disease", HOSPITALS[:3]))
    assert str(raised.value) == (
        "data.partition: natural needs a data set with 3 groups, one for each site; "
        "this one has 4: cleveland, hungarian, switzerland, va"
    )
