-- What sidecar leave and sidecar remove read and write beside the running sidecar (sidecar/postgres/requests.py).

-- name: is_attached
-- Whether there is a node here: one boolean.
SELECT to_regclass('crdt_state.node') IS NOT NULL

-- name: read_self
-- This node: id, name, cluster; no row when no init came to its end.
SELECT n.id, n.name, n.cluster FROM crdt_state.node AS n

-- name: is_running
-- Whether a sidecar has the right to be this database's; the key spells "crdt".
SELECT EXISTS (SELECT FROM pg_locks AS l JOIN pg_database AS d ON d.oid = l.database
               WHERE d.datname = current_database() AND l.locktype = 'advisory' AND l.granted
                 AND l.classid = 1668441204 AND l.objid = 1 AND l.objsubid = 2)

-- name: find_node
-- Nodes other than this one by name, or by id (an integer or NULL): id, name, departed, departed_ms, departed_by. Members
-- come first.
SELECT k.id, k.name, m.departed, m.departed_ms, m.departed_by
FROM crdt_state.named_node AS k LEFT JOIN crdt_state.member AS m ON m.id = k.id
WHERE k.id <> 0 AND (k.name = %(name)s OR k.id = %(id)s::int4)
ORDER BY m.departed IS NOT NULL, k.id

-- name: ask
-- A request, in the place of one that is over: its id; no row while another is under way.
INSERT INTO crdt_state.membership_request AS r (kind, node, forced, until)
VALUES (%(kind)s, %(node)s, %(forced)s, clock_timestamp() + %(seconds)s * interval '1 second')
ON CONFLICT (singleton) DO UPDATE
SET id = DEFAULT, kind = excluded.kind, node = excluded.node, forced = excluded.forced, until = excluded.until,
    progress = '', lacking = NULL, outcome = NULL, mend = ''
WHERE r.outcome IS NOT NULL OR r.until <= clock_timestamp()
RETURNING r.id

-- name: look
-- How far a request is: outcome, progress, lacking, mend; no row when it is no longer there.
SELECT r.outcome, r.progress, r.lacking, r.mend FROM crdt_state.membership_request AS r WHERE r.id = %s

-- name: withdraw
-- Nobody waits for it any more.
UPDATE crdt_state.membership_request SET until = clock_timestamp() WHERE id = %s AND outcome IS NULL

-- name: remove
-- Without a sidecar that could ask the others: the fact as far as it is known here.
WITH fact AS (
    SELECT %(id)s::int2 AS id, %(name)s::text AS name, n.name AS departed_by, n.id AS holder,
           (extract(epoch FROM clock_timestamp()) * 1000)::int8 AS departed_ms,
           coalesce(c.change_hlc, 0) AS change_hlc, coalesce(c.hlc, 0) AS hlc
    FROM crdt_state.node AS n LEFT JOIN crdt_state.clock AS c ON c.node = %(id)s::int2
), peer AS (
    DELETE FROM crdt_state.peer WHERE id = %(id)s::int2
), clock AS (
    DELETE FROM crdt_state.peer_clock WHERE peer = %(id)s::int2
)
INSERT INTO crdt_state.member AS m (id, name, departed, departed_ms, departed_by, holder, change_hlc, hlc)
SELECT f.id, f.name, 'removed', f.departed_ms, f.departed_by, f.holder, f.change_hlc, f.hlc FROM fact AS f
ON CONFLICT (id) DO UPDATE
SET departed = excluded.departed, departed_ms = excluded.departed_ms, departed_by = excluded.departed_by,
    holder = excluded.holder, change_hlc = excluded.change_hlc, hlc = excluded.hlc
WHERE m.departed IS NULL
