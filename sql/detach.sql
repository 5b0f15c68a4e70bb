-- Taking the sidecar out of a database that has left (sidecar/postgres/detach.py).

-- name: dependents
-- Relations of users that stand on the sidecar's and would go with them: name; keys' defaults stay.
SELECT DISTINCT v.oid::regclass::text
FROM pg_rewrite AS r
JOIN pg_class AS v ON v.oid = r.ev_class
JOIN pg_depend AS d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
LEFT JOIN pg_class AS c ON d.refclassid = 'pg_class'::regclass AND c.oid = d.refobjid
LEFT JOIN pg_proc AS p ON d.refclassid = 'pg_proc'::regclass AND p.oid = d.refobjid
WHERE coalesce(c.relnamespace, p.pronamespace)::regnamespace::text IN ('crdt', 'crdt_state')
  AND v.relnamespace::regnamespace::text NOT IN ('crdt', 'crdt_state')
  AND p.proname IS DISTINCT FROM 'uuidv7'
ORDER BY 1

-- name: try_lock
-- Whether this session now holds the right to be the one sidecar of this database.
SELECT pg_try_advisory_lock(1668441204, 1)

-- name: read_departure
-- Whether this node has left: departed, and when in Unix milliseconds; no row for a member.
SELECT m.departed, m.departed_ms FROM crdt_state.member AS m JOIN crdt_state.node AS n ON n.id = m.id
WHERE m.departed IS NOT NULL

-- name: mark_left
-- Where it was left by force and not even written down: nothing starts here again.
INSERT INTO crdt_state.member AS m (id, name, departed, departed_ms, departed_by, holder, change_hlc, hlc)
SELECT n.id, n.name, 'left', (extract(epoch FROM clock_timestamp()) * 1000)::int8, n.name, n.id,
       coalesce(c.change_hlc, 0), coalesce(c.hlc, 0)
FROM crdt_state.node AS n LEFT JOIN crdt_state.clock AS c ON c.node = n.id
ON CONFLICT (id) DO UPDATE SET departed = 'left' WHERE m.departed IS DISTINCT FROM 'left'

-- name: read_slot
-- This node's slot, if it is there.
SELECT s.slot_name::text FROM pg_replication_slots AS s JOIN crdt_state.position AS p ON p.slot = s.slot_name
WHERE s.database = current_database()

-- name: drop_slot
-- Fails while it is read.
SELECT pg_drop_replication_slot(%s)

-- name: drop_publication
-- Published tables stay.
DROP PUBLICATION IF EXISTS crdt

-- name: full_tables
-- The tables whose replica identity init made full, quoted.
SELECT c.oid::regclass::text FROM pg_class AS c
WHERE c.relreplident = 'f' AND c.oid IN (SELECT relation_oid FROM crdt_state.replicated_table)
ORDER BY 1

-- name: origins
-- The replication origins of this database's sidecar.
SELECT o.roname::text FROM pg_replication_origin AS o, pg_database AS d
WHERE d.datname = current_database() AND o.roname LIKE 'crdt\_' || d.oid || '\_%'

-- name: drop_origin
-- Needs a privilege that the role may lack.
SELECT pg_replication_origin_drop(%s)

-- name: partitions
-- The journal's partitions: dropped some at a time, each takes a lock.
SELECT c.oid::regclass::text FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid
WHERE i.inhparent = to_regclass('crdt_state.journal') ORDER BY 1

-- name: remember
-- What stays: who this database was.
INSERT INTO crdt.former_node (id, name, cluster) SELECT n.id, n.name, n.cluster FROM crdt_state.node AS n
ON CONFLICT (cluster, id) DO UPDATE SET name = excluded.name, left_at = excluded.left_at

-- name: drop_state
-- Views of the schema crdt go with it.
DROP SCHEMA crdt_state CASCADE

-- name: drop_surface
-- All of the schema crdt but the keys' function, which columns may have as their default, and the memory of what was.
DO $do$
DECLARE
    thing record;
BEGIN
    FOR thing IN SELECT c.oid::regclass AS name FROM pg_class AS c
                 WHERE c.relnamespace = 'crdt'::regnamespace AND c.relkind = 'v' LOOP
        EXECUTE format('DROP VIEW IF EXISTS %s CASCADE', thing.name);
    END LOOP;
    FOR thing IN SELECT p.oid::regprocedure AS name FROM pg_proc AS p
                 WHERE p.pronamespace = 'crdt'::regnamespace AND p.proname <> 'uuidv7' LOOP
        EXECUTE format('DROP FUNCTION IF EXISTS %s CASCADE', thing.name);
    END LOOP;
END
$do$
