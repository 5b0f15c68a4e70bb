-- name: read_node
-- This node and where it stands: one row, none before init.
SELECT n.id, n.name, n.cluster, n.hlc, p.slot, p.lsn::text AS lsn, p.to_hlc, p.relaying,
       greatest(coalesce((SELECT max(seq) FROM crdt_state.journal), 0), coalesce((
           SELECT max(substring(pg_get_expr(c.relpartbound, c.oid) FROM 'FROM \(''?(\d+)')::int8) - 1
           FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid
           WHERE i.inhparent = 'crdt_state.journal'::regclass), 0)) AS seq
FROM crdt_state.node AS n, crdt_state.position AS p;

-- name: read_clock
-- This node's clock.
SELECT node, hlc, change_hlc FROM crdt_state.clock;

-- name: insert_part
-- One part of a change set.
INSERT INTO crdt_state.journal (seq, part, last, from_hlc, to_hlc, header, body, format_version)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8);

-- name: finish
-- Everything up to the LSN ($1) is in the journal, which ends at an hlc ($2); this node ($3) has issued hlcs up to $4.
WITH captured AS (
    UPDATE crdt_state.position SET lsn = greatest(lsn, $1::text::pg_lsn), to_hlc = greatest(to_hlc, $2::int8)
), issued AS (
    UPDATE crdt_state.node SET hlc = greatest(hlc, $4::int8)
)
INSERT INTO crdt_state.clock AS c (node, hlc) VALUES ($3::int2, $2::int8)
ON CONFLICT (node) DO UPDATE SET hlc = greatest(c.hlc, excluded.hlc);

-- name: finish_with_part
-- The same with the last part of the change set ($5 to $12): one round trip instead of two for every change set.
WITH captured AS (
    UPDATE crdt_state.position SET lsn = greatest(lsn, $1::text::pg_lsn), to_hlc = greatest(to_hlc, $2::int8)
), issued AS (
    UPDATE crdt_state.node SET hlc = greatest(hlc, $4::int8)
), part AS (
    INSERT INTO crdt_state.journal (seq, part, last, from_hlc, to_hlc, header, body, format_version)
    VALUES ($5, $6, $7, $8, $9, $10, $11, $12)
)
INSERT INTO crdt_state.clock AS c (node, hlc, change_hlc) VALUES ($3::int2, $2::int8, $2::int8)
ON CONFLICT (node) DO UPDATE
SET hlc = greatest(c.hlc, excluded.hlc), change_hlc = greatest(c.change_hlc, excluded.change_hlc);

-- name: advance_clock
-- A merged interval (from, to] of an origin: touches one row, or none when it does not fit (gap or duplicate). $4 is its
-- end, or 0 when nothing was committed in it (a heartbeat).
INSERT INTO crdt_state.clock AS c (node, hlc, change_hlc)
SELECT $1::int2, $3::int8, $4::int8
WHERE $2::int8 <= 0 OR EXISTS (SELECT FROM crdt_state.clock WHERE node = $1::int2)
ON CONFLICT (node) DO UPDATE SET hlc = excluded.hlc, change_hlc = greatest(c.change_hlc, excluded.change_hlc)
WHERE c.hlc >= $2 AND c.hlc < $3
RETURNING hlc;

-- name: read_parts
-- The next parts after a position in the journal, in order.
SELECT seq, part, last, header, body FROM crdt_state.journal
WHERE (seq, part) > ($1, $2) ORDER BY seq, part LIMIT $3;

-- name: find_seq
-- For a peer that has everything of this node up to an hlc: the last change set it has, and up to where the journal was dropped.
SELECT coalesce((SELECT max(seq) FROM crdt_state.journal WHERE last AND origin IS NULL AND to_hlc <= $1),
                (SELECT min(seq) - 1 FROM crdt_state.journal), 0) AS seq,
       (SELECT dropped_hlc FROM crdt_state.position) AS dropped_hlc;

-- name: store_dropped
-- This node's own part of the journal begins after this hlc.
UPDATE crdt_state.position SET dropped_hlc = greatest(dropped_hlc, $1);

-- name: raise_floors
-- Change sets of other nodes ($1) up to an hlc each ($2) leave the journal.
INSERT INTO crdt_state.relay_floor AS f (origin, hlc) SELECT * FROM unnest($1::int2[], $2::int8[])
ON CONFLICT (origin) DO UPDATE SET hlc = greatest(f.hlc, excluded.hlc);

-- name: acknowledged_seq
-- The last change set of this node that every peer has durably merged.
SELECT max(seq) FROM crdt_state.journal WHERE last AND origin IS NULL AND to_hlc <= $1;

-- name: sets_after
-- How many change sets of this node stand after a position in the journal.
SELECT count(*) FROM crdt_state.journal WHERE seq > $1 AND last AND origin IS NULL;

-- name: partitions
-- The journal's partitions, oldest first: name, first and last possible seq, bytes.
SELECT c.relname AS name,
       substring(pg_get_expr(c.relpartbound, c.oid) FROM 'FROM \(''?(\d+)')::int8 AS first_seq,
       substring(pg_get_expr(c.relpartbound, c.oid) FROM 'TO \(''?(\d+)')::int8 AS end_seq,
       pg_total_relation_size(c.oid) AS bytes
FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid
WHERE i.inhparent = 'crdt_state.journal'::regclass ORDER BY 2;

-- name: insert_lsn
-- The end of the log: everything committed so far lies before it.
SELECT pg_current_wal_insert_lsn()::text;

-- name: forget_namesake
-- A node that was made anew has its old name and another id ($1); the one it was ($2 is the name) is no more.
DELETE FROM crdt_state.peer WHERE name = $2::text AND id <> $1::int2;

-- name: store_peer
-- A peer as last seen; not one that has left or was removed. What it has acknowledged falls when it was made anew under its
-- old id.
INSERT INTO crdt_state.peer AS p
    (id, name, acknowledged, connected, last_seen, clock_offset_ms, round_trip_ms, last_error)
SELECT $1::int2, $2::text, $3::int8, $4::boolean, $5::timestamptz, $6::float8, $7::float8, $8::text
WHERE NOT EXISTS (SELECT FROM crdt_state.member AS m WHERE m.id = $1::int2 AND m.departed IS NOT NULL)
ON CONFLICT (id) DO UPDATE SET name = excluded.name, acknowledged = excluded.acknowledged,
    connected = excluded.connected, last_seen = coalesce(excluded.last_seen, p.last_seen),
    clock_offset_ms = excluded.clock_offset_ms, round_trip_ms = excluded.round_trip_ms,
    last_error = excluded.last_error;

-- name: read_peers
-- Peers known from earlier links.
SELECT id, name, acknowledged FROM crdt_state.peer;

-- name: mark_journal_lost
-- Peers whose unmerged changes are no longer in the journal.
UPDATE crdt_state.peer SET journal_lost = true WHERE acknowledged < $1 AND NOT journal_lost RETURNING name;

-- name: read_rewrites
-- Local rows to be rewritten, oldest first.
SELECT id, table_id, row_key, deleted_hlc FROM crdt_state.rewrite ORDER BY id LIMIT $1;

-- name: forget_rewrites
-- Rewrites that are done.
DELETE FROM crdt_state.rewrite WHERE id = ANY ($1::int8[]);

-- name: give_up_rewrite
-- A rewrite that cannot apply, from the queue into the quarantine.
WITH gone AS (DELETE FROM crdt_state.rewrite WHERE id = $1 RETURNING table_id, row_key)
INSERT INTO crdt_state.quarantine (origin, from_hlc, to_hlc, table_name, row_key, sqlstate, reason)
SELECT $2::int2, 0, 0, t.schema_name || '.' || t.table_name, to_jsonb(g.row_key), $3::text,
       'the merged value cannot be shown: ' || $4::text
FROM gone AS g JOIN crdt_state.replicated_table AS t USING (table_id);

-- name: trim_conflicts
-- Conflict records beyond the age in days or the number of rows: the oldest go, 100,000 at a time (10,000 a second), so
-- that the session is free again soon.
DELETE FROM crdt_state.conflict WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM crdt_state.conflict WHERE detected < now() - make_interval(days => $1::int4)
    OR detected < (SELECT detected FROM crdt_state.conflict ORDER BY detected DESC OFFSET $2 LIMIT 1)
    ORDER BY detected LIMIT 100000));

-- name: try_own_node
-- Whether this session now holds the right to be the one sidecar of this database. The key spells "crdt".
SELECT pg_try_advisory_lock(1668441204, 1);

-- name: quarantine_local
-- A local change that cannot be replicated, by its key ($5) alone; with its SQLSTATE ($6).
INSERT INTO crdt_state.quarantine (origin, from_hlc, to_hlc, table_name, row_key, sqlstate, reason)
VALUES ($1, $2, $2, $3, $5::jsonb, $6, $4);

-- name: nudge
-- A tiny commit that is flushed, and with it everything before it.
BEGIN; SET LOCAL synchronous_commit = on; SELECT pg_logical_emit_message(true, 'crdt', ''); COMMIT;
