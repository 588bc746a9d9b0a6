"""Which examples an experiment is about: `[data]` of the experiment file.

One of fedelta's data sets by name, shared out among the sites; a user's own table, shared out by its column
of sites; or what every site has at home under one name in its `site.toml`.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Annotated, Literal, TypeAlias

from pydantic import Discriminator, Field, Strict, Tag, model_validator

from workers.models import TargetKind
from workers.settings import Name, PositiveFloat, PositiveInt, settings

# fedelta's own, with their kinds of target: known without loading, so that a wrong file is answered at once.
TARGET_KINDS: Mapping[str, TargetKind] = {
    "breast-cancer": "binary",
    "breastmnist": "binary",
    "diabetes": "regression",
    "digits": "multiclass",
    "heart-disease": "binary",
    "iris": "multiclass",
    "khan": "multiclass",
    "pneumoniamnist": "binary",
    "tcga-brca": "survival",
    "two-hospitals": "regression",
    "wine": "multiclass",
}

GROUPED = frozenset({"heart-disease", "tcga-brca"})  # that say which hospital has which example
GIVEN = frozenset({"breastmnist", "heart-disease", "khan", "pneumoniamnist", "tcga-brca"})  # with a test set

Text: TypeAlias = Annotated[str, Field(min_length=1, max_length=200)]
Values: TypeAlias = Annotated[tuple[Text, ...], Field(min_length=1)]


@settings
class Iid:
    """Every site draws from the whole: equal sizes, the same mix."""

    kind: Literal["iid"] = "iid"


@settings
class Dirichlet:
    """Each class is spread over the sites by one draw of Dir(alpha): unequal sizes and label mixes.

    The smaller alpha, the more unequal (Yurochkin et al. 2019, arXiv 1905.12022, section 4).
    """

    kind: Literal["dirichlet"] = "dirichlet"
    alpha: PositiveFloat = 0.5
    min_examples: PositiveInt = 10  # per site; drawn again until every site has them


@settings
class Natural:
    """As the data set says: its first group of examples is the first site's, and so on."""

    kind: Literal["natural"] = "natural"


Partition: TypeAlias = Annotated[Iid | Dirichlet | Natural, Field(discriminator="kind")]


@settings
class _OneColumn:
    """A target that is one column."""

    column: Text

    @property
    def name(self) -> str:
        """What is predicted."""
        return self.column

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that it needs."""
        return (self.column,)


@settings
class ClassTarget(_OneColumn):
    """A column that tells classes apart, and which of its values mean which class; class 0 is the first."""

    kind: Literal["binary", "multiclass"]
    classes: Annotated[dict[Text, Values], Field(min_length=2)]
    others: Literal["refuse", "drop"] = "refuse"  # rows whose value is none of these

    @model_validator(mode="after")
    def _are_apart(self) -> "ClassTarget":
        if self.kind == "binary" and len(self.classes) != 2:
            raise ValueError(f"classes: expected two of a binary target, got {len(self.classes)}")
        values = [value for meant in self.classes.values() for value in meant]
        if twice := sorted({value for value in values if values.count(value) > 1}):
            raise ValueError(f"classes: expected each value once, got {', '.join(twice)} again")
        return self


@settings
class NumberTarget(_OneColumn):
    """A column of numbers."""

    kind: Literal["regression"]


@settings
class SurvivalTarget:
    """Two columns: how long an example was seen, and whether the event ended that (1) or not (0)."""

    kind: Literal["survival"]
    time: Text
    event: Text

    @property
    def name(self) -> str:
        """What is predicted."""
        return self.event

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that it needs."""
        return (self.time, self.event)


TargetColumn: TypeAlias = Annotated[ClassTarget | NumberTarget | SurvivalTarget, Field(discriminator="kind")]


CHANNELS = {1: ("grey",), 3: ("red", "green", "blue")}


@settings
class ImageSize:
    """To what the images of every site are brought."""

    height: PositiveInt
    width: PositiveInt
    channels: Literal[1, 3] = 1


@settings
class Layout:
    """What the examples at the sites must have: the same for all, whatever else their files hold."""

    features: tuple[Text, ...] = ()  # columns of a table, in the order of the model's inputs ...
    categories: dict[Text, Values] = Field(
        default_factory=dict
    )  # ... and of those that are no numbers, the values
    drop_first: Annotated[bool, Strict()] = False  # a feature's first category is what all 0 means
    image: ImageSize | None = None  # or images
    target: TargetColumn
    missing: Literal["impute", "drop"] = (
        "impute"  # values: by the mean (for a category its share), or the row
    )

    @model_validator(mode="after")
    def _fits_together(self) -> "Layout":
        if bool(self.features) == (self.image is not None):
            raise ValueError("expected either features (of a table) or image, and not both")
        if twice := sorted({name for name in self.features if self.features.count(name) > 1}):
            raise ValueError(f"features: expected each name once, got {', '.join(twice)} again")
        if unknown := sorted(set(self.categories) - set(self.features)):
            raise ValueError(f"categories: {', '.join(unknown)} is not one of features")
        if leaking := sorted(set(self.target.columns) & set(self.features)):
            raise ValueError(f"features: {', '.join(leaking)} is the target")
        return self

    @property
    def feature_names(self) -> tuple[str, ...]:
        """The columns, or an image's channels."""
        return CHANNELS[self.image.channels] if self.image else self.features

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of classes 0, 1, ..."""
        return tuple(self.target.classes) if isinstance(self.target, ClassTarget) else ()


# A share, or the word.
Holdout: TypeAlias = Annotated[
    Annotated[float, Strict(), Field(gt=0, lt=1), Tag("number")] | Annotated[Literal["given"], Tag("word")],
    Discriminator(lambda value: "word" if isinstance(value, str) else "number"),
]


@settings
class Data:
    """Which examples, who has which, how many are held out, how inputs are scaled."""

    dataset: Name | None = None  # one of fedelta's; or, with a layout, what the sites call theirs
    partition: Partition | None = None  # of one of fedelta's; by default natural if it has groups, else iid
    file: Text | None = None  # or for a trial: a table of all sites' examples, shared out by ...
    site_column: Text | None = None
    min_examples: PositiveInt = 2  # ... and a site with fewer takes no part
    layout: Layout | None = None
    # Share of each site's examples that are not trained on, or those that the data set itself sets apart.
    holdout: Holdout = 0.25
    standardize: Literal["pooled", "local", "none"] = "pooled"
    # Share of the sites that must have described their examples before training begins.
    quorum: Annotated[float, Strict(), Field(gt=0, le=1)] = 0.5

    @model_validator(mode="after")
    def _fits_together(self) -> "Data":
        if self.dataset is None and self.file is None:
            raise ValueError("dataset: is missing; or say which file has the examples of all sites")
        if self.dataset is not None and self.file is not None:
            raise ValueError("file: expected either dataset or file, and not both")
        if (self.file is None) != (self.site_column is None):
            raise ValueError("site_column: says which site has which row of file; expected both or neither")
        if self.dataset in TARGET_KINDS:
            if self.layout is not None:
                raise ValueError(
                    f"layout: {self.dataset} is fedelta's own, and has one; choose another name for yours"
                )
        elif self.layout is None:
            raise ValueError(
                f"dataset: expected one of {_listed(TARGET_KINDS)}, or a layout of what the sites have; "
                f"got {self.dataset!r}"
                if self.dataset
                else "layout: is missing; it says which columns of the file are what"
            )
        elif self.partition is not None:
            raise ValueError("partition: is of fedelta's own data sets; here each site has its own examples")
        if self.holdout == "given" and self.dataset not in GIVEN:
            raise ValueError(f"holdout: given is for {', '.join(sorted(GIVEN))}; expected a share")
        return self

    @property
    def target_kind(self) -> TargetKind:
        """What kind of target the examples have."""
        if self.layout is not None:
            return self.layout.target.kind
        assert self.dataset is not None
        return TARGET_KINDS[self.dataset]

    def needed(self, num_sites: int) -> int:
        """How many of the sites must have described their examples before training begins."""
        return math.ceil(self.quorum * num_sites - 1e-9)  # 0.28 of 25 are 7, whatever a float says

    @property
    def origin(self) -> str:
        """Where the examples are from, as the file says it."""
        return f"data.dataset = {self.dataset}" if self.file is None else f"data.file = {self.file}"

    @property
    def needs_description(self) -> bool:
        """Whether the sites must tell what their examples are like before anybody can train."""
        return self.is_at_sites and self.standardize != "local"

    @property
    def is_at_sites(self) -> bool:
        """Whether each site has its examples at home, so that only it can say what they are like."""
        return self.layout is not None and self.file is None


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)
