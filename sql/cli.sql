-- Queries of the command line's reports: what the database knows while no sidecar answers.

-- name: read_attached
-- Whether the sidecar's schemas are there: one boolean
SELECT to_regclass('crdt_state.position') IS NOT NULL AND to_regclass('crdt.conflicts') IS NOT NULL

-- name: read_node
-- This node and its slot, one row: name, id, cluster, slot, slot_active (NULL: no such slot), captured_lsn,
-- lag_bytes (WAL written but not captured), conflicts, quarantined
SELECT n.name, n.id, n.cluster, p.slot, s.active AS slot_active, p.lsn::text AS captured_lsn,
       CASE WHEN pg_is_in_recovery() THEN NULL
            ELSE greatest(0, pg_wal_lsn_diff(pg_current_wal_lsn(), p.lsn)) END::int8 AS lag_bytes,
       (SELECT count(*) FROM crdt_state.conflict) AS conflicts,
       (SELECT count(*) FROM crdt_state.quarantine) AS quarantined
FROM crdt_state.node AS n
LEFT JOIN crdt_state.position AS p ON true
LEFT JOIN pg_replication_slots AS s ON s.slot_name = p.slot

-- name: read_peers
-- The other nodes by id: name, id, connected (as the sidecar last saw it), last_error, lag_ms, unacknowledged_change_sets
SELECT l.name, l.node AS id, coalesce(n.connected, false) AS connected, n.last_error, l.behind_ms AS lag_ms,
       l.unacknowledged_change_sets
FROM crdt.lag AS l
JOIN crdt.nodes AS n ON n.id = l.node
WHERE NOT l.is_local
ORDER BY l.node

-- name: read_tables
-- The replicated tables by name: name, row_rule, columns (a JSON object: column -> annotation, without the key)
SELECT c.schema || '.' || c."table" AS name, c.row_rule,
       coalesce(jsonb_object_agg(c."column", c.annotation) FILTER (WHERE c.key IS NULL), '{}') AS columns
FROM crdt.columns AS c
GROUP BY c.schema, c."table", c.row_rule
ORDER BY c.schema, c."table"

-- name: resolve_table
-- The name under which crdt.conflicts shows a table (table: schema.table or table); no row: not replicated,
-- several: the bare name stands in several schemas
SELECT DISTINCT format('%%I.%%I', c.schema, c."table")
FROM crdt.columns AS c
WHERE %(table)s::text IN (c.schema || '.' || c."table", c."table"::text, format('%%I.%%I', c.schema, c."table"))
ORDER BY 1

-- name: read_conflicts
-- The newest conflicts, newest first; table and since may be NULL (no limit by them)
SELECT id, detected, "table", key, "column", rule, winner, winner_dot, winner_value, loser, loser_dot, loser_value,
       kind, note, winner_vector, loser_vector
FROM crdt.conflicts
WHERE (%(table)s::text IS NULL OR "table" = %(table)s) AND (%(since)s::timestamptz IS NULL OR detected >= %(since)s)
ORDER BY detected DESC, id DESC
LIMIT %(limit)s

-- name: read_comment
-- A table's present comment, or its column's: one row, no row when there is no such table or column. table is quoted as
-- in SQL and follows the search path, column is the plain name or NULL
SELECT CASE WHEN %(column)s::text IS NULL THEN obj_description(c.oid, 'pg_class')
            ELSE col_description(c.oid, a.attnum) END AS comment
FROM pg_class AS c
LEFT JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attname = %(column)s AND a.attnum > 0 AND NOT a.attisdropped
WHERE c.oid = to_regclass(%(table)s) AND (%(column)s::text IS NULL OR a.attnum IS NOT NULL)

-- name: read_missing_schemas
-- Those of the named schemas that do not exist, one per row
SELECT s FROM unnest(%(schemas)s::text[]) AS s WHERE to_regnamespace(quote_ident(s)) IS NULL

-- name: read_orphans_known
-- Whether crdt.orphans is there: one boolean
SELECT to_regproc('crdt.orphans') IS NOT NULL

-- name: limit_time
-- For the rest of the transaction: milliseconds a statement may take
SELECT set_config('statement_timeout', %s, true)

-- name: read_orphans
-- Of a table, per foreign key with orphans: constraint, points_at, count (up to the limit), key of one as text
SELECT o."constraint", o.points_at, count(*), min(o.key::text) FROM crdt.orphans(%s::regclass, %s) AS o
GROUP BY 1, 2 ORDER BY 1
