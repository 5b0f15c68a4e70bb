-- name: note_overtaking
-- At the end of a merge: it ($1: and its subtransactions) has put rows into these tables ($2).
INSERT INTO crdt_state.overtaking (xid, table_ids, snapshot, lsn)
SELECT x.xid, $2::int4[], pg_current_snapshot(), pg_current_wal_insert_lsn()
FROM (SELECT pg_current_xact_id()::xid UNION ALL SELECT unnest($1::text[])::xid) AS x(xid)
RETURNING lsn::text;

-- name: read_overtaking
-- The tables into which merges have put rows, up to a position of the log each, as far as capture has not passed it.
SELECT table_ids, max(lsn)::text AS lsn FROM crdt_state.overtaking AS o
WHERE o.lsn > (SELECT lsn FROM crdt_state.position) GROUP BY table_ids;

-- name: trim_overtaking
-- What capture has passed.
DELETE FROM crdt_state.overtaking WHERE lsn <= (SELECT lsn FROM crdt_state.position);
