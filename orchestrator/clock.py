"""When something happened, in seconds since the experiment began, pauses left out."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tasks.messages import Event
from tasks.state import Head


@dataclass(frozen=True, kw_only=True)
class Clock:
    """Seconds that an experiment had run at a moment."""

    started: float
    paused: float  # seconds, in all
    resumptions: Sequence[Event]

    @classmethod
    def of(cls, head: Head, events: Iterable[Event]) -> "Clock":
        """The clock of an experiment with these events: all of them, or the newest."""
        resumptions = [event for event in events if event.pause]
        newer = sum(event.pause for event in resumptions)  # than the head, if it was resumed meanwhile
        return cls(started=head.started, paused=max(head.paused, newer), resumptions=resumptions)

    def __call__(self, time: float) -> float:
        """The seconds at this time of the ledger's clock.

        What was paused later is taken from what was paused in all, so that the newest events suffice.
        """
        later = sum(event.pause for event in self.resumptions if event.time > time)
        return round(time - self.started - (self.paused - later), 6)
