"""UCI Heart Disease over its four hospitals, as FLamby does it.

Ogier du Terrail et al. 2022, arXiv 2210.04620; its split, its preparation, its orders, its mean accuracy.
"""

from typing import Any

from benchmarks.learning import flamby
from benchmarks.learning.flamby import Settings

HOSPITALS = ("cleveland", "hungarian", "switzerland", "va")
ORDERS, STEPS, BATCH = 15, 100, 4  # of each site; of each order; FLamby's

# FLamby's own stored results, seeds 42 to 46.
PUBLISHED = {
    "pooled": 0.7353,
    "FedAdagrad": 0.7314,
    "FedYogi": 0.7314,
    "FedAdam": 0.7255,
    "FedAvg (tuned)": 0.7178,
    "FedAvg": 0.6850,
    "FedAvg, fine-tuned at each site": 0.7351,
}


def settings(name: str, strategy: Settings, learning_rate: float, **more: Any) -> Settings:
    """The experiment."""
    return flamby.settings(
        name,
        HOSPITALS,
        {"dataset": "heart-disease", "standardize": "local"},
        strategy,
        ORDERS,
        model={"kind": "logistic-regression"},
        training={
            "optimizer": {"name": "sgd", "learning_rate": learning_rate},
            "batch_size": BATCH,
            "steps": STEPS,
        },
        **more,
    )


if __name__ == "__main__":
    flamby.compare(
        "heart",
        "accuracy",
        {
            "FedAsync": {"kind": "fedasync"},
            "FedBuff": {"kind": "fedbuff", "buffer_size": 4},
            "FedAvg": {"kind": "fedavg"},
        },
        (0.0001, 0.0003, 0.001, 0.003, 0.01),
        settings,
        PUBLISHED,
        {"an intercept of its own at each site": {"kind": "local-layers", "layers": ["bias"]}},
    )
