"""The ledger as the orchestrator and the coordinator use it: experiments, and turns of the state machine.

Sites use `site_ledger`, people look through `progress`; `keys` explains every key.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import redis

from tasks import codec, keys, messages, state, turn, values
from tasks.state import State
from tasks.turn import Turn
from workers.errors import NotFound
from workers.params import Params
from workers.spec import Spec
from workers.strategies import Server


class Ledger:
    """Experiments in one Redis."""

    def __init__(self, client: redis.Redis) -> None:
        """Use this Redis; `app.connect` says which."""
        self._redis = client
        self._specs: dict[str, Spec] = {}

    def create(self, name: str, spec: Spec, params: Params) -> State | None:
        """A new experiment with these initial parameters; None if there is one of that name.

        Raises:
            ExperimentError: these parameters cannot be sent as the experiment asks.
        """
        experiment = spec.experiment
        with self._redis.pipeline() as pipe:
            pipe.watch(keys.spec(name))
            if pipe.exists(keys.spec(name)):
                return None
            is_described = not experiment.data.needs_description
            new = state.begin(experiment.sites, turn.now(pipe), is_described=is_described)
            memory = experiment.strategy.init(params) if is_described else {}  # what sites tell
            server = Server(params=params, version=0, memory=memory)
            written = {
                keys.model(name, 0): turn.published(experiment, server),
                keys.memory(name): codec.tree_in_parts(turn.with_exact(experiment, server)),
            }
            with values.uploaded(self._redis, written) as upload:
                pipe.sadd(keys.EXPERIMENTS, name)
                pipe.sadd(keys.RUNNING, name)
                upload.watch(pipe)
                pipe.multi()
                pipe.delete(keys.chain(name))  # of one that this Redis has forgotten
                pipe.set(keys.spec(name), messages.encode_spec(spec))
                upload.put(pipe)
                turn.write_state(pipe, experiment, State(head=new.head, sites={}), new)
                try:
                    pipe.execute()
                except redis.WatchError:
                    return None
        return new

    def names(self) -> list[str]:
        """All experiments."""
        return sorted(name.decode() for name in self._redis.smembers(keys.EXPERIMENTS))

    def running(self) -> list[str]:
        """Experiments that are not finished."""
        return sorted(name.decode() for name in self._redis.smembers(keys.RUNNING))

    def has(self, name: str) -> bool:
        """Whether there is an experiment of that name."""
        return bool(self._redis.exists(keys.spec(name)))

    def spec(self, name: str) -> Spec:
        """The experiment as it was submitted.

        Raises:
            NotFound: there is none of that name.
        """
        if name not in self._specs:
            stored = self._redis.get(keys.spec(name))
            if stored is None:
                known = ", ".join(self.names()) or "none"
                raise NotFound(f"no experiment {name!r} in the ledger; there: {known}")
            self._specs[name] = messages.decode(Spec, stored)
        return self._specs[name]

    @contextmanager
    def turn(self, name: str) -> Iterator[Turn]:
        """One turn of an experiment: read, decide, commit at most once.

        Raises:
            NotFound: there is no experiment of that name.
        """
        spec = self.spec(name)
        with self._redis.pipeline() as pipe:
            pipe.watch(keys.head(name))
            yield Turn(self._redis, pipe, name, spec)
