"""Active-active PostgreSQL by a logical-replication sidecar."""

__version__ = "0.1.0"
