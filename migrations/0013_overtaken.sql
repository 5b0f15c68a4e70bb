-- Merges that put rows where there were none, until capture has passed them. A key that was inserted and deleted (or
-- truncated) here a moment before looks absent and clean to a merge; capture, which comes to those local changes later,
-- finds out by this that they were before the merge and not after it. snapshot: of the merge, when its rows were in place.
-- A merge writes some kilobytes of log and some hundred bytes here, so this stays far below what the slot holds.
CREATE TABLE crdt_state.overtaking (
    xid       xid NOT NULL,
    table_ids int4[] NOT NULL,
    snapshot  pg_snapshot NOT NULL,
    lsn       pg_lsn NOT NULL
);

CREATE INDEX overtaking_xid ON crdt_state.overtaking USING hash (xid);

-- Whether a snapshot of the last 2^31 transactions shows a committed one.
CREATE FUNCTION crdt_state.shows(snapshot pg_snapshot, committed xid) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT m.age < 2147483648 AND pg_visible_in_snapshot((m.xmax - m.age)::text::xid8, snapshot)
    FROM (SELECT x.xmax, (x.xmax - committed::text::int8) & 4294967295 AS age
          FROM (SELECT pg_snapshot_xmax(snapshot)::text::int8 AS xmax) AS x) AS m
$$;

-- With a value: the row is deleted as by the application, if a delete at this hlc still wins (it was overtaken by a merge).
ALTER TABLE crdt_state.rewrite ADD COLUMN deleted_hlc int8;
