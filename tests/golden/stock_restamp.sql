-- Parameters:
--   $1: key:2
--   $2: key:1
--   $3: ops
--   $4: inserted
--   $5: first
--   $6: last
WITH g AS (
    SELECT u.ord, u.op, u.ins, u.k2::character varying AS k_2, u.k1::bigint AS k_1
    FROM unnest($3::text::"char"[], $4::text::int8[], $1::text::text[], $2::text::text[]) WITH ORDINALITY AS u(op, ins, k2, k1, ord)
    WHERE u.ord BETWEEN $5::int8 AND $6::int8
)
UPDATE crdt_state.row_2 AS s SET row_xmin = n.xmin
FROM (SELECT s.ctid, t.xmin FROM g LEFT JOIN LATERAL (SELECT s.ctid, s.* FROM crdt_state.row_2 AS s WHERE s.k_2 = g.k_2 AND s.k_1 = g.k_1 LIMIT 1) AS s ON true
    LEFT JOIN LATERAL (SELECT t.ctid, t.xmin, t.* FROM "Shop's"."the ""stock""" AS t WHERE t."region" = g.k_2 AND t."id" = g.k_1 LIMIT 1) AS t ON true) AS n
WHERE s.ctid = n.ctid AND s.row_xmin = pg_current_xact_id()::xid AND n.xmin <> s.row_xmin
RETURNING n.xmin::text
