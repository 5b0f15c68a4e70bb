-- Who has left or was removed, as the running sidecar reads and writes it (sidecar/postgres/membership.py).

-- name: read_departed
-- All of them, also this node itself while or after it leaves.
SELECT id, name, departed, departed_ms, departed_by, holder, change_hlc, hlc
FROM crdt_state.member WHERE departed IS NOT NULL;

-- name: store_departed
-- Facts, one array per column; what was held back for these nodes is held back no longer.
WITH fact AS (
    SELECT * FROM unnest($1::int2[], $2::text[], $3::text[], $4::int8[], $5::text[], $6::int2[], $7::int8[], $8::int8[])
        AS f (id, name, departed, departed_ms, departed_by, holder, change_hlc, hlc)
), peer AS (
    DELETE FROM crdt_state.peer AS p USING fact AS f WHERE p.id = f.id
), clock AS (
    DELETE FROM crdt_state.peer_clock AS p USING fact AS f WHERE p.peer = f.id
), answer AS (
    DELETE FROM crdt_state.barrier_answer AS a USING fact AS f WHERE a.node = f.id
)
INSERT INTO crdt_state.member (id, name, departed, departed_ms, departed_by, holder, change_hlc, hlc)
SELECT id, name, departed, departed_ms, departed_by, holder, change_hlc, hlc FROM fact
ON CONFLICT (id) DO UPDATE
SET name = excluded.name, departed = excluded.departed, departed_ms = excluded.departed_ms,
    departed_by = excluded.departed_by, holder = excluded.holder, change_hlc = excluded.change_hlc, hlc = excluded.hlc;

-- name: read_request
-- What a command waits for; left_s: for how many seconds.
SELECT id, kind, node, forced, extract(epoch FROM until - clock_timestamp())::float8 AS left_s
FROM crdt_state.membership_request WHERE outcome IS NULL AND until > clock_timestamp();

-- name: tell_progress
-- What is being done for a request ($1) in words ($2), and what is still to be acknowledged ($3).
UPDATE crdt_state.membership_request SET progress = $2, lacking = $3 WHERE id = $1 AND outcome IS NULL;

-- name: tell_outcome
-- How a request ($1) ended ($2), in words ($3), and what is to be done ($4).
UPDATE crdt_state.membership_request SET outcome = $2, progress = $3, mend = $4 WHERE id = $1 AND outcome IS NULL;

-- name: has_former
-- Whether the database can say what it was (one boolean).
SELECT to_regclass('crdt.former_node') IS NOT NULL;

-- name: read_former
-- The node that this database was last: name, id, cluster, when it left.
SELECT name, id, cluster, to_char(left_at, 'YYYY-MM-DD HH24:MI:SS "UTC"') FROM crdt.former_node ORDER BY left_at DESC LIMIT 1;
