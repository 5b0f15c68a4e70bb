-- name: read_source
-- The node to copy from: one row.
SELECT n.id, n.name, n.cluster, n.joining FROM crdt_state.node AS n;

-- name: read_clock
-- Its clock.
SELECT node, hlc, change_hlc FROM crdt_state.clock;

-- name: read_truncations
-- The tables whose genesis rows were deleted by a TRUNCATE.
SELECT table_id, node, hlc FROM crdt_state.truncation;

-- name: xid_floor
-- All transactions below this xid have ended.
SELECT pg_snapshot_xmin(pg_current_snapshot())::text::int8 & 4294967295;

-- name: captured
-- Up to where the log is captured, and whether that is everything before a position ($1).
SELECT c.lsn::text, c.lsn >= $1::text::pg_lsn AS enough FROM (SELECT greatest(p.lsn, s.confirmed_flush_lsn) AS lsn
FROM crdt_state.position AS p LEFT JOIN pg_replication_slots AS s ON s.slot_name = p.slot) AS c;

-- name: table_size
-- A table: pages, and rows as the server estimates them (-1: not known).
SELECT pg_relation_size($1::text::regclass) / current_setting('block_size')::int8 AS pages,
       (SELECT c.reltuples::int8 FROM pg_class AS c WHERE c.oid = $1::text::regclass) AS rows;

-- name: begin_joining
-- A join from a node ($1) is under way. Nothing here gets a version below what the cluster has issued ($2); this node's next
-- change set follows what the others have of it ($3). Whether they have that from another database of this node ($4).
WITH captured AS (
    UPDATE crdt_state.position SET to_hlc = greatest(to_hlc, $3::int8),
        dropped_hlc = CASE WHEN $4::boolean THEN greatest(dropped_hlc, $3::int8) ELSE dropped_hlc END
), clock AS (
    UPDATE crdt_state.clock SET hlc = greatest(hlc, $3::int8) WHERE node = (SELECT id FROM crdt_state.node)
)
UPDATE crdt_state.node SET joining = $1, hlc = greatest(hlc, $2::int8), joining_anew = joining_anew OR $4::boolean
RETURNING joining_anew;

-- name: raise_clock
-- The clock after a copy: nodes ($1), their clocks ($2) and the ends of their last change sets ($3).
INSERT INTO crdt_state.clock AS c (node, hlc, change_hlc) SELECT * FROM unnest($1::int2[], $2::int8[], $3::int8[])
ON CONFLICT (node) DO UPDATE
SET hlc = greatest(c.hlc, excluded.hlc), change_hlc = greatest(c.change_hlc, excluded.change_hlc);

-- name: finish_joining
-- The join is done. What others sent is not in the journal.
WITH done AS (UPDATE crdt_state.node SET joining = NULL, joining_anew = false)
UPDATE crdt_state.position SET relaying = false;

-- name: joining
-- The node from which a join was begun and not finished.
SELECT joining FROM crdt_state.node;
