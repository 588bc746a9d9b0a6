"""What a trial is: strategy, sites, speeds, end and fellow processes, all drawn from the seed."""

import random
from collections.abc import Mapping
from dataclasses import dataclass, field

SITES = ("east", "north", "west")
STRATEGIES: Mapping[str, str] = {
    "fedasync": 'kind = "fedasync"\nmixing_rate = 0.4',
    "fedbuff": 'kind = "fedbuff"\nbuffer_size = 3\nserver_optimizer = {name = "sgd", learning_rate = 0.7}',
    "fedavg": 'kind = "fedavg"\nquorum = 0.5',
}
FILE = """\
name = "trial"
seed = {seed}
sites = {sites}
[data]
dataset = "breast-cancer"
partition = {{ kind = "dirichlet", alpha = 1.0, min_examples = 40 }}
[model]
kind = "logistic-regression"
[training]
epochs = 1
[evaluation]
every = {every}
[stop]
updates = {updates}
[seconds_per_order]
{seconds}
[strategy]
{strategy}
"""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One trial, before anything happens to it."""

    seed: int = 0
    strategy: str = "fedasync"
    seconds: Mapping[str, float] = field(default_factory=lambda: dict.fromkeys(SITES, 0.2))  # by site
    updates: int = 60
    every: int = 5  # versions between evaluations
    num_coordinators: int = 1
    has_beat: bool = False  # a process of its own
    late: str | None = None  # a site that joins in the middle
    wrong_clock: Mapping[str, int] = field(default_factory=dict)  # seconds off, by site

    @property
    def sites(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(self.seconds)

    def file(self) -> str:
        """The experiment's file."""
        return FILE.format(
            seed=self.seed,
            sites=list(self.sites),
            every=self.every,
            updates=self.updates,
            seconds="\n".join(f"{site} = {seconds}" for site, seconds in self.seconds.items()),
            strategy=STRATEGIES[self.strategy],
        ).replace("'", '"')


def draw(rng: random.Random, seed: int, strategy: str | None = None, nominal_seconds: float = 30.0) -> Plan:
    """A plan whose updates take about so long where nothing happens to it."""
    strategy = strategy or rng.choice(list(STRATEGIES))
    seconds = {site: rng.choice([0.05, 0.2, 0.5, 1.5]) for site in SITES}
    if strategy == "fedavg":
        rate = len(SITES) / (max(seconds.values()) + 0.05)
    else:
        rate = sum(1 / (duration + 0.05) for duration in seconds.values())
    return Plan(
        seed=seed,
        strategy=strategy,
        seconds=seconds,
        updates=max(15, int(rate * nominal_seconds)),
        every=rng.choice([3, 10, 50]),
        num_coordinators=rng.choice([1, 1, 2]),
        has_beat=rng.random() < 0.4,
        late=rng.choice(SITES) if rng.random() < 0.2 else None,
        wrong_clock={rng.choice(SITES): rng.choice([-3600, 3600])} if rng.random() < 0.25 else {},
    )
