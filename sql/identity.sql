-- Who this database is, and who the others were (sidecar/postgres/identity.py).

-- name: read_place
-- The system identifier and the database's oid as recorded, and the node's name: one row, none before init.
SELECT server, database_oid::int8, name FROM crdt_state.node;

-- name: present_oid
-- The oid of this database.
SELECT oid::int8 FROM pg_database WHERE datname = current_database();

-- name: may_read_server
-- Whether the role may look at the control file.
SELECT has_function_privilege('pg_control_system()', 'EXECUTE');

-- name: read_server
-- The system identifier, an unsigned number of 64 bits.
SELECT CASE WHEN system_identifier < 0 THEN system_identifier + 18446744073709551616 ELSE system_identifier END::text
FROM pg_control_system();

-- name: store_place
-- Where the database is.
UPDATE crdt_state.node SET server = %s, database_oid = %s::int8::oid;

-- name: read_identity
-- incarnation, generation: one row.
SELECT incarnation::text, generation FROM crdt_state.node;

-- name: add_start
-- The present start; what the others may have of this node ends at the clock.
INSERT INTO crdt_state.start (number, boot_id, hlc)
SELECT coalesce((SELECT max(number) FROM crdt_state.start), 0) + 1, %s,
       coalesce((SELECT c.hlc FROM crdt_state.clock AS c JOIN crdt_state.node AS n ON n.id = c.node), 0);

-- name: trim_starts
-- Only the latest are told.
DELETE FROM crdt_state.start WHERE number <= (SELECT max(number) FROM crdt_state.start) - %s;

-- name: read_starts
-- In order.
SELECT number, boot_id, hlc FROM crdt_state.start ORDER BY number;

-- name: renew
-- The database takes the place of another one of this id, whose generation was $1.
WITH gone AS (DELETE FROM crdt_state.start)
UPDATE crdt_state.node SET incarnation = gen_random_uuid(),
    generation = greatest(generation, $1::int8, extract(epoch FROM clock_timestamp())::int8) + 1;

-- name: read_own_as_met
-- What another node's database knows of this one ($1), and what it is here: no row where it was never linked.
SELECT incarnation, generation FROM crdt_state.peer WHERE id = $1::int2 AND incarnation <> '';

-- name: read_met
-- Who the peers were when they were linked last.
SELECT id, name, incarnation, generation, start, boot_id, told_hlc FROM crdt_state.peer WHERE boot_id <> '' OR incarnation <> '';

-- name: store_met
-- The same, of peers that are known by id.
UPDATE crdt_state.peer AS p
SET incarnation = m.incarnation, generation = m.generation, start = m.start, boot_id = m.boot_id, told_hlc = m.told_hlc
FROM unnest($1::int2[], $2::text[], $3::int8[], $4::int8[], $5::text[], $6::int8[])
     AS m (id, incarnation, generation, start, boot_id, told_hlc)
WHERE p.id = m.id RETURNING p.id;
