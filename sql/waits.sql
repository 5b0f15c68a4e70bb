-- name: start
-- Empties what an earlier start of the sidecar said.
WITH answers AS (DELETE FROM crdt_state.barrier_answer)
INSERT INTO crdt_state.wait_board DEFAULT VALUES
ON CONFLICT (singleton) DO UPDATE SET captured = '0/0', asked = '0/0';

-- name: await_waiters
-- The reasons sessions wait for: as soon as there is one beyond those known ($1), else after $2 seconds; a look every $3.
SELECT crdt_state.await_waiters($1::text[], $2::float8, $3::float8);

-- name: log_end
-- The end of the log: everything committed so far lies before it.
SELECT crdt_state.log_end()::text;

-- name: captured
-- Tell the sessions that everything before the position is in the journal.
UPDATE crdt_state.wait_board SET captured = greatest(captured, $1::text::pg_lsn);

-- name: asked
-- Tell the sessions that the peers are asked now; the position is the number of the request.
UPDATE crdt_state.wait_board SET asked = greatest(asked, pg_current_wal_insert_lsn()) RETURNING asked::text;

-- name: store_answer
-- What a peer ($1) had when it got the request ($2), as a token ($3).
INSERT INTO crdt_state.barrier_answer AS a (node, asked, token) VALUES ($1, $2::text::pg_lsn, $3)
ON CONFLICT (node) DO UPDATE SET asked = excluded.asked, token = excluded.token WHERE a.asked <= excluded.asked;

-- name: store_acknowledged
-- How far a peer ($1, by name $2) has durably merged this node's changes ($3); the rest of its row comes once a second.
INSERT INTO crdt_state.peer AS p (id, name, acknowledged)
SELECT $1::int2, $2::text, $3::int8
WHERE NOT EXISTS (SELECT FROM crdt_state.member AS m WHERE m.id = $1::int2 AND m.departed IS NOT NULL)
ON CONFLICT (id) DO UPDATE SET acknowledged = excluded.acknowledged WHERE p.acknowledged < excluded.acknowledged;
