"""What is written into the ledger, as frozen dataclasses to and from msgpack maps.

A map has `v`, the format's version, first; decoding checks every field before anyone uses it.
Times are seconds since 1970 by the ledger's clock (Redis TIME), so that sites' clocks do not matter.
What a site writes is bounded in every field: texts in characters, numbers so that their sums are finite.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Annotated, Any, Literal, TypeAlias, TypeVar

import msgpack
from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    Strict,
    TypeAdapter,
    ValidationError,
)

from tasks import codec
from workers.errors import MalformedMessage
from workers.metrics import Metrics
from workers.params import Array
from workers.settings import Name, explain, message, settings
from workers.spec import Differences, Experiment, Spec

FORMAT = 1
MAX_BYTES = 16_384  # of a message with neither a tree nor an experiment in it
MAX_ENTRIES = 64  # of a map in one
MAX_DETAIL = 1000  # characters
Message = TypeVar("Message")

_adapter: Callable[[Any], TypeAdapter[Any]] = lru_cache(maxsize=32)(TypeAdapter)  # one for each kind


Count: TypeAlias = Annotated[int, Field(ge=0, lt=2**53)]  # what msgpack and a float can hold
Score: TypeAlias = Annotated[float, Field(ge=-1e30, le=1e30)]  # so that a mean of them is finite
Loss: TypeAlias = Annotated[float, Field(ge=-1e39, le=1e39)]  # any float32
Time: TypeAlias = Annotated[float, Field(ge=0, le=1e11)]  # until the year 5138
Seconds: TypeAlias = Annotated[float, Field(ge=0, le=1e9)]
OrderId: TypeAlias = Annotated[str, Field(max_length=80)]  # a site's name, "/", a Count


@settings  # it is part of a message, where it is a map still
class Offer:
    """A data set that a site has: how large it is, never what is in it."""

    name: Annotated[Name, Strict()]
    format: Literal["csv", "parquet", "npz", "images", "dicom"]
    num_examples: Annotated[Count, Strict()] | None = None  # not known yet, or it cannot be read
    num_columns: Annotated[Count, Strict()] | None = None


@message
class Announcement:
    """A site's worker says that it lives."""

    seen: Time
    software: str = Field(max_length=200)
    datasets: Annotated[list[Offer], Field(max_length=32)] = Field(default_factory=list)  # a site's own

    def num_examples(self, dataset: str | None) -> int | None:
        """How many examples the data set of that name has; None if there is none, or it is not known."""
        return next((offer.num_examples for offer in self.datasets if offer.name == dataset), None)


Asked: TypeAlias = Literal["describe", "train", "personalize"]


@message
class Order:
    """Ask one site for one thing; what is asked never changes, however often it is sent.

    To train once from a version; before, to describe its examples; at the end, to make its own model.
    """

    site: str
    sequence: PositiveInt
    base_version: NonNegativeInt
    issued: Time  # tells it from one of the same number that a Redis has forgotten
    attempt: PositiveInt
    seed: NonNegativeInt
    asks: Asked = "train"
    updates: NonNegativeInt = 0  # of the site, that count so far
    begun: Time = 0.0  # when the experiment began: another of the same name began at another time

    @property
    def id(self) -> str:
        """`<site>/<sequence number>`."""
        return f"{self.site}/{self.sequence}"

    @property
    def claim(self) -> str:
        """What a lease on it begins with."""
        return claim(self.id, self.issued)


@message
class Chain:
    """The newest versions, each joined to the next by a difference, oldest first."""

    versions: list[Count] = Field(default_factory=list)
    ids: list[bytes] = Field(default_factory=list)  # of their messages in full


@message
class Submission:
    """What a site answers to an order: its delta, or why there is none."""

    order: OrderId
    issued: Time  # the order's own
    # A packed tree, still to be checked against the model; or the site's description of its examples.
    delta: list[Any] | None = None
    error: str = Field(default="", max_length=500)
    num_examples: Count = 0
    loss: Loss = 0.0
    started: Time = 0.0
    seconds: Seconds = 0.0
    bytes_down: Count = 0


@message
class HistoryRow:
    """One committed update."""

    time: float
    site: str
    order: PositiveInt  # the site's sequence number
    base_version: NonNegativeInt
    version: PositiveInt  # the first version that holds it
    staleness: NonNegativeInt
    weight: float
    num_examples: NonNegativeInt
    loss: float
    bytes_up: NonNegativeInt
    bytes_down: NonNegativeInt
    started: float
    seconds: NonNegativeFloat


@message
class EvaluationRow:
    """One site's score of a version on the examples that it holds out."""

    time: Time
    version: Count
    num_examples: Annotated[Count, Field(ge=1)]
    metrics: Annotated[
        dict[Annotated[str, Field(max_length=64)], Score | None],
        Field(max_length=32),
    ]


@message
class MetricsRow:
    """The example-weighted mean over the sites that scored a version."""

    time: float
    version: NonNegativeInt
    applied: NonNegativeInt
    num_sites: NonNegativeInt
    metrics: Metrics


# Of a site's work; of a site; of the experiment, which was `unattended` while no coordinator looked after it.
EventKind: TypeAlias = Literal[
    "refused",
    "resent",
    "dropped",
    "gone",
    "back",
    "software",
    "unattended",
    "described",
    "finished",
    "resumed",
    "imported",
]


@message
class Event:
    """Something that people want to know about: what went wrong, and what was done."""

    time: float
    kind: EventKind
    site: str = ""
    order: str = ""
    detail: Annotated[str, Field(max_length=MAX_DETAIL)] = ""
    pause: NonNegativeFloat = 0.0  # seconds that the experiment stood still before it was resumed


def encode(written: object) -> codec.Buffer:
    """A message as a msgpack map, or with a large tree as `codec` says; a tree's arrays are copied once."""
    return in_parts(written).whole


def in_parts(written: object) -> codec.Parts:
    """The same, a large tree's arrays still where they are."""
    fields = {field.name: getattr(written, field.name) for field in dataclasses.fields(written)}  # type: ignore[arg-type]  # every message is a dataclass
    tree_in = "delta" if fields.get("delta") else None
    return codec.in_parts({"v": FORMAT, **fields}, tree_in, dataclasses.asdict)


def encode_spec(spec: object) -> bytes:
    """The spec as a msgpack map of maps."""
    packed: bytes = msgpack.packb({"v": FORMAT, **_adapter(type(spec)).dump_python(spec, mode="json")})
    return packed


def decode(kind: type[Message], data: codec.Buffer, reference: Mapping[str, Array] | None = None) -> Message:
    """The message of that kind that these bytes are; the reference is what a tree in it should be like.

    Raises:
        MalformedMessage: they are none.
    """
    fields = codec.unpack(data, _num_leaves(kind, data, reference))
    version = fields.pop("v", None)
    if type(version) is not int or version != FORMAT:
        raise MalformedMessage(f"{kind.__name__}: expected format {FORMAT}, got {version!r:.{codec.SHOWN}}")
    try:
        return kind(**fields)
    except ValidationError as error:
        raise _refusal(kind, error, fields) from error
    except TypeError as error:  # one that has the name of a parameter of pydantic's own __init__
        raise MalformedMessage(f"{kind.__name__}: expected fields that are known here") from error


def one_line(text: str) -> str:
    """What a site says, as an event, a log and a terminal can show it: printable, and not too long."""
    return "".join(letter if letter.isprintable() else " " for letter in text[:MAX_DETAIL])


def to_hash(fields: object) -> dict[str, str]:
    """A flat dataclass as fields of a Redis hash, readable with redis-cli; None is the empty string."""
    values = dataclasses.asdict(fields)  # type: ignore[call-overload]  # a dataclass instance
    return {name: "" if value is None else str(value) for name, value in values.items()}


def from_hash(kind: type[Message], stored: Mapping[bytes, bytes]) -> Message:
    """The inverse of `to_hash`.

    Raises:
        MalformedMessage: the fields are not those of that kind.
    """
    try:
        fields = {name.decode(): value.decode() for name, value in stored.items() if value}
    except UnicodeDecodeError as error:
        raise MalformedMessage(f"{kind.__name__}: expected a hash of texts: {error}") from error
    try:
        found: Message = _adapter(kind).validate_python(fields)
    except ValidationError as error:
        raise _refusal(kind, error, fields) from error
    return found


def claim(order_id: str, issued: float) -> str:
    """What a lease on the order begins with, before its holder."""
    return f"{order_id} {issued!r}"


def seed_of(experiment: Experiment, site: str, sequence: int) -> int:
    """The seed of a site's order: doing it again gives the same delta."""
    digest = hashlib.sha256(f"{experiment.seed}/{site}/{sequence}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1  # fits a signed 64-bit integer


def coding_of_delta(experiment: Experiment, site: str, sequence: int) -> codec.Coding:
    """How the delta of a site's order is written."""
    return codec.Coding(experiment.compression.up, seed_of(experiment, site, sequence))


def coding_of_model(experiment: Experiment, version: int) -> codec.Coding:
    """How a version of the model is written in full; an experiment's last is as it is."""
    down = experiment.compression.down
    if isinstance(down, Differences):
        return codec.RAW
    return codec.Coding(down, seed_of(experiment, "", version), or_raw=True)


def coding_of_difference(experiment: Experiment) -> codec.Coding:
    """How the difference of two versions is written: without a seed, since what it leaves out is in the next.

    Raises:
        TypeError: the experiment has none.
    """
    down = experiment.compression.down
    if not isinstance(down, Differences):
        raise TypeError(f"expected compression.down of kind differences, got {down}")
    return codec.Coding(down.coding, seed=None)


def _num_leaves(kind: type, data: codec.Buffer, reference: Mapping[str, Array] | None) -> int:
    """What bounds the lists and maps of a message of that kind; what has no tree is bounded in bytes, too."""
    if kind is Submission:
        return codec.num_leaves(data, reference)
    if kind is Spec:
        return MAX_ENTRIES + len(data) // 2  # names of sites and features, of a letter at least
    if len(data) > MAX_BYTES:
        raise MalformedMessage(f"{kind.__name__}: expected at most {MAX_BYTES} bytes, got {len(data)}")
    return MAX_ENTRIES


def _refusal(kind: type, error: ValidationError, fields: Mapping[str, object]) -> MalformedMessage:
    return MalformedMessage(one_line(f"{kind.__name__}: {explain(error, fields)[0]}"))
