"""Carries: the Celery app, the task bodies, the wire format and the ledger (all Redis keys)."""
