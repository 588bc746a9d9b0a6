"""Description, at a site: what all must know of its examples before anybody trains."""

import time

from tasks import codec
from tasks.messages import Order, Submission
from tasks.participation import own_file
from tasks.site_ledger import Lease, SiteLedger
from workers import data
from workers.errors import DataError


def describe(ledger: SiteLedger, experiment: str, order: Order, lease: Lease) -> Submission:
    """Counts, means and squares of the inputs that the site trains on; never an example.

    Raises:
        DataError: its examples cannot be read, are not what the experiment asks for, or are too few.
    """
    begun = time.monotonic()
    spec, own = ledger.spec(experiment), own_file()
    if own is None:
        raise DataError(
            f"site {order.site}: its worker was started without a site.toml, which names its data"
        )
    told = data.describe_site(spec, order.site, own.sources, own.min_count)
    return Submission(
        order=order.id,
        issued=order.issued,
        delta=codec.pack_tree(told.params),
        num_examples=told.num_examples,
        started=lease.started,
        seconds=time.monotonic() - begun,
    )
