-- Parameters:
--   $1: ops
--   $2: key:2
--   $3: key:1
--   $4: first
--   $5: last
WITH g AS (
    SELECT u.ord, u.op, u.k2::character varying(3) AS k_2, u.k1::bigint AS k_1
    FROM unnest($1::text::text[], $2::text::text[], $3::text::text[]) WITH ORDINALITY AS u(op, k2, k1, ord)
    WHERE u.ord BETWEEN $4::int8 AND $5::int8
)
UPDATE crdt_state.row_2 AS s SET row_xmin = t.xmin
FROM g JOIN "Shop's"."the ""stock""" AS t ON t."region" = g.k_2 AND t."id" = g.k_1
WHERE s.k_2 = g.k_2 AND s.k_1 = g.k_1 AND s.row_xmin = pg_current_xact_id()::xid AND t.xmin IS DISTINCT FROM s.row_xmin
