"""TCGA-BRCA over its six regions, as FLamby does it: survival from clinical features, by a linear Cox model.

Ogier du Terrail et al. 2022, arXiv 2210.04620; its split, its orders, its mean of C-indices.
"""

from typing import Any

from benchmarks.learning import flamby
from benchmarks.learning.flamby import Settings

REGIONS = ("northeast", "south", "west", "midwest", "europe", "canada")
ORDERS, STEPS, BATCH = 5, 100, 8  # of each site; of each order; FLamby's

# FLamby's own stored results, seeds 42 to 46.
PUBLISHED = {"FedAdam": 0.8152, "FedAvg": 0.7319, "pooled": 0.6759}


def settings(name: str, strategy: Settings, learning_rate: float, **more: Any) -> Settings:
    """The experiment."""
    return flamby.settings(
        name,
        REGIONS,
        {"dataset": "tcga-brca", "standardize": "pooled"},
        strategy,
        ORDERS,
        model={"kind": "cox"},
        training={
            "optimizer": {"name": "sgd", "learning_rate": learning_rate},
            "batch_size": BATCH,
            "steps": STEPS,
        },
        **more,
    )


if __name__ == "__main__":
    flamby.compare(
        "brca",
        "c_index",
        {
            "FedAsync": {"kind": "fedasync"},
            "FedBuff": {"kind": "fedbuff", "buffer_size": 6},
            "FedAvg": {"kind": "fedavg"},
        },
        (0.003, 0.01, 0.03, 0.1),
        settings,
        PUBLISHED,
        {},
    )
