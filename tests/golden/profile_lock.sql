-- Parameters:
--   $1: key:1
--   $2: ops
--   $3: inserted
--   $4: first
--   $5: last
WITH g AS MATERIALIZED (
    SELECT u.ord, u.op, u.ins, u.k1::uuid AS k_1
    FROM unnest($2::text::"char"[], $3::text::int8[], $1::text::text[]) WITH ORDINALITY AS u(op, ins, k1, ord)
    WHERE u.ord BETWEEN $4::int8 AND $5::int8
)
SELECT 1 FROM g JOIN "public"."profile" AS t ON t."id" = ANY (ARRAY[g.k_1]) ORDER BY g.k_1 FOR NO KEY UPDATE OF t
