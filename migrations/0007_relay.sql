-- Relay: a node may keep change sets of other nodes in its journal and hand them on.

-- origin: the node whose change set it is; NULL for this node itself, as for all rows from before this column. Only a node
-- with relay writes others, so without it nothing is longer and nothing enters the index.
ALTER TABLE crdt_state.journal ADD COLUMN origin int2;
CREATE INDEX journal_relayed ON crdt_state.journal (origin, to_hlc) WHERE origin IS NOT NULL;

-- relaying: everything merged since it became true is in the journal too. Whoever raises the clock in another way (a copy
-- of another node's state) sets it to false, and the next start with relay begins anew.
ALTER TABLE crdt_state.position ADD COLUMN relaying boolean NOT NULL DEFAULT false;

-- Up to which hlc the journal does not hold the change sets of another node: merged before relay was on, or dropped.
-- A node that is not here has all of its change sets in the journal.
CREATE TABLE crdt_state.relay_floor (
    origin int2 PRIMARY KEY,
    hlc    int8 NOT NULL
);

-- How far a peer that takes relayed change sets has durably merged those of other nodes: they are kept for it while it is
-- away. What it has of this node is in crdt_state.peer.
CREATE TABLE crdt_state.peer_clock (
    peer   int2 NOT NULL,
    origin int2 NOT NULL,
    hlc    int8 NOT NULL,
    PRIMARY KEY (peer, origin)
) WITH (fillfactor = 50);

-- Nodes of the cluster that this node has no link to, as its peers name them.
CREATE TABLE crdt_state.member (
    id   int2 PRIMARY KEY CHECK (id BETWEEN 1 AND 1023),
    name text NOT NULL
);

CREATE OR REPLACE VIEW crdt_state.named_node AS
    SELECT 0::int2 AS id, 'genesis'::text AS name
    UNION ALL SELECT n.id, n.name FROM crdt_state.node AS n
    UNION ALL SELECT p.id, p.name FROM crdt_state.peer AS p WHERE p.id NOT IN (SELECT n.id FROM crdt_state.node AS n)
    UNION ALL SELECT m.id, m.name FROM crdt_state.member AS m
              WHERE m.id NOT IN (SELECT n.id FROM crdt_state.node AS n UNION ALL SELECT p.id FROM crdt_state.peer AS p);
