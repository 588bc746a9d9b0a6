"""What a site's worker tells of its own data sets: names, formats and sizes, never what is in them."""

import logging
import threading
from collections.abc import Iterable

from tasks.messages import Offer
from workers import sources
from workers.errors import FedeltaError
from workers.source_settings import Source

logger = logging.getLogger(__name__)


class Offers:
    """The data sets of a site; their sizes are told once they are known, so that no start waits for them."""

    def __init__(self, datasets: Iterable[Source] = ()) -> None:
        """Without any size until `start`."""
        self._sources = {source.name: source for source in datasets if source.name is not None}
        self._sizes: dict[str, tuple[int, int]] = {}

    def start(self) -> None:
        """Look how large they are, one after another."""
        if self._sources:
            threading.Thread(target=self._measure, name="offers", daemon=True).start()

    def current(self) -> list[Offer]:
        """What is known now."""
        offers = []
        for name, source in self._sources.items():
            num_examples, num_columns = self._sizes.get(name, (None, None))
            offer = Offer(name=name, format=source.format, num_examples=num_examples, num_columns=num_columns)
            offers.append(offer)
        return offers

    def _measure(self) -> None:
        for name, source in self._sources.items():
            try:
                self._sizes[name] = sources.size(source)
            except FedeltaError as error:
                logger.error("%s", error)
