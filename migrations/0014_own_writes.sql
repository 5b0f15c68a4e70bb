-- Whether a row that a statement sees was written by its own transaction, below a savepoint, too: of all that it sees,
-- nothing else is in progress. An xid that is 2^31 or more behind the newest is one above it: of this transaction.
CREATE FUNCTION crdt_state.is_own(written xid) RETURNS boolean
LANGUAGE sql VOLATILE
AS $$
    SELECT m.age >= 2147483648 OR pg_xact_status((m.xmax - m.age)::text::xid8) = 'in progress'
    FROM (SELECT x.xmax, (x.xmax - written::text::int8) & 4294967295 AS age
          FROM (SELECT pg_snapshot_xmax(pg_current_snapshot())::text::int8 AS xmax) AS x) AS m
$$;

-- Every view and table of the surface may be read by whoever may use the schema.
GRANT SELECT ON crdt.former_node TO PUBLIC;
