"""A site's own data sets, as its `site.toml` says: where they lie, in what format, how columns are called."""

from pathlib import Path
from typing import Annotated, Literal, TypeAlias, TypeVar

from pydantic import Field, Strict, ValidationInfo, field_validator, model_validator

from workers import cells
from workers.data_settings import Text
from workers.numbers import NumberReader
from workers.settings import Name, PositiveFloat, settings

MISSING = ("", "NA", "N/A", "NaN", "nan", "null", "?")

Named = TypeVar("Named")
Cell: TypeAlias = Annotated[str, Field(max_length=200)]  # what stands in a file, or nothing


@settings
class _Columns:
    """What every source has."""

    path: Path
    name: Name | None = None  # of a site's own; a table that a trial shares out has none
    # By the study's name of a column, the name that it has here; those that are left out are called alike.
    columns: dict[Text, Text] = Field(default_factory=dict)
    # By the study's name of a column, what its values mean to the study; others are taken as they are.
    values: dict[Text, dict[Cell, Text]] = Field(default_factory=dict)
    missing: tuple[Cell, ...] = MISSING  # what stands for a missing value, ...
    missing_in: dict[Text, tuple[Cell, ...]] = Field(
        default_factory=dict
    )  # ... and what else in one column, by the study's name of it

    def here(self, column: str) -> str:
        """What the study's column is called here."""
        return self.columns.get(column, column)

    @property
    def rewritten(self) -> tuple[str, ...]:
        """The study's columns that have values or markers of their own here."""
        return tuple(dict.fromkeys((*self.values, *self.missing_in)))

    def missing_of(self, column: str) -> tuple[str, ...]:
        """What stands for a missing value in the study's column."""
        return (*self.missing, *self.missing_in.get(column, ()))

    def meant(self, column: str) -> dict[str, str]:
        """What values of the study's column mean to the study, by canonical text."""
        return {cells.canonical(cell): value for cell, value in self.values.get(column, {}).items()}

    @property
    def numbers(self) -> NumberReader:
        """What reads the numbers here."""
        return NumberReader(self.missing)

    @field_validator("values", "missing_in")
    @classmethod
    def _name_the_study_s_columns(cls, named: dict[str, Named], info: ValidationInfo) -> dict[str, Named]:
        columns: dict[str, str] = info.data.get("columns", {})
        study = {here: column for column, here in columns.items()}
        for column in named:
            if column in study and column not in columns:
                raise ValueError(f"expected the study's name of a column, {study[column]}, got {column!r}")
        return named

    @field_validator("values")
    @classmethod
    def _are_apart(cls, values: dict[str, dict[str, str]]) -> dict[str, dict[str, str]]:
        for column, meanings in values.items():
            if len({cells.canonical(cell) for cell in meanings}) < len(meanings):
                raise ValueError(f"expected each value of {column} once, and 1 and 1.0 are the same")
        return values


@settings
class _Delimited(_Columns):
    """How a text file of a table is written."""

    separator: Annotated[str, Field(min_length=1, max_length=1)] = ","
    decimal: Literal[".", ","] = "."
    encoding: str = "utf-8"
    header: Annotated[tuple[Text, ...], Field(min_length=1)] | None = (
        None  # of a file without a line of names
    )

    @field_validator("encoding")
    @classmethod
    def _is_known(cls, encoding: str) -> str:
        try:
            "".encode(encoding)
        except (LookupError, ValueError):  # the latter: a NUL in the name
            raise ValueError("expected an encoding of text, such as utf-8, cp1252 or latin-1") from None
        return encoding

    @property
    def numbers(self) -> NumberReader:
        """What reads the numbers here."""
        return NumberReader(self.missing, self.decimal)

    @model_validator(mode="after")
    def _has_other_separator(self) -> "_Delimited":
        if self.separator in (self.decimal, '"', "\r", "\n"):
            raise ValueError(
                f"separator: expected another character than {self.separator!r}; beside a decimal ',' say ';'"
            )
        return self


@settings
class CsvSource(_Delimited):
    """A table in a text file; one whose name ends in .gz is compressed."""

    format: Literal["csv"] = "csv"
    transposed: Annotated[bool, Strict()] = False  # a line for each feature; an example is a column


@settings
class ParquetSource(_Columns):
    """A table in a Parquet file."""

    format: Literal["parquet"] = "parquet"
    transposed: Annotated[bool, Strict()] = False


@settings
class NpzSource(_Columns):
    """NumPy arrays in an .npz file: a table `(examples, columns)`, or images.

    Images are `(examples, height, width)`, or `(examples, height, width, channels)` with 1 or 3 channels.
    """

    format: Literal["npz"] = "npz"
    features: Text = "features"  # names of the arrays in the file: of the features,
    targets: Text = (
        "targets"  # of the targets, `(examples,)` or `(examples, 1)`; of survival `(examples, 2)`,
    )
    names: Text = "columns"  # and of the names of the features, if there is such an array
    order: tuple[Text, ...] = ()  # the names of the features, if there is none


@settings
class _Labelled(_Delimited):
    """A folder of files, and a table with a line for each."""

    labels: Path
    file_column: Text = "file"  # of the table: the file's name, from the folder on

    @property
    def table(self) -> CsvSource:
        """The table with a line for each file."""
        return CsvSource(
            path=self.labels,
            name=self.name,
            columns=self.columns,
            missing=self.missing,
            separator=self.separator,
            decimal=self.decimal,
            encoding=self.encoding,
            header=self.header,
        )


@settings
class ImagesSource(_Labelled):
    """PNG and JPEG files."""

    format: Literal["images"] = "images"


@settings
class DicomSource(_Labelled):
    """DICOM files, of one image each."""

    format: Literal["dicom"] = "dicom"
    # Which of the scanner's numbers become black and white; by default as each file says.
    window_centre: Annotated[float, Strict()] | None = None
    window_width: PositiveFloat | None = None

    @model_validator(mode="after")
    def _has_both(self) -> "DicomSource":
        if (self.window_centre is None) != (self.window_width is None):
            raise ValueError("window_centre, window_width: expected both or neither")
        return self


Source: TypeAlias = Annotated[
    CsvSource | ParquetSource | NpzSource | ImagesSource | DicomSource, Field(discriminator="format")
]
