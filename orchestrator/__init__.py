"""Decides: the experiment file, the command line, starting processes, progress and reports."""
