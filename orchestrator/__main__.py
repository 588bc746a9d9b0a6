"""`python -m orchestrator` is the `fedelta` command."""

from orchestrator.cli import main

main()
