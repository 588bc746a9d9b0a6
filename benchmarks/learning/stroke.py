"""The International Stroke Trial: one table, a column of hospitals, and what is known at randomisation.

Sandercock et al. 2011, doi 10.1186/1745-6215-12-101 (ODC-By). Target: dead or dependent after six months.
"""

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.learning import study
from tasks import environment

MIN_PATIENTS = 50
YES = ["N", "Y"]
CATEGORIES = {
    "RCONSC": ["F", "D", "U"],  # fully alert, drowsy, unconscious
    "SEX": ["F", "M"],
    **dict.fromkeys(("RSLEEP", "RATRIAL", "RCT", "RVISINF", "RASP3"), YES),
    **{f"RDEF{number}": ["N", "Y", "C"] for number in range(1, 9)},  # deficits; C: cannot be assessed
    "STYPE": ["LACS", "PACS", "POCS", "TACS", "OTH"],
}
NUMBERS = ["RDELAY", "AGE", "RSBP"]


def settings(strategy: dict[str, Any], min_patients: int = MIN_PATIENTS, **more: Any) -> dict[str, Any]:
    """The experiment, over the hospitals with so many patients."""
    table = (environment.data_dir() or Path()) / "stroke-trial" / "ist.csv.gz"
    return {
        "name": f"stroke-{strategy['kind']}",
        "data": {
            "file": str(table.absolute()),
            "site_column": "HOSPNUM",
            "min_examples": min_patients,
            "layout": {
                "features": [*NUMBERS, *CATEGORIES],
                "categories": CATEGORIES,
                "drop_first": True,
                "target": {
                    "kind": "binary",
                    "column": "OCCODE",
                    "classes": {"independent": ["3", "4"], "dead or dependent": ["1", "2"]},
                    "others": "drop",
                },
            },
        },
        "model": {"kind": "logistic-regression"},
        "training": {"optimizer": {"name": "sgd", "learning_rate": 0.01}, "batch_size": 16, "epochs": 1},
        "strategy": strategy,
        "evaluation": {"every": 1000},
        "stop": {"updates": 1500},
        **more,
    }


def main() -> None:
    """Run all of it."""
    rows = []
    for name, strategy in (
        ("FedAsync", {"kind": "fedasync", "mixing_rate": 0.1}),
        ("FedBuff", {"kind": "fedbuff", "buffer_size": 10}),
    ):
        more = {"baselines": ["alone", "pooled"], "personal": {"kind": "local-layers", "layers": ["bias"]}}
        found = study.several(settings(strategy, **more))
        # What stands beside them does not depend on the strategy.
        for model in ("global", "personal") if rows else ("pooled", "alone", "global", "personal"):
            at_sites = [list(run.at_sites("auroc", model).values()) for run in found]
            rows.append(
                (
                    f"{name}, {model}" if model in ("global", "personal") else model,
                    study.spread(run.weighted_mean("auroc", model) for run in found),
                    study.spread(run.weighted_mean("log_loss", model) for run in found),
                    *(
                        f"{np.mean([np.quantile(site, share) for site in at_sites]):.3f}"
                        for share in (0.1, 0.5, 0.9)
                    ),
                )
            )
    columns = ("", "AUROC, weighted mean", "log loss", "AUROC, 10 %", "median", "90 % of hospitals")
    study.publish("stroke", study.table(columns, rows))


if __name__ == "__main__":
    main()
