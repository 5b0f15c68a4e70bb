-- Parameters:
--   $1: node
--   $2: ops
--   $3: hlcs
--   $4: inserted
--   $5: mask:0
--   $6: key:2
--   $7: key:1
--   $8: value:3
--   $9: bit:3
--   $10: late:3
--   $11: value:4
--   $12: bit:4
--   $13: value:5
--   $14: bit:5
--   $15: value:7
--   $16: bit:7
--   $17: first
--   $18: last
WITH g AS (
    SELECT u.ord, u.op, u.hlc, u.ins, u.k2::character varying AS k_2, u.k1::bigint AS k_1, coalesce(u.m0 & $9::int8 <> 0, false) AS a_3, coalesce(u.l3, u.hlc) AS h_3, u.v3::text AS val_3, coalesce(u.m0 & $12::int8 <> 0, false) AS a_4, coalesce(u.v4::numeric, 0) AS d_4, coalesce(u.m0 & $14::int8 <> 0, false) AS a_5, coalesce(u.v5::numeric, 0) AS d_5, coalesce(u.m0 & $16::int8 <> 0, false) AS a_7, coalesce(u.v7::numeric, 0) AS d_7
    FROM unnest($2::text::"char"[], $3::text::int8[], $4::text::int8[], $5::text::int8[], $6::text::text[], $7::text::text[], $8::text::text[], $10::text::int8[], $11::text::text[], $13::text::text[], $15::text::text[]) WITH ORDINALITY AS u(op, hlc, ins, m0, k2, k1, v3, l3, v4, v5, v7, ord)
    WHERE u.ord BETWEEN $17::int8 AND $18::int8
), marked AS (
    UPDATE crdt_state.counter_2 AS c SET
      seen_increased = CASE WHEN g.op = 'I' THEN c.seen_increased ELSE greatest(c.seen_increased, c.increased - CASE WHEN g.op = 'R' AND c.node = $1::int8::int2 THEN greatest(v.delta, 0) ELSE 0 END) END,
      seen_decreased = CASE WHEN g.op = 'I' THEN c.seen_decreased ELSE greatest(c.seen_decreased, c.decreased - CASE WHEN g.op = 'R' AND c.node = $1::int8::int2 THEN greatest(-v.delta, 0) ELSE 0 END) END
    FROM g, LATERAL (VALUES (4, CASE WHEN g.a_4 THEN g.d_4 ELSE 0 END), (5, greatest(CASE WHEN g.a_5 THEN g.d_5 ELSE 0 END, 0)), (7, CASE WHEN g.a_7 THEN g.d_7 ELSE 0 END)) AS v(attnum, delta)
    WHERE c.k_2 = g.k_2 AND c.k_1 = g.k_1 AND c.attnum = v.attnum
      AND (g.op IN ('D', 'R') OR g.op = 'I' AND (c.seen_increased > 0 OR c.seen_decreased > 0))
    RETURNING g.ord, c.attnum, c.node, c.seen_increased, c.seen_decreased
)
SELECT ord, attnum, jsonb_object_agg(node::text, jsonb_build_array(seen_increased::text, seen_decreased::text))::text AS seen
FROM marked WHERE seen_increased > 0 OR seen_decreased > 0 GROUP BY ord, attnum
