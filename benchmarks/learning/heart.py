"""UCI Heart Disease over its four hospitals, as FLamby does it.

Ogier du Terrail et al. 2022, arXiv 2210.04620; its split, its preparation, its orders, its mean accuracy.
"""

from typing import Any

from benchmarks.learning import rehearsal, study

HOSPITALS = ["cleveland", "hungarian", "switzerland", "va"]
ORDERS, STEPS, BATCH = 15, 100, 4  # of each site; of each order; FLamby's
LEARNING_RATES = (0.0001, 0.0003, 0.001, 0.003, 0.01)  # to choose from

# FLamby's own stored results, seeds 42 to 46.
FLAMBY = {
    "pooled": 0.7353,
    "FedAdagrad": 0.7314,
    "FedYogi": 0.7314,
    "FedAdam": 0.7255,
    "FedAvg (tuned)": 0.7178,
    "FedAvg": 0.6850,
    "FedAvg, fine-tuned at each site": 0.7351,
}

STRATEGIES: dict[str, dict[str, Any]] = {
    "FedAsync": {"kind": "fedasync"},
    "FedBuff": {"kind": "fedbuff", "buffer_size": 4},
    "FedAvg": {"kind": "fedavg"},
}
OWN_INTERCEPT = {"kind": "local-layers", "layers": ["bias"]}


def settings(name: str, strategy: dict[str, Any], learning_rate: float, **more: Any) -> dict[str, Any]:
    """The experiment; Cleveland, the largest centre, is ten times slower than the others."""
    return {
        "name": name,
        "sites": HOSPITALS,
        "data": {"dataset": "heart-disease", "holdout": "given", "standardize": "local"},
        "model": {"kind": "logistic-regression"},
        "training": {
            "optimizer": {"name": "sgd", "learning_rate": learning_rate},
            "batch_size": BATCH,
            "steps": STEPS,
        },
        "strategy": strategy,
        "evaluation": {"every": 1000},
        "stop": {"updates": ORDERS * len(HOSPITALS)},
        "seconds_per_order": {"default": 0.05, "cleveland": 0.5},
        **more,
    }


def main() -> None:
    """Choose a learning rate for each strategy, then run all of it."""
    rows, chosen = [], []
    for name, strategy in STRATEGIES.items():
        rate, scores = rehearsal.best(
            {rate: settings("rehearsal", strategy, rate) for rate in LEARNING_RATES}, "accuracy"
        )
        chosen.append((name, f"{rate:g}", ", ".join(f"{scores[rate]:.4f}" for rate in LEARNING_RATES)))
        found = study.several(settings(name.lower(), strategy, rate, baselines=["alone", "pooled"]))
        rows.append((f"fedelta, {name}", study.spread(run.mean("accuracy") for run in found)))
        if name == "FedAsync":
            for model in ("pooled", "alone"):
                accuracies = study.spread(run.mean("accuracy", model) for run in found)
                rows.append((f"fedelta, {model}", accuracies))
        found = study.several(settings(f"{name.lower()}-own", strategy, rate, personal=OWN_INTERCEPT))
        accuracies = study.spread(run.mean("accuracy", "personal") for run in found)
        rows.append((f"fedelta, {name}, an intercept of its own at each site", accuracies))
    rows += [(f"FLamby, {name}", f"{value:.4f}") for name, value in FLAMBY.items()]
    rates = ", ".join(f"{rate:g}" for rate in LEARNING_RATES)
    study.publish(
        "heart",
        f"{study.table(('', 'mean accuracy of the four hospitals'), rows)}\n\n"
        f"{study.table(('strategy', 'learning rate', f'cross-validated accuracy for {rates}'), chosen)}",
    )


if __name__ == "__main__":
    main()
