"""What is written into the ledger, as frozen dataclasses to and from msgpack maps.

A map has `v`, the format's version, first; decoding checks every field before anyone uses it.
Times are seconds since 1970 by the ledger's clock (Redis TIME), so that sites' clocks do not matter.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Annotated, Any, Literal, TypeAlias, TypeVar

import msgpack
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, TypeAdapter, ValidationError

from tasks import codec
from workers.errors import MalformedMessage
from workers.metrics import Metrics
from workers.settings import explain, message
from workers.spec import Experiment

FORMAT = 1
Message = TypeVar("Message")

_adapter: Callable[[Any], TypeAdapter[Any]] = lru_cache(maxsize=32)(TypeAdapter)  # one for each kind


Count: TypeAlias = Annotated[int, Field(ge=0, lt=2**53)]  # what msgpack and a float can hold
Score: TypeAlias = Annotated[float, Field(ge=-1e30, le=1e30)]  # so that a mean of them is finite


@message
class Announcement:
    """A site's worker says that it lives."""

    seen: float
    software: str = Field(max_length=200)


@message
class Order:
    """Ask one site to train once, from one version; what is asked never changes, however often it is sent."""

    site: str
    sequence: PositiveInt
    base_version: NonNegativeInt
    attempt: PositiveInt
    seed: NonNegativeInt

    @property
    def id(self) -> str:
        """`<site>/<sequence number>`."""
        return f"{self.site}/{self.sequence}"


@message
class Submission:
    """What a site answers to an order: its delta, or why there is none."""

    order: str
    delta: list[Any] | None = None  # a packed tree, still to be checked against the model
    error: str = Field(default="", max_length=500)
    num_examples: Count = 0
    loss: float = 0.0
    started: NonNegativeFloat = 0.0
    seconds: NonNegativeFloat = 0.0
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

    time: float
    version: NonNegativeInt
    num_examples: Annotated[Count, Field(ge=1)]
    metrics: Annotated[dict[str, Score | None], Field(max_length=32)]


@message
class MetricsRow:
    """The example-weighted mean over the sites that scored a version."""

    time: float
    version: NonNegativeInt
    applied: NonNegativeInt
    num_sites: NonNegativeInt
    metrics: Metrics


@message
class Event:
    """Something that people want to know about: what went wrong, and what was done."""

    time: float
    kind: Literal["refused", "resent", "dropped", "finished", "resumed"]
    site: str = ""
    order: str = ""
    detail: str = ""
    pause: NonNegativeFloat = 0.0  # seconds that the experiment stood still before it was resumed


def encode(written: object) -> bytes:
    """A message as a msgpack map; what it holds is not copied first."""
    fields = {field.name: getattr(written, field.name) for field in dataclasses.fields(written)}  # type: ignore[arg-type]  # every message is a dataclass
    packed: bytes = msgpack.packb({"v": FORMAT, **fields})
    return packed


def encode_spec(spec: object) -> bytes:
    """The spec as a msgpack map of maps."""
    packed: bytes = msgpack.packb({"v": FORMAT, **_adapter(type(spec)).dump_python(spec, mode="json")})
    return packed


def decode(kind: type[Message], data: bytes) -> Message:
    """The message of that kind that these bytes are.

    Raises:
        MalformedMessage: they are none.
    """
    fields = codec.unpack(data)
    version = fields.pop("v", None)
    if type(version) is not int or version != FORMAT:
        raise MalformedMessage(f"{kind.__name__}: expected format {FORMAT}, got {version!r}")
    try:
        return kind(**fields)
    except ValidationError as error:
        raise MalformedMessage(f"{kind.__name__}: {explain(error, fields)[0]}") from error


def to_hash(fields: object) -> dict[str, str]:
    """A flat dataclass as fields of a Redis hash, readable with redis-cli; None is the empty string."""
    values = dataclasses.asdict(fields)  # type: ignore[call-overload]  # a dataclass instance
    return {name: "" if value is None else str(value) for name, value in values.items()}


def from_hash(kind: type[Message], stored: Mapping[bytes, bytes]) -> Message:
    """The inverse of `to_hash`."""
    fields = {name.decode(): value.decode() for name, value in stored.items() if value}
    found: Message = _adapter(kind).validate_python(fields)
    return found


def seed_of(experiment: Experiment, site: str, sequence: int) -> int:
    """The seed of a site's order: doing it again gives the same delta."""
    digest = hashlib.sha256(f"{experiment.seed}/{site}/{sequence}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1  # fits a signed 64-bit integer
