"""What fedelta's own data sets are, and where their originals come from: known without loading one."""

from collections.abc import Mapping
from dataclasses import dataclass

UCI = "https://archive.ics.uci.edu/ml/machine-learning-databases/heart-disease"
MEDMNIST = "https://zenodo.org/records/10519652/files"
FLAMBY = "https://raw.githubusercontent.com/owkin/FLamby"  # brca.csv and its split: each at its own commit
ISLP = "https://raw.githubusercontent.com/jonathan-taylor/ISLP/033162b2c9a35a0bd5d73578ed0cc5de1090856d/ISLP/data"


@dataclass(frozen=True, kw_only=True)
class Original:
    """A file as its publisher has it."""

    name: str
    url: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One data set."""

    num_examples: int
    num_test: int = 0  # of these: those that the data set itself sets apart for tests
    shape: tuple[int, ...]  # of one raw example
    sites: tuple[str, ...] = ()  # whose the examples are, where the data set says so: groups 0, 1, ...
    source: str
    licence: str
    originals: tuple[Original, ...] = ()  # none: it comes with scikit-learn, or is drawn


def _uci(site: str, sha256: str) -> Original:
    name = f"processed.{site}.data"
    return Original(name=name, url=f"{UCI}/{name}", sha256=sha256)


def _medmnist(name: str, sha256: str) -> Original:
    return Original(name=name, url=f"{MEDMNIST}/{name}?download=1", sha256=sha256)


def _flamby(commit: str, path: str, sha256: str) -> Original:
    url = f"{FLAMBY}/{commit}/flamby/datasets/fed_tcga_brca/{path}"
    return Original(name=path.rpartition("/")[2], url=url, sha256=sha256)


def _islp(name: str, sha256: str) -> Original:
    return Original(name=name, url=f"{ISLP}/{name}", sha256=sha256)


CATALOGUE: Mapping[str, Entry] = {
    "breast-cancer": Entry(
        num_examples=569,
        shape=(30,),
        source="UCI data set 17, in scikit-learn",
        licence="CC BY 4.0",
    ),
    "breastmnist": Entry(
        num_examples=780,
        num_test=156,
        shape=(28, 28, 1),
        source="MedMNIST v2, Zenodo record 10519652",
        licence="CC BY 4.0",
        originals=(
            _medmnist("breastmnist.npz", "3a22d2a4625e7dd8903f0f59030e81a3d0c222bece2e5e10927456cb50efdec1"),
        ),
    ),
    "diabetes": Entry(
        num_examples=442,
        shape=(10,),
        source="Efron et al. 2004, in scikit-learn",
        licence="none stated",
    ),
    "digits": Entry(
        num_examples=1797,
        shape=(64,),
        source="UCI data set 80, in scikit-learn",
        licence="CC BY 4.0",
    ),
    "heart-disease": Entry(
        num_examples=740,
        num_test=254,
        shape=(10,),
        sites=("cleveland", "hungarian", "switzerland", "va"),
        source="UCI data set 45",
        licence="CC BY 4.0",
        originals=(
            _uci("cleveland", "a74b7efa387bc9d108d7d0115d831fe9b414b29ae7124f331b622b4efa0427c8"),
            _uci("hungarian", "d1ad108f785768cd3d7e82dc522e6f5a61eea93cccfb3a46ee8076f73fc3d796"),
            _uci("switzerland", "834a405ccf5b66ab4056bb77794adc8df0b7125186454c0a1d002d33c6c3b314"),
            _uci("va", "e7c93d8d0d2acdadfa4c5e8de768e2191e7f618b952e29623f1f0d5949ff6b8f"),
        ),
    ),
    "iris": Entry(
        num_examples=150,
        shape=(4,),
        source="UCI data set 53, in scikit-learn",
        licence="CC BY 4.0",
    ),
    "khan": Entry(
        num_examples=83,
        num_test=20,
        shape=(2308,),
        source="Khan et al. 2001, as in the ISLP package",
        licence="BSD",
        originals=(
            _islp("Khan_xtrain.csv", "12148ef490588eb8ac9de3edc89551962a0499bfe78f39726ad58d8d72fd8e90"),
            _islp("Khan_ytrain.csv", "ac58f9c840e9e7c47bd17494cf0fe23e7fc9b5371e0d54c1a2a6038f45f637ab"),
            _islp("Khan_xtest.csv", "f620e7c092bebd62697c48d0eb586a94533aea9cc98b2ecb65a8c8c2bfe2d05d"),
            _islp("Khan_ytest.csv", "92fe0d43b0bb8351873102ca3651a39766c3708da37cf30042fa0fdc58ba01eb"),
        ),
    ),
    "pneumoniamnist": Entry(
        num_examples=5856,
        num_test=624,
        shape=(28, 28, 1),
        source="MedMNIST v2, Zenodo record 10519652",
        licence="CC BY 4.0",
        originals=(
            _medmnist(
                "pneumoniamnist.npz", "e1792d3f03751cb101e99f19a63b3c1941436c988665f47853417b05be250cd8"
            ),
        ),
    ),
    "tcga-brca": Entry(
        num_examples=1088,
        num_test=222,
        shape=(39,),
        sites=("northeast", "south", "west", "midwest", "europe", "canada"),
        source="TCGA-BRCA, as in FLamby",
        licence="open access",
        originals=(
            _flamby(
                "57a7e5c8f2bc26929c239e217ed3a41d6252bd53",
                "brca.csv",
                "07cb53423f7d579d33cfdbf2cba57b2aee75318b85866c68ce39a75b1f1ba020",
            ),
            _flamby(
                "1b37901a15c316d16d4b9d5705aaefa5a803dba3",
                "dataset_creation_scripts/train_test_split.csv",
                "1249c6543a4060ff0fdaf8510fc37017755836db6c9fc5e6af96057c36510990",
            ),
        ),
    ),
    "two-hospitals": Entry(
        num_examples=2000,
        shape=(1,),
        sites=("first", "second"),
        source="drawn by fedelta",
        licence="Apache-2.0",
    ),
    "wine": Entry(
        num_examples=178,
        shape=(13,),
        source="UCI data set 109, in scikit-learn",
        licence="CC BY 4.0",
    ),
}
