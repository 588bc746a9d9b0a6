from pathlib import Path

import pytest

from orchestrator import experiment
from workers.errors import ExperimentError

EXAMPLES = Path(__file__).parents[1] / "examples"
BREAST_CANCER = (EXAMPLES / "breast-cancer.toml").read_text("utf-8")


@pytest.fixture
def file(tmp_path):
    return tmp_path / "mine.toml"


def refusal(file):
    with pytest.raises(ExperimentError) as raised:
        experiment.read(file)
    return str(raised.value)


@pytest.mark.parametrize("example", sorted(EXAMPLES.iterdir()), ids=lambda example: example.name)
def test_every_example_is_valid_and_called_like_its_file(example):
    assert example.suffix == ".toml"
    assert experiment.read(example).name == example.stem


def test_what_the_file_says_is_what_is_read():
    read = experiment.read(EXAMPLES / "two-hospitals.toml")
    assert read.sites == ("hospital-1", "hospital-2")
    assert read.training.optimizer.learning_rate == 0.02
    assert read.strategy.staleness.b == 4
    assert read.watched_metric == "mse"
    assert read.delay("hospital-1", seed=0) == 0.05


def test_a_missing_file_is_named(file):
    assert refusal(file) == f"{file}: cannot be read: [Errno 2] No such file or directory: '{file}'"


def test_a_folder_is_not_an_experiment_file(tmp_path):
    assert refusal(tmp_path).startswith(f"{tmp_path}: cannot be read: [Errno 21] Is a directory")


def test_a_file_that_is_not_toml_is_named_with_the_line(file):
    file.write_text("name = 'x'\nseed = \n")
    message = refusal(file)
    assert message.startswith(f"{file}: is not TOML: ")
    assert "line 2" in message


def test_a_file_that_is_not_utf_8_is_named(file):
    file.write_bytes('name = "café"'.encode("latin-1"))
    message = refusal(file)
    assert message.startswith(f"{file}: cannot be read: ")
    assert "utf-8" in message


def test_an_empty_file_lacks_every_field_that_has_no_default(file):
    file.write_text("")
    fields = ("name", "data", "model", "training", "strategy", "stop")
    lines = [f"  {field}: is missing" for field in fields]
    assert refusal(file).splitlines() == [f"{file}: nothing was started, because of", *lines]


def mistake(written, instead, path, *words):
    return pytest.param(written, instead, path, words, id=f"{path}: {instead or 'left out'}")


@pytest.mark.parametrize(
    ("written", "instead", "path", "words"),
    [
        mistake(
            'kind = "fedasync"',
            'kind = "fedsync"',
            "strategy.kind",
            *("expected one of", "'fedasync'", "'fedbuff'", "'fedavg'", "got 'fedsync'"),
        ),
        mistake('kind = "fedasync"', "", "strategy.kind", "is missing"),
        mistake(
            'kind = "polynomial"',
            'kind = "poly"',
            "strategy.staleness.kind",
            *("expected one of", "'constant'", "'polynomial'", "'hinge'", "got 'poly'"),
        ),
        mistake("mixing_rate = 0.6", "mixing_rate = 1.5", "strategy.mixing_rate", "less", "1", "got 1.5"),
        mistake("mixing_rate = 0.6", "mixing_rate = nan", "strategy.mixing_rate", "finite", "got nan"),
        mistake("batch_size", "batchsize", "training.batchsize", "not a field that is known", "got 16"),
        mistake("seed = 42", "sed = 42", "sed", "not a field that is known", "got 42"),
        mistake("epochs = 1", "epochs = 1\nsteps = 5", "training", "either epochs or steps", "not both"),
        mistake("epochs = 1", "", "training", "either epochs or steps"),
        mistake("epochs = 1", "epochs = 1.5", "training.epochs", "valid integer", "got 1.5"),
        mistake(
            "updates = 200",
            "",
            "stop",
            *("at least one of", "updates", "versions", "seconds", "target", "patience"),
        ),
        mistake("[stop]\nupdates = 200", "", "stop", "is missing"),
        mistake(
            'kind = "logistic-regression"',
            'kind = "linear-regression"',
            "model.kind",
            *("linear-regression predicts regression", "data.dataset = breast-cancer", "binary"),
        ),
        mistake(
            'dataset = "breast-cancer"',
            'dataset = "breast-cancre"',
            "data.dataset",
            *("expected", "'breast-cancer'", "'two-hospitals'", "'wine'", "got 'breast-cancre'"),
        ),
        mistake("holdout = 0.25", "holdout = 1", "data.holdout", "less than 1", "got 1"),
        mistake(
            'kind = "dirichlet", alpha = 1.0',
            'kind = "dirichlet", alpha = 0',
            "data.partition.alpha",
            *("greater than 0", "got 0"),
        ),
        mistake(
            "learning_rate = 0.05",
            "learning_rate = -0.05",
            "training.optimizer.learning_rate",
            *("greater than 0", "got -0.05"),
        ),
        mistake(
            'name = "sgd"',
            'name = "sdg"',
            "training.optimizer.name",
            *("expected one of", "'sgd'", "'adam'", "got 'sdg'"),
        ),
        mistake(
            'metric = "auroc"',
            'metric = "mse"',
            "evaluation.metric",
            *("mse is not measured on binary targets", "expected one of auroc, accuracy, log_loss"),
        ),
        mistake(
            'metric = "auroc"',
            'metric = "auc"',
            "evaluation.metric",
            *("expected", "'auroc'", "'accuracy'", "got 'auc'"),
        ),
        mistake(
            "updates = 200",
            'target = { metric = "r2", value = 0.9 }',
            "stop.target.metric",
            *("r2 is not measured on binary targets", "expected one of auroc, accuracy, log_loss"),
        ),
        mistake('"northgate"', '"lakeside"', "sites", "each name once"),
        mistake('"northgate"', '"North Gate"', "sites.1", "got 'North Gate'"),
        mistake('name = "breast-cancer"', 'name = "../elsewhere"', "name", "got '../elsewhere'"),
        mistake(
            "southpark = 1.0",
            "southgate = 1.0",
            "seconds_per_order",
            *("southgate is not a site", "lakeside, northgate, riverside, southpark, default"),
        ),
        mistake("southpark = 1.0", "southpark = -1.0", "seconds_per_order.southpark", "0", "got -1.0"),
        mistake(
            "southpark = 1.0",
            'southpark = { distribution = "normal", mean = 1 }',
            "seconds_per_order.southpark.distribution",
            *("'exponential', 'half-normal' or 'uniform'", "got 'normal'"),
        ),
    ],
)
def test_a_mistake_is_reported_with_its_place_what_was_expected_and_what_was_found(
    file, written, instead, path, words
):
    assert written in BREAST_CANCER
    file.write_text(BREAST_CANCER.replace(written, instead, 1), "utf-8")
    heading, *mistakes = refusal(file).splitlines()
    assert heading == f"{file}: nothing was started, because of"
    (line,) = mistakes
    assert line.startswith(f"  {path}: ")
    assert [word for word in words if word not in line] == []


def test_several_mistakes_are_reported_at_once(file):
    wrong = BREAST_CANCER.replace("batch_size = 16", "batch_size = 0")
    wrong = wrong.replace('kind = "fedasync"', 'kind = "fedsync"')
    wrong = wrong.replace("learning_rate", "learning_rat")
    file.write_text(wrong.replace("updates = 200", "updates = -1"), "utf-8")
    heading, *mistakes = refusal(file).splitlines()
    assert heading == f"{file}: nothing was started, because of"
    assert [line.split(":")[0].strip() for line in mistakes] == [
        "training.optimizer.learning_rate",
        "training.optimizer.learning_rat",
        "training.batch_size",
        "strategy.kind",
        "stop.updates",
    ]


@pytest.mark.parametrize("value", ["[" * 2000, "9" * 5000], ids=["nested too deep", "a number too long"])
def test_what_the_toml_parser_cannot_bear_is_refused(file, value):
    file.write_text(f"name = {value}")
    assert refusal(file).startswith(f"{file}: is not TOML: ")
