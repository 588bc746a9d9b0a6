"""Every Redis key of the ledger, and who writes it.

`{E}` is the experiment's name in braces, which keeps one experiment on one Redis Cluster slot. What belongs
to one site is a key of its own that ends in the site's name, so that a Redis ACL can confine each hospital.

key (after `fedelta:`)  type             written by    what
experiments             set              orchestrator  names of all experiments
coordinator             string, expires  coordinator   its worker's name, while a coordinator lives
attended                string           coordinator  when one last looked after the experiments
running                 set              coordinator   names of those that are not finished
site:<site>             string, expires  that site     when it was last seen, and its software
{E}:spec                string           orchestrator  experiment and schema; completed before training
{E}:head                hash             coordinator   phase, version, counts: `state.Head`
{E}:sites               hash             coordinator   site -> `state.SiteRecord`
{E}:model:<version>     string or hash   coordinator   parameters; there while somebody needs them
{E}:model:<v>:after:<u>  string or hash  coordinator   their difference to those of version u, coded
{E}:model:chain         string           coordinator   versions that differences join: `messages.Chain`
{E}:memory              string or hash   coordinator   the strategy's memory: buffer, optimizer state;
                                                         before training: what sites describe
{E}:order:<site>        string           coordinator   the site's unfinished order
{E}:lease:<site>        string, expires  that site     order id and holder, renewed while training
{E}:delta:<site>        string or hash   that site     its submission; counts while the order is open
{E}:new:<id>:<key>      hash, expires    either        what is to be at {E}:<key> once it is all written
{E}:inbox               list             sites         sites whose submission waits
{E}:history             stream           coordinator   a row per committed update
{E}:metrics             stream           coordinator   a row per version scored: mean over sites
{E}:events              stream           coordinator   what went wrong, and what was done
{E}:evaluations:<site>  stream           that site     a row per version that it scored

bell:<site>             channel          that site     hints of what it has just done: `bell.Call`
work                    channel          coordinator   what it has just done, for Flower: `work.Work`

`values` says which messages are strings and which are hashes.

A coordinator's transition is one WATCH of `head` and one MULTI that always writes `head`; so of two that read
the same state, one wins. The orchestrator's `stop` and `resume` are such transitions too.
"""

EXPERIMENTS = "fedelta:experiments"
RUNNING = "fedelta:running"
COORDINATOR = "fedelta:coordinator"
ATTENDED = "fedelta:attended"
WORK = "fedelta:work"


def site(site: str) -> str:
    """Key of a site's announcement."""
    return f"fedelta:site:{site}"


def bell(site: str) -> str:
    """Channel of a site's calls."""
    return f"fedelta:bell:{site}"


def spec(experiment: str) -> str:
    """Key of the experiment's spec."""
    return f"fedelta:{{{experiment}}}:spec"


def head(experiment: str) -> str:
    """Key of the experiment's head."""
    return f"fedelta:{{{experiment}}}:head"


def sites(experiment: str) -> str:
    """Key of the sites' records."""
    return f"fedelta:{{{experiment}}}:sites"


def model(experiment: str, version: int) -> str:
    """Key of one version's parameters."""
    return f"fedelta:{{{experiment}}}:model:{version}"


def difference(experiment: str, version: int, before: int) -> str:
    """Key of the difference that makes a version of the one before."""
    return f"{model(experiment, version)}:after:{before}"


def chain(experiment: str) -> str:
    """Key of the chain of versions that differences join."""
    return f"fedelta:{{{experiment}}}:model:chain"


def memory(experiment: str) -> str:
    """Key of the strategy's memory."""
    return f"fedelta:{{{experiment}}}:memory"


def order(experiment: str, site: str) -> str:
    """Key of a site's unfinished order."""
    return f"fedelta:{{{experiment}}}:order:{site}"


def lease(experiment: str, site: str) -> str:
    """Key of a site's lease."""
    return f"fedelta:{{{experiment}}}:lease:{site}"


def delta(experiment: str, site: str) -> str:
    """Key of a site's submission."""
    return f"fedelta:{{{experiment}}}:delta:{site}"


def unfinished(key: str, upload: str) -> str:
    """Key, on the same slot, where a message lies until it is put at this one; `upload` is any id."""
    experiment, _, kind = key.partition("}:")
    return f"{experiment}}}:new:{upload}:{kind}"


def inbox(experiment: str) -> str:
    """Key of the list of sites whose submission waits."""
    return f"fedelta:{{{experiment}}}:inbox"


def history(experiment: str) -> str:
    """Key of the committed updates."""
    return f"fedelta:{{{experiment}}}:history"


def metrics(experiment: str) -> str:
    """Key of the versions' metrics."""
    return f"fedelta:{{{experiment}}}:metrics"


def events(experiment: str) -> str:
    """Key of the events."""
    return f"fedelta:{{{experiment}}}:events"


def evaluations(experiment: str, site: str) -> str:
    """Key of a site's evaluations."""
    return f"fedelta:{{{experiment}}}:evaluations:{site}"
