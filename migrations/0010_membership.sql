-- Who is no longer a member: a node that left, or was removed. A fact for ever, told from node to node; the id is never
-- used again, because the node's versions keep it.

-- departed: NULL for a member. The node itself is 'leaving' from the moment it tells the others until one of them has it
-- durably. holder: the node that has all of its changes, up to change_hlc; nothing follows up to hlc.
ALTER TABLE crdt_state.member
    ADD COLUMN departed    text CHECK (departed IN ('leaving', 'left', 'removed')),
    ADD COLUMN departed_ms int8,
    ADD COLUMN departed_by text,
    ADD COLUMN holder      int2,
    ADD COLUMN change_hlc  int8,
    ADD COLUMN hlc         int8,
    ADD CHECK (departed IS NULL OR num_nonnulls(departed_ms, departed_by, holder, change_hlc, hlc) = 5);

-- What sidecar leave or sidecar remove wants of the running sidecar; one at a time. node: whom. until: nobody waits for it
-- any longer. progress: what it is doing, in words. outcome: NULL while it is under way.
CREATE TABLE crdt_state.membership_request (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    id        int8 GENERATED ALWAYS AS IDENTITY,
    kind      text NOT NULL CHECK (kind IN ('leave', 'remove')),
    node      int2 NOT NULL,
    forced    boolean NOT NULL,
    until     timestamptz NOT NULL,
    progress  text NOT NULL DEFAULT '',
    lacking   int8,
    outcome   text CHECK (outcome IN ('done', 'refused')),
    mend      text NOT NULL DEFAULT ''
) WITH (fillfactor = 50);

-- Nodes that this database was. It stays when the sidecar leaves the database, with the function that makes keys.
CREATE TABLE IF NOT EXISTS crdt.former_node (
    id      int2 NOT NULL,
    name    text NOT NULL,
    cluster text NOT NULL,
    left_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (cluster, id)
);

-- As before, and whether it is a member.
CREATE OR REPLACE VIEW crdt.nodes AS
    SELECT i.id, crdt_state.node_name(i.id) AS name, l.id IS NOT NULL AS is_local, p.connected, p.last_seen,
           c.hlc AS clock, crdt.hlc_text(c.hlc) AS clock_shown, p.acknowledged, p.clock_offset_ms, p.last_error,
           coalesce(m.departed, 'member') AS state
    FROM (SELECT n.id FROM crdt_state.named_node AS n WHERE n.id <> 0
          UNION SELECT k.node FROM crdt_state.clock AS k) AS i
    LEFT JOIN crdt_state.node AS l ON l.id = i.id
    LEFT JOIN crdt_state.peer AS p ON p.id = i.id AND l.id IS NULL
    LEFT JOIN crdt_state.clock AS c ON c.node = i.id
    LEFT JOIN crdt_state.member AS m ON m.id = i.id
    ORDER BY i.id;

-- As before, of this node's own change sets and of members; none for a node without a link, which acknowledges to its own
-- peers.
CREATE OR REPLACE VIEW crdt.lag AS
    WITH present AS (SELECT extract(epoch FROM clock_timestamp()) * 1000 AS ms)
    SELECT n.id AS node, n.name, n.is_local, n.clock_shown AS clock,
           greatest(0, present.ms - (n.clock >> 16))::float8 AS behind_ms,
           j.change_sets AS unacknowledged_change_sets,
           CASE WHEN j.change_sets IS NOT NULL THEN greatest(0, coalesce(present.ms - (j.oldest >> 16), 0)) END::float8
               AS unacknowledged_ms,
           j.bytes AS unacknowledged_bytes
    FROM crdt.nodes AS n
    CROSS JOIN present
    LEFT JOIN LATERAL (
        SELECT count(*) FILTER (WHERE q.last) AS change_sets, min(q.to_hlc) AS oldest,
               coalesce(sum(octet_length(q.header) + octet_length(q.body)), 0)::int8 AS bytes
        FROM crdt_state.journal AS q
        WHERE q.origin IS NULL AND q.to_hlc > coalesce(n.acknowledged, 0)
    ) AS j ON n.acknowledged IS NOT NULL
    WHERE n.state IN ('member', 'leaving');
