"""How fast a site trains, beside two ways to write the same training by hand.

    python -m benchmarks.training [--json FILE] [--publish]

`plain` is the loop that anybody would write: one jitted step of `jax.value_and_grad` and optax, called for
each batch, which is sliced from NumPy. `fused` is the most that can be had: one jitted function of the whole
order, compiled for exactly this site's number of examples, with nothing padded and nothing optional; as for
ours, the examples are on JAX's device before. Each draws the order of the examples anew, takes a model of
NumPy arrays and gives a delta of NumPy arrays.

The three take turns, in an order that is drawn, and a ratio is the median over turns; so what else the
machine does hits all alike.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import report
from benchmarks.learning import study
from workers import client_update, objectives
from workers.data import Examples
from workers.models import ConvolutionalNetwork, LogisticRegression, Model, MultilayerPerceptron
from workers.optimizers import Sgd
from workers.params import Array, Params
from workers.spec import LocalTraining

SECONDS = 1.5  # for each row
CALLS_SECONDS = 0.001  # in a row, of ours
MIN_TURNS, MAX_TURNS = 7, 1000
LEARNING_RATE = 0.05
EPOCHS = (1, 5)
TABLES = (46, 303, 1000)  # sites' examples
IMAGES = (100, 300)
CASES: tuple[tuple[str, Model, tuple[int, ...], int, tuple[int, ...]], ...] = (
    ("logistic regression", LogisticRegression(), (13,), 4, TABLES),
    ("MLP, 32", MultilayerPerceptron(hidden=(32,)), (13,), 16, TABLES),
    ("MLP, 256, 256", MultilayerPerceptron(hidden=(256, 256)), (30,), 16, TABLES),
    ("CNN, 28x28", ConvolutionalNetwork(), (28, 28, 1), 16, IMAGES),
)

Way = Callable[[int], tuple[Params, Array]]  # from a seed to delta and loss
State = tuple[Params, optax.OptState]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One model at a site of one size."""

    model: str
    batch_size: int
    num_examples: int
    epochs: int
    examples_per_second: float
    of_fused: float  # our examples per second over those of the fused function ...
    of_plain: float  # ... and over those of the plain loop
    turns: int


def main() -> None:
    told = report.Report("training", report.parser(__doc__).parse_args())
    rows = []
    before = client_update.client_update._cache_size()
    for name, model, shape, batch_size, sizes in CASES:
        for num_examples in sizes:
            for epochs in EPOCHS:
                rows.append(_row(name, model, shape, num_examples, batch_size, epochs))
                print(*_shown(rows[-1]), sep=", ", file=sys.stderr)
    compilations = client_update.client_update._cache_size() - before
    columns = ("model", "batch", "examples", "epochs", "examples/s", "of fused", "of plain loop")
    table = study.table(columns, map(_shown, rows))
    told.write(f"{table}\n\n{compilations} compilations for {len(rows)} rows.", rows)


def _shown(row: Row) -> tuple[str, ...]:
    numbers = (f"{row.examples_per_second:,.0f}", f"{row.of_fused:.2f}", f"{row.of_plain:.1f}")
    return (row.model, str(row.batch_size), str(row.num_examples), str(row.epochs), *numbers)


def _row(
    name: str, model: Model, shape: tuple[int, ...], num_examples: int, batch_size: int, epochs: int
) -> Row:
    rng = np.random.default_rng(num_examples)
    examples = Examples(
        features=rng.normal(size=(num_examples, *shape)).astype(np.float32),
        targets=rng.integers(0, 2, num_examples).astype(np.float32),
    )
    base = model.init(rng, shape, 1)
    ways = [way(model, base, examples, batch_size, epochs) for way in (_ours, _fused, _plain)]
    _check_same(*(way(0) for way in ways))
    seconds = _timed(ways)
    ours, fused, plain = np.asarray(seconds).T
    return Row(
        model=name,
        batch_size=batch_size,
        num_examples=num_examples,
        epochs=epochs,
        examples_per_second=epochs * num_examples / float(np.median(ours)),
        of_fused=float(np.median(fused / ours)),
        of_plain=float(np.median(plain / ours)),
        turns=len(seconds),
    )


def _check_same(ours: tuple[Params, Array], *others: tuple[Params, Array]) -> None:
    """That all have trained the same: they have seen the same batches."""
    for delta, loss in others:
        np.testing.assert_allclose(loss, ours[1], rtol=1e-4)
        for path, leaf in ours[0].items():
            np.testing.assert_allclose(delta[path], leaf, rtol=1e-3, atol=1e-5, err_msg=path)


def _timed(ways: list[Way]) -> list[list[float]]:
    """Seconds of a call of each way, for each turn.

    Their order is drawn, since whoever comes after a long one pays for it: its share of the processor is
    used up, and the caches are full of other things. For the same reason short calls are timed by the dozen,
    after one that is not.
    """
    rng = np.random.default_rng(0)
    begun = time.perf_counter()
    ways[0](0)
    num_calls = max(1, round(CALLS_SECONDS / (time.perf_counter() - begun)))
    seconds: list[list[float]] = []
    end = time.perf_counter() + SECONDS
    while len(seconds) < MIN_TURNS or (time.perf_counter() < end and len(seconds) < MAX_TURNS):
        turn = [0.0] * len(ways)
        for place in rng.permutation(len(ways)):
            ways[place](0)
            begun = time.perf_counter()
            for number in range(num_calls):
                ways[place](number)
            turn[place] = (time.perf_counter() - begun) / num_calls
        seconds.append(turn)
    return seconds


def _ours(model: Model, base: Params, examples: Examples, batch_size: int, epochs: int) -> Way:
    training = LocalTraining(optimizer=Sgd(learning_rate=LEARNING_RATE), batch_size=batch_size, epochs=epochs)
    return lambda seed: client_update.train(
        base, examples, model=model, target_kind="binary", training=training, seed=seed
    )


def _fused(model: Model, base: Params, examples: Examples, batch_size: int, epochs: int) -> Way:
    transform = optax.sgd(LEARNING_RATE)
    num_examples = len(examples)
    num_whole = num_examples // batch_size
    features, targets = jax.device_put((examples.features, examples.targets))

    @jax.jit
    def update(base: Params, features: Array, targets: Array, orders: Array) -> tuple[Params, Array]:
        def step(state: State, batch: Array) -> tuple[State, Array]:
            params, optimizer_state = state
            loss, gradient = jax.value_and_grad(_loss)(params, model, features[batch], targets[batch])
            updates, optimizer_state = transform.update(gradient, optimizer_state)
            return (optax.apply_updates(params, updates), optimizer_state), loss * len(batch)

        def epoch(state: State, order: Array) -> tuple[State, Array]:
            whole, rest = order[: num_whole * batch_size], order[num_whole * batch_size :]
            state, losses = jax.lax.scan(step, state, whole.reshape(num_whole, batch_size))
            if not len(rest):
                return state, losses.sum()
            state, last = step(state, rest)
            return state, losses.sum() + last

        state, losses = jax.lax.scan(epoch, (base, transform.init(base)), orders)
        return {path: leaf - base[path] for path, leaf in state[0].items()}, losses.sum() / orders.size

    def train(seed: int) -> tuple[Params, Array]:
        rng = np.random.default_rng(seed)
        orders = np.stack([rng.permutation(num_examples) for _ in range(epochs)]).astype(np.int32)
        delta, loss = update(base, features, targets, orders)
        return {path: np.asarray(leaf) for path, leaf in delta.items()}, np.asarray(loss)

    return train


def _plain(model: Model, base: Params, examples: Examples, batch_size: int, epochs: int) -> Way:
    transform = optax.sgd(LEARNING_RATE)

    @jax.jit
    def step(
        params: Params, optimizer_state: optax.OptState, features: Array, targets: Array
    ) -> tuple[Params, optax.OptState, Array]:
        loss, gradient = jax.value_and_grad(_loss)(params, model, features, targets)
        updates, optimizer_state = transform.update(gradient, optimizer_state)
        return optax.apply_updates(params, updates), optimizer_state, loss

    def train(seed: int) -> tuple[Params, Array]:
        rng = np.random.default_rng(seed)
        params, optimizer_state = base, transform.init(base)
        losses, sizes = [], []
        for _ in range(epochs):
            order = rng.permutation(len(examples))
            for start in range(0, len(examples), batch_size):
                batch = order[start : start + batch_size]
                features, targets = examples.features[batch], examples.targets[batch]
                params, optimizer_state, loss = step(params, optimizer_state, features, targets)
                losses.append(loss)
                sizes.append(len(batch))
        delta = {path: np.asarray(leaf) - base[path] for path, leaf in params.items()}
        return delta, np.average(np.asarray(losses), weights=sizes)

    return train


def _loss(params: Params, model: Model, features: Array, targets: Array) -> Array:
    return jnp.mean(objectives.each("binary", model.apply(params, features), targets))


if __name__ == "__main__":
    main()
