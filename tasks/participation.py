"""What a site's worker keeps of an experiment between orders, so that it is loaded once."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from tasks import site_file
from tasks.app import connect
from tasks.site_file import SiteFile
from tasks.site_ledger import SiteLedger
from workers.data import SiteData, load_site
from workers.params import Params
from workers.spec import Spec


@dataclass(frozen=True, kw_only=True)
class Participation:
    """One site's part in one experiment."""

    spec: Spec
    data: SiteData
    reference: Params  # shapes and dtypes of the model's leaves; they take no memory


@lru_cache(maxsize=1024)
def participation(experiment: str, site: str) -> Participation:
    """The site's part in the experiment, examples included.

    Raises:
        NotFound: the ledger has no such experiment.
        DataError: the site's examples cannot be used.
    """
    spec = SiteLedger(connect()).spec(experiment)
    model, schema = spec.model, spec.schema
    params = model.init(np.random.default_rng(0), schema.input_shape, schema.num_outputs)
    reference = {path: np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape) for path, leaf in params.items()}
    own = own_file()
    examples = load_site(spec, site, None if own is None else own.sources)
    return Participation(spec=spec, data=examples, reference=reference)


def own_file() -> SiteFile | None:
    """The `site.toml` that this worker was started with; None in trials without one."""
    return site_file.current()
