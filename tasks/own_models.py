"""What a site keeps of its own model, on its own disk: between orders, and at the end.

    <folder>/<experiment>/<site>/after-<order>.safetensors  its parameters after an order
    <folder>/<experiment>/<site>/model.safetensors          the model, as `fedelta predict` takes it

An order that is carried out again begins where it began the first time, so what the order before it left is
kept until the order after it is done. A ledger that was emptied may give a name and a number again: each file
says in its metadata when its experiment began.
"""

import logging
import re
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from tasks import environment, site_file
from tasks.messages import Order
from workers import model_file
from workers.errors import MalformedMessage
from workers.params import Params
from workers.spec import Spec

logger = logging.getLogger(__name__)

BEGUN = "experiment began"  # in the metadata
NAME = re.compile(
    r"[a-z0-9]([a-z0-9-]*[a-z0-9])?"
)  # of an experiment or a site: a folder's name, and no path


def before(experiment: str, order: Order) -> Params:
    """What the newest order before this one has left; empty if there is nothing."""
    folder = _folder(experiment, order.site)
    for number in sorted(_kept(folder), reverse=True):
        if number < order.sequence and (found := _read(_path(folder, number), order)) is not None:
            return found
    return {}


def keep(experiment: str, order: Order, own: Params) -> None:
    """Keep what this order has left; what no order can ask for any more is deleted."""
    folder = _folder(experiment, order.site)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    unfinished = folder / f".after-{order.sequence}.unfinished"
    try:
        save_file(own, unfinished, {BEGUN: repr(order.begun)})
        unfinished.replace(_path(folder, order.sequence))
    finally:
        unfinished.unlink(missing_ok=True)
    others = [number for number in _kept(folder) if number != order.sequence]
    same = [number for number in others if _read(_path(folder, number), order) is not None]
    previous = max((number for number in same if number < order.sequence), default=0)
    for number in others:
        if number < previous or number not in same:
            _path(folder, number).unlink(missing_ok=True)


def save(experiment: str, order: Order, spec: Spec, params: Params) -> Path:
    """Write the finished model; returns where."""
    path = _folder(experiment, order.site) / "model.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    model_file.save(path, spec, params, order.base_version)
    return path


def _read(path: Path, order: Order) -> Params | None:
    """What is kept there; None if it is of another experiment, or damaged."""
    try:
        with safe_open(path, framework="numpy") as stored:
            if (stored.metadata() or {}).get(BEGUN) != repr(order.begun):
                return None
            return {name: stored.get_tensor(name) for name in stored.keys()}
    except FileNotFoundError:
        return None  # another of the site's workers has deleted it
    except (OSError, SafetensorError) as error:
        logger.error("%s: what the site has kept cannot be read, and is left out: %s", path, error)
        return None


def _kept(folder: Path) -> list[int]:
    names = (path.name for path in folder.glob("after-*.safetensors"))
    return [int(found[1]) for name in names if (found := re.fullmatch(r"after-(\d+)\.safetensors", name))]


def _path(folder: Path, order: int) -> Path:
    return folder / f"after-{order}.safetensors"


def _folder(experiment: str, site: str) -> Path:
    """The site's folder.

    Raises:
        MalformedMessage: a name that the centre has sent is none, and might lead elsewhere.
    """
    for name in (experiment, site):
        if not NAME.fullmatch(name):
            raise MalformedMessage(f"expected the name of an experiment or a site, got {name!r:.80}")
    own = site_file.current()
    return (own.personal if own else environment.personal_dir()) / experiment / site
