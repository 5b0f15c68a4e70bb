-- Attaching a database and its tables (sidecar/postgres/attach.py, table_attach.py).

-- name: insert_node
-- Only at first; the clock starts at the wall clock's time.
INSERT INTO crdt_state.node (id, name, cluster, hlc)
VALUES (%(id)s, %(name)s, %(cluster)s, (extract(epoch FROM clock_timestamp()) * 1000)::int8 << 16)
ON CONFLICT (singleton) DO NOTHING

-- name: read_node
-- id, name, cluster of the node this database belongs to.
SELECT id, name, cluster FROM crdt_state.node

-- name: insert_clock
-- This node's own entry, only at first.
INSERT INTO crdt_state.clock (node, hlc) VALUES (%(id)s, 0) ON CONFLICT (node) DO NOTHING

-- name: knows
-- Whether a table (or with it its column "departed") is there: one boolean.
SELECT EXISTS (SELECT FROM pg_attribute AS a WHERE a.attrelid = to_regclass(%s)
               AND a.attname IN ('left_at', 'departed') AND NOT a.attisdropped)

-- name: was_here
-- The name of the node of this id and cluster that this database was, and that has left; no row for any other.
SELECT f.name FROM crdt.former_node AS f WHERE f.id = %(id)s AND f.cluster = %(cluster)s

-- name: has_departed
-- The same where the state was kept.
SELECT m.name FROM crdt_state.member AS m, crdt_state.node AS n
WHERE m.id = n.id AND m.departed IS NOT NULL AND n.id = %(id)s AND n.cluster = %(cluster)s

-- name: read_publication
-- is_owner, all tables, publishes every kind of change; no row when there is none.
SELECT pg_has_role(pubowner, 'USAGE'), puballtables, pubinsert AND pubupdate AND pubdelete AND pubtruncate
FROM pg_publication WHERE pubname = 'crdt'

-- name: create_publication
-- Empty; tables are added when they are attached.
CREATE PUBLICATION crdt WITH (publish = 'insert, update, delete, truncate')

-- name: widen_publication
-- Every kind of change.
ALTER PUBLICATION crdt SET (publish = 'insert, update, delete, truncate')

-- name: publishes_generated
-- Whether stored generated columns are published (PostgreSQL 18). Nobody reads them, but without it the server refuses
-- UPDATE and DELETE on tables that have them and REPLICA IDENTITY FULL.
SELECT pubgencols = 's' FROM pg_publication WHERE pubname = 'crdt'

-- name: publish_generated
-- From PostgreSQL 18 on.
ALTER PUBLICATION crdt SET (publish_generated_columns = stored)

-- name: read_position
-- The slot and the LSN up to which changes are durably captured; no row before the first init.
SELECT slot, lsn::text FROM crdt_state.position

-- name: may_read_position
-- Whether this role can read it; false before the first init.
SELECT coalesce(has_schema_privilege(to_regnamespace('crdt_state'), 'USAGE')
                AND has_table_privilege(to_regclass('crdt_state.position'), 'SELECT'), false)

-- name: read_slot
-- database, is this database, plugin, active, lost, this database's OID; no row when there is none.
SELECT coalesce(database::text, ''), coalesce(database = current_database(), false), coalesce(plugin::text, ''), active,
       coalesce(wal_status, '') = 'lost',
       (SELECT oid FROM pg_database WHERE datname = current_database())
FROM pg_replication_slots WHERE slot_name = %s

-- name: create_slot
-- Returns the LSN from which changes are decoded. Must be alone in its transaction.
SELECT lsn::text FROM pg_create_logical_replication_slot(%s, 'pgoutput', false)

-- name: drop_slot
-- Of an init that was cut short.
SELECT pg_drop_replication_slot(%s)

-- name: insert_position
-- Parameters: slot, lsn.
INSERT INTO crdt_state.position (slot, lsn) VALUES (%s, %s::pg_lsn)

-- name: is_attached
-- Whether the relation is in force (one boolean).
SELECT EXISTS (SELECT FROM crdt_state.replicated_table WHERE relation_oid = %s AND detached IS NULL)

-- name: is_published
-- Whether the relation is in the publication, and whether with all rows and columns (which PostgreSQL 14 cannot narrow).
SELECT count(*) > 0, count(*) FILTER (WHERE coalesce(to_jsonb(r) ->> 'prqual', to_jsonb(r) ->> 'prattrs') IS NULL) > 0
FROM pg_publication_rel AS r JOIN pg_publication AS p ON p.oid = r.prpubid
WHERE r.prrelid = %s AND p.pubname = 'crdt'

-- name: read_detached
-- Table ids of earlier attachments of the same name, whose state tables can go.
SELECT table_id FROM crdt_state.replicated_table
WHERE schema_name = %s AND table_name = %s AND detached IS NOT NULL

-- name: insert_table
-- Returns the table id.
INSERT INTO crdt_state.replicated_table (schema_name, table_name, relation_oid, row_rule, fingerprint)
VALUES (%(schema)s, %(name)s, %(relation)s, %(row_rule)s, '') RETURNING table_id

-- name: free_name
-- Another table had the name until now (two swapped theirs, or it was dropped); its own turn comes in the same round.
UPDATE crdt_state.replicated_table SET table_name = left(table_name, 48) || '~' || table_id
WHERE schema_name = %(schema)s AND table_name = %(name)s AND table_id <> %(table_id)s AND detached IS NULL

-- name: update_table
-- After a change: names, row rule and fingerprint in force.
UPDATE crdt_state.replicated_table
SET schema_name = %(schema)s, table_name = %(name)s, row_rule = %(row_rule)s, fingerprint = %(fingerprint)s
WHERE table_id = %(table_id)s

-- name: detach_table
-- The row stays for the records that name the table.
UPDATE crdt_state.replicated_table SET detached = now() WHERE table_id = %s AND detached IS NULL

-- name: delete_columns
-- All columns of a table; they are written anew from the spec in force.
DELETE FROM crdt_state.replicated_column WHERE table_id = %s

-- name: insert_column
-- One column in force.
INSERT INTO crdt_state.replicated_column (table_id, attnum, column_name, type_name, crdt, argument, key_position, former_names)
VALUES (%(table_id)s, %(attnum)s, %(name)s, %(type_name)s, %(crdt)s, %(argument)s, %(key_position)s, %(former_names)s)
