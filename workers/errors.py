"""Everything fedelta raises on purpose: one root, one subclass per reaction of the caller.

FedeltaError
├── ExperimentError    the experiment file is wrong: its author corrects it, nothing was started
├── SettingsError      a file or variable that says how to reach what is wrong: correct it
├── DataError          a site's examples, or a file of them, cannot be used: their owner corrects them
├── MalformedMessage   bytes that are not what they should be: refuse them, count them, go on
├── Conflict           another coordinator was faster: read again
├── NotFound           no experiment or run of that name
└── Unavailable        a server or a process that is needed does not answer: start it, or wait
"""


class FedeltaError(Exception):
    """Root of fedelta's errors; its text says what was expected, what was found, and where."""


class ExperimentError(FedeltaError):
    """The experiment file is wrong."""


class SettingsError(FedeltaError):
    """A settings file, a variable of the environment, or the folder of a centre is wrong."""


class DataError(FedeltaError):
    """Examples cannot be used."""


class MalformedMessage(FedeltaError):
    """Bytes are not the message, or the tree of arrays, that they should be."""


class Conflict(FedeltaError):
    """Somebody else wrote between our read and our write; nothing of ours was written."""


class NotFound(FedeltaError):
    """No experiment or run of that name."""


class Unavailable(FedeltaError):
    """A server or process does not answer."""
