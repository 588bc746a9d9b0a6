"""TCGA-BRCA over its six regions, as FLamby does it: survival from clinical features, by a linear Cox model.

Ogier du Terrail et al. 2022, arXiv 2210.04620; its split, its orders, its mean of C-indices.
"""

from typing import Any

from benchmarks.learning import rehearsal, study

REGIONS = ["region-0", "region-1", "region-2", "region-3", "region-4", "region-5"]
ORDERS, STEPS, BATCH = 5, 100, 8  # of each site; of each order; FLamby's
LEARNING_RATES = (0.003, 0.01, 0.03, 0.1)  # to choose from

# FLamby's own stored results, seeds 42 to 46.
FLAMBY = {"FedAdam": 0.8152, "FedAvg": 0.7319, "pooled": 0.6759}

STRATEGIES: dict[str, dict[str, Any]] = {
    "FedAsync": {"kind": "fedasync"},
    "FedBuff": {"kind": "fedbuff", "buffer_size": 6},
    "FedAvg": {"kind": "fedavg"},
}


def settings(name: str, strategy: dict[str, Any], learning_rate: float, **more: Any) -> dict[str, Any]:
    """The experiment; the largest region is ten times slower than the others."""
    return {
        "name": name,
        "sites": REGIONS,
        "data": {"dataset": "tcga-brca", "holdout": "given", "standardize": "pooled"},
        "model": {"kind": "cox"},
        "training": {
            "optimizer": {"name": "sgd", "learning_rate": learning_rate},
            "batch_size": BATCH,
            "steps": STEPS,
        },
        "strategy": strategy,
        "evaluation": {"every": 1000},
        "stop": {"updates": ORDERS * len(REGIONS)},
        "seconds_per_order": {"default": 0.05, "region-0": 0.5},
        **more,
    }


def main() -> None:
    """Choose a learning rate for each strategy, then run all of it."""
    rows, chosen = [], []
    for name, strategy in STRATEGIES.items():
        rate, scores = rehearsal.best(
            {rate: settings("rehearsal", strategy, rate) for rate in LEARNING_RATES}, "c_index"
        )
        chosen.append((name, f"{rate:g}", ", ".join(f"{scores[rate]:.4f}" for rate in LEARNING_RATES)))
        found = study.several(settings(name.lower(), strategy, rate, baselines=["alone", "pooled"]))
        rows.append((f"fedelta, {name}", study.spread(run.mean("c_index") for run in found)))
        if name == "FedAsync":
            for model in ("pooled", "alone"):
                rows.append((f"fedelta, {model}", study.spread(run.mean("c_index", model) for run in found)))
    rows += [(f"FLamby, {name}", f"{value:.4f}") for name, value in FLAMBY.items()]
    rates = ", ".join(f"{rate:g}" for rate in LEARNING_RATES)
    study.publish(
        "brca",
        f"{study.table(('', 'mean C-index of the six regions'), rows)}\n\n"
        f"{study.table(('strategy', 'learning rate', f'cross-validated C-index for {rates}'), chosen)}",
    )


if __name__ == "__main__":
    main()
