-- Who this database is: by this a copy of it, or an older state of it, is told from the node itself before it does damage.

-- incarnation: this attachment of this database, for ever. generation: rises when the database takes the place of another one
-- under the same id (a join), so that of the two the later one counts. server and database_oid: where the database was attached
-- (the system identifier of pg_controldata); elsewhere it is a copy, or was moved. NULL: not looked at yet.
ALTER TABLE crdt_state.node
    ADD COLUMN incarnation  uuid NOT NULL DEFAULT gen_random_uuid(),
    ADD COLUMN generation   int8 NOT NULL DEFAULT 1,
    ADD COLUMN server       text,
    ADD COLUMN database_oid oid;

-- The latest starts of the sidecar, each written down before its first link: what it was named, and up to where this node's
-- changes went then. A copy of the files has the starts of before the copying and others after it.
CREATE TABLE crdt_state.start (
    number  int8 PRIMARY KEY,
    boot_id text NOT NULL,
    hlc     int8 NOT NULL,
    started timestamptz NOT NULL DEFAULT now()
);

-- Who a peer was when it was linked last: its incarnation and generation, its start, and the end of its own changes as that
-- start has told it.
ALTER TABLE crdt_state.peer
    ADD COLUMN incarnation text NOT NULL DEFAULT '',
    ADD COLUMN generation  int8 NOT NULL DEFAULT 0,
    ADD COLUMN start       int8 NOT NULL DEFAULT 0,
    ADD COLUMN boot_id     text NOT NULL DEFAULT '',
    ADD COLUMN told_hlc    int8 NOT NULL DEFAULT 0;
