-- The table of applied migrations (sidecar/postgres/migrations.py).

-- name: lock
-- Until the end of the transaction. Parameter: the lock's key.
SELECT pg_advisory_xact_lock(%s)

-- name: read_presence
-- One row: which of the sidecar's schemas exist (but for what a node that left has left behind), and whether the table of
-- migrations does.
SELECT coalesce((SELECT array_agg(nspname::text ORDER BY nspname DESC) FROM pg_namespace
                 WHERE nspname = 'crdt_state' OR nspname = 'crdt' AND to_regclass('crdt.former_node') IS NULL), '{}'),
       to_regclass('crdt_state.migration') IS NOT NULL

-- name: create_table
-- After the first migration, which makes the schema.
CREATE TABLE IF NOT EXISTS crdt_state.migration (
    version  int4 PRIMARY KEY,
    name     text NOT NULL,
    checksum text NOT NULL,
    applied  timestamptz NOT NULL DEFAULT now()
)

-- name: read_applied
-- version, name, checksum.
SELECT version, name, checksum FROM crdt_state.migration ORDER BY version

-- name: record
-- Parameters: version, name, checksum.
INSERT INTO crdt_state.migration (version, name, checksum) VALUES (%s, %s, %s)
