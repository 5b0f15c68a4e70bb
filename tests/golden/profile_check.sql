-- Parameters:
--   $1: ops
--   $2: key:1
--   $3: first
--   $4: last
--   $5: accepted
WITH k AS (
    SELECT u.ord, u.op, u.k1::uuid AS k_1
    FROM unnest($1::text::text[], $2::text::text[]) WITH ORDINALITY AS u(op, k1, ord)
    WHERE u.ord BETWEEN $3::int8 AND $4::int8
), g AS (SELECT k.*, a.accepted FROM k LEFT JOIN unnest($5::text::text[]) WITH ORDINALITY AS a(accepted, ord) USING (ord))
SELECT g.ord, coalesce(t.xmin::text, '') AS xmin
FROM g LEFT JOIN crdt_state.row_1 AS s ON s.k_1 = g.k_1
LEFT JOIN "public"."profile" AS t ON t."id" = g.k_1
WHERE CASE WHEN g.accepted = coalesce(t.xmin::text, '') THEN false WHEN s.ctid IS NULL THEN t.ctid IS NOT NULL OR g.op = 'U' ELSE (t.ctid IS NOT NULL) <> (s.dead_hlc IS NULL OR (s.live_hlc, s.live_node) > (s.dead_hlc, s.dead_node)) OR (t.ctid IS NOT NULL AND t.xmin IS DISTINCT FROM s.row_xmin) END ORDER BY g.ord
