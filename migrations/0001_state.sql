-- Internal state of the sidecar (schema crdt_state). Per-table state is generated when a table is attached.
-- Every table that holds data for later readers carries a format version.

CREATE SCHEMA crdt_state;

-- This node, one row. hlc: the highest hybrid logical clock value ever issued or promised, so that a restart resumes above it.
CREATE TABLE crdt_state.node (
    singleton  boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    id         int2 NOT NULL CHECK (id BETWEEN 1 AND 1023),
    name       text NOT NULL,
    cluster    text NOT NULL,
    hlc        int8 NOT NULL DEFAULT 0,
    attached   timestamptz NOT NULL DEFAULT now()
);

-- What capture has made durable: everything committed up to lsn is in the journal; to_hlc is the journal's end, and
-- everything up to dropped_hlc has left it.
CREATE TABLE crdt_state.position (
    singleton  boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    slot       text NOT NULL,
    lsn         pg_lsn NOT NULL,
    to_hlc      int8 NOT NULL DEFAULT 0,
    dropped_hlc int8 NOT NULL DEFAULT 0
);

-- This node's clock: everything of node n up to hlc is durably merged here. Its own row is the journal's end.
-- change_hlc: the end of the last change set merged; hlc also rises with heartbeats.
CREATE TABLE crdt_state.clock (
    node       int2 PRIMARY KEY,
    hlc        int8 NOT NULL,
    change_hlc int8 NOT NULL DEFAULT 0
) WITH (fillfactor = 50);

-- The other nodes. acknowledged: how far the peer has durably merged this node's changes. The rest is the link as last seen.
CREATE TABLE crdt_state.peer (
    id              int2 PRIMARY KEY,
    name            text NOT NULL UNIQUE,
    acknowledged    int8 NOT NULL DEFAULT 0,
    journal_lost    boolean NOT NULL DEFAULT false,
    connected       boolean NOT NULL DEFAULT false,
    last_seen       timestamptz,
    clock_offset_ms float8,
    round_trip_ms   float8,
    last_error      text
) WITH (fillfactor = 50);

-- Change sets of this node in order. Partitions are made ahead and dropped as a whole.
CREATE TABLE crdt_state.journal (
    seq            int8 NOT NULL,
    part           int4 NOT NULL,
    last           boolean NOT NULL,
    from_hlc       int8 NOT NULL,
    to_hlc         int8 NOT NULL,
    header         bytea NOT NULL,
    body           bytea NOT NULL,
    format_version int2 NOT NULL,
    PRIMARY KEY (seq, part)
) PARTITION BY RANGE (seq);

-- detached: the annotation was taken away; the row stays for the records that name the table.
CREATE TABLE crdt_state.replicated_table (
    table_id     int4 GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    schema_name  name NOT NULL,
    table_name   name NOT NULL,
    relation_oid oid NOT NULL,
    row_rule     text NOT NULL,
    fingerprint  text NOT NULL,
    attached     timestamptz NOT NULL DEFAULT now(),
    detached     timestamptz
);
CREATE UNIQUE INDEX replicated_table_name ON crdt_state.replicated_table (schema_name, table_name) WHERE detached IS NULL;

-- The annotations in force; a comment that changes later is compared with these. key_position: from 1, NULL for other columns.
CREATE TABLE crdt_state.replicated_column (
    table_id     int4 NOT NULL REFERENCES crdt_state.replicated_table ON DELETE CASCADE,
    attnum       int2 NOT NULL,
    column_name  name NOT NULL,
    type_name    text NOT NULL,
    crdt         text NOT NULL,
    argument     text,
    key_position int2,
    PRIMARY KEY (table_id, attnum)
);

-- Local rows whose merged value differs from what the application wrote; the merge loop rewrites them.
CREATE TABLE crdt_state.rewrite (
    id       int8 GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    table_id int4 NOT NULL,
    row_key  text[] NOT NULL
);

CREATE TABLE crdt_state.conflict (
    id             uuid PRIMARY KEY,
    table_id       int4 NOT NULL,
    row_key        jsonb NOT NULL,
    column_name    name,
    rule           text NOT NULL,
    winner_node    int2 NOT NULL,
    winner_hlc     int8 NOT NULL,
    winner_value   text,
    loser_node     int2 NOT NULL,
    loser_hlc      int8 NOT NULL,
    loser_value    text,
    detected       timestamptz NOT NULL DEFAULT now(),
    format_version int2 NOT NULL DEFAULT 1
);
CREATE INDEX conflict_detected ON crdt_state.conflict (detected);

-- Changes that can never apply as they are: kept whole, with the reason, while the stream goes on.
CREATE TABLE crdt_state.quarantine (
    id             int8 GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    origin         int2 NOT NULL,
    from_hlc       int8 NOT NULL,
    to_hlc         int8 NOT NULL,
    table_name     text NOT NULL,
    row_key        jsonb,
    change         jsonb,
    sqlstate       text NOT NULL,
    reason         text NOT NULL,
    detected       timestamptz NOT NULL DEFAULT now(),
    format_version int2 NOT NULL DEFAULT 1
);

-- Appends "was seen" (node, hlc) to the further entries of a column's version vector, kept as {node,hlc,node,hlc,...}.
CREATE FUNCTION crdt_state.vector_add(vector int8[], node int8, hlc int8, winner int8) RETURNS int8[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT array_agg(e ORDER BY n, o)
    FROM (
        SELECT v.n, max(v.h) AS h
        FROM (
            SELECT vector[i] AS n, vector[i + 1] AS h FROM generate_series(1, coalesce(array_length(vector, 1), 0), 2) AS i
            UNION ALL SELECT node, hlc
        ) AS v
        WHERE v.n IS DISTINCT FROM winner AND v.h > 0
        GROUP BY v.n
    ) AS entries, LATERAL (VALUES (1, entries.n), (2, entries.h)) AS pair (o, e)
$$;
