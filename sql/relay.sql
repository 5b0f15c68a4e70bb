-- name: begin
-- From now on what is merged is put into the journal. What was merged before, without relay, is not in it.
WITH begun AS (
    UPDATE crdt_state.position SET relaying = true WHERE NOT relaying RETURNING singleton
)
INSERT INTO crdt_state.relay_floor AS f (origin, hlc)
SELECT c.node, c.change_hlc FROM crdt_state.clock AS c
WHERE EXISTS (SELECT FROM begun) AND c.change_hlc > 0 AND c.node NOT IN (SELECT n.id FROM crdt_state.node AS n)
ON CONFLICT (origin) DO UPDATE SET hlc = greatest(f.hlc, excluded.hlc);

-- name: stop
-- What is merged from now on is not put into the journal.
UPDATE crdt_state.position SET relaying = false WHERE relaying;

-- name: read_floors
-- Up to where the journal lacks the change sets of other nodes.
SELECT origin, hlc FROM crdt_state.relay_floor;

-- name: insert_part
-- One part of another node's change set.
INSERT INTO crdt_state.journal (seq, part, last, from_hlc, to_hlc, header, body, format_version, origin)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9);

-- name: first_lacking
-- The first change set of other nodes that somebody lacks who has each origin ($1) up to an hlc ($2).
SELECT min(f.seq) FROM unnest($1::int2[], $2::int8[]) AS c (origin, hlc)
CROSS JOIN LATERAL (
    SELECT j.seq FROM crdt_state.journal AS j WHERE j.origin = c.origin AND j.to_hlc > c.hlc ORDER BY j.to_hlc LIMIT 1
) AS f;

-- name: store_peer_clocks
-- How far peers ($1) have durably merged the change sets of other nodes ($2).
INSERT INTO crdt_state.peer_clock AS p (peer, origin, hlc)
SELECT * FROM unnest($1::int2[], $2::int2[], $3::int8[])
ON CONFLICT (peer, origin) DO UPDATE SET hlc = excluded.hlc WHERE p.hlc <> excluded.hlc;

-- name: read_peer_clocks
-- The same.
SELECT peer, origin, hlc FROM crdt_state.peer_clock;

-- name: store_members
-- Nodes without a link to this one, by id and name.
INSERT INTO crdt_state.member AS m (id, name) SELECT * FROM unnest($1::int2[], $2::text[])
ON CONFLICT (id) DO UPDATE SET name = excluded.name WHERE m.name <> excluded.name;

-- name: read_members
-- The same.
SELECT id, name FROM crdt_state.member;
