"""Computes: pure functions of arrays, and a site's own data. Knows nothing of Celery or Redis."""
