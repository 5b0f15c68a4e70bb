-- Parameters:
--   $1: key:1
--   $2: ops
--   $3: inserted
--   $4: first
--   $5: last
--   $6: accepted
WITH k AS (
    SELECT u.ord, u.op, u.ins, u.k1::uuid AS k_1
    FROM unnest($2::text::"char"[], $3::text::int8[], $1::text::text[]) WITH ORDINALITY AS u(op, ins, k1, ord)
    WHERE u.ord BETWEEN $4::int8 AND $5::int8
), g AS (SELECT k.*, a.accepted FROM k LEFT JOIN unnest($6::text::text[]) WITH ORDINALITY AS a(accepted, ord) USING (ord))
SELECT g.ord, coalesce(t.xmin::text, concat('-', coalesce(s.live_hlc, 0), '.', s.dead_hlc)) AS seen
FROM g LEFT JOIN LATERAL (SELECT s.ctid, s.* FROM crdt_state.row_1 AS s WHERE s.k_1 = g.k_1 LIMIT 1) AS s ON true
    LEFT JOIN LATERAL (SELECT t.ctid, t.xmin, t.* FROM "public"."profile" AS t WHERE t."id" = g.k_1 LIMIT 1) AS t ON true
WHERE CASE WHEN g.accepted IS NOT NULL AND (coalesce(t.xmin::text, concat('-', coalesce(s.live_hlc, 0), '.', s.dead_hlc)) = ANY (string_to_array(g.accepted, ' ')) OR g.accepted = '' AND t.ctid IS NULL) THEN false WHEN s.ctid IS NULL THEN t.ctid IS NOT NULL OR g.op IN ('U', 'R') OR g.op = 'D' AND g.ins IS NULL ELSE (t.ctid IS NOT NULL) <> (s.dead_hlc IS NULL OR (s.live_hlc, s.live_node) > (s.dead_hlc, s.dead_node)) OR (t.ctid IS NOT NULL AND t.xmin IS DISTINCT FROM s.row_xmin) END ORDER BY g.ord
