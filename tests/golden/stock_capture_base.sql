-- Parameters:
--   $1: ops
--   $2: hlcs
--   $3: inserted
--   $4: mask:0
--   $5: key:2
--   $6: key:1
--   $7: value:3
--   $8: bit:3
--   $9: late:3
--   $10: value:4
--   $11: bit:4
--   $12: value:5
--   $13: bit:5
--   $14: value:7
--   $15: bit:7
--   $16: first
--   $17: last
WITH g AS (
    SELECT u.ord, u.op, u.hlc, u.ins, u.k2::character varying AS k_2, u.k1::bigint AS k_1, coalesce(u.m0 & $8::int8 <> 0, false) AS a_3, coalesce(u.l3, u.hlc) AS h_3, u.v3::text AS val_3, coalesce(u.m0 & $11::int8 <> 0, false) AS a_4, coalesce(u.v4::numeric, 0) AS d_4, coalesce(u.m0 & $13::int8 <> 0, false) AS a_5, coalesce(u.v5::numeric, 0) AS d_5, coalesce(u.m0 & $15::int8 <> 0, false) AS a_7, coalesce(u.v7::numeric, 0) AS d_7
    FROM unnest($1::text::"char"[], $2::text::int8[], $3::text::int8[], $4::text::int8[], $5::text::text[], $6::text::text[], $7::text::text[], $9::text::int8[], $10::text::text[], $12::text::text[], $14::text::text[]) WITH ORDINALITY AS u(op, hlc, ins, m0, k2, k1, v3, l3, v4, v5, v7, ord)
    WHERE u.ord BETWEEN $16::int8 AND $17::int8
)
UPDATE crdt_state.counter_2 AS c SET
  base_increased = greatest(c.base_increased, c.seen_increased), base_decreased = greatest(c.base_decreased, c.seen_decreased)
FROM g WHERE c.k_2 = g.k_2 AND c.k_1 = g.k_1 AND c.attnum IN (4, 5, 7) AND g.op IN ('I', 'R')
  AND (c.seen_increased > c.base_increased OR c.seen_decreased > c.base_decreased)
