"""What models come out: fedelta's results beside the literature's, each by one command.

    python -m benchmarks.learning.heart      the four hospitals of UCI Heart Disease, as in FLamby
    python -m benchmarks.learning.brca       TCGA-BRCA's six regions, as in FLamby
    python -m benchmarks.learning.medmnist   BreastMNIST and PneumoniaMNIST over 8 hospitals
    python -m benchmarks.learning.stroke     the hospitals of the International Stroke Trial
    python -m benchmarks.learning.straggler  time to the same AUROC, with one hospital ten times slower
    python -m benchmarks.learning.compressed  fewer bytes, and what they cost

Every run is a real one (`fedelta run`: Redis, coordinator, worker), with seeds 42 to 46. A command writes its
section of docs/results.md. FEDELTA_DATA_DIR says where the data sets are (`fedelta data list`).
"""
