-- Parameters:
--   $1: node
--   $2: ops
--   $3: hlcs
--   $4: inserted
--   $5: mask:0
--   $6: key:1
--   $7: value:2
--   $8: bit:2
--   $9: late:2
--   $10: value:3
--   $11: bit:3
--   $12: late:3
--   $13: xids
--   $14: images
--   $15: first
--   $16: last
WITH g AS (
    SELECT u.ord, u.op, u.hlc, u.ins, u.k1::uuid AS k_1, coalesce(u.m0 & $8::int8 <> 0, false) AS a_2, coalesce(u.l2, u.hlc) AS h_2, u.v2::text AS val_2, coalesce(u.m0 & $11::int8 <> 0, false) AS a_3, coalesce(u.l3, u.hlc) AS h_3, u.v3::date AS val_3, u.xids, u.images
    FROM unnest($2::text::"char"[], $3::text::int8[], $4::text::int8[], $5::text::int8[], $6::text::text[], $7::text::text[], $9::text::int8[], $10::text::text[], $12::text::int8[], $13::text::xid[], $14::text::jsonb[]) WITH ORDINALITY AS u(op, hlc, ins, m0, k1, v2, l2, v3, l3, xids, images, ord)
    WHERE u.ord BETWEEN $15::int8 AND $16::int8
), up AS (
    INSERT INTO crdt_state.row_1 AS s (k_1, row_node, row_hlc, live_node, live_hlc, dead_node, dead_hlc, row_xmin, image, n_2, h_2, n_3, h_3)
    SELECT g.k_1, CASE WHEN g.op IN ('I', 'R') THEN $1::int8::int2 ELSE 0 END::int2, CASE WHEN g.op IN ('I', 'R') THEN g.ins ELSE 0 END, CASE WHEN g.op IN ('I', 'R', 'U') THEN $1::int8::int2 ELSE 0 END::int2, CASE WHEN g.op IN ('I', 'R', 'U') THEN g.hlc ELSE 0 END, CASE WHEN g.op = 'D' THEN $1::int8::int2 END, CASE WHEN g.op = 'D' THEN g.hlc END, CASE WHEN g.op <> 'D' THEN g.xids END, g.images, CASE WHEN g.a_2 AND (g.op NOT IN ('I', 'R') OR g.h_2 <> g.ins) THEN $1::int8::int2 END, CASE WHEN g.a_2 AND (g.op NOT IN ('I', 'R') OR g.h_2 <> g.ins) THEN g.h_2 END, CASE WHEN g.a_3 AND (g.op NOT IN ('I', 'R') OR g.h_3 <> g.ins) THEN $1::int8::int2 END, CASE WHEN g.a_3 AND (g.op NOT IN ('I', 'R') OR g.h_3 <> g.ins) THEN g.h_3 END
    FROM g ORDER BY g.k_1
    ON CONFLICT (k_1) DO UPDATE SET
      row_node = CASE WHEN (excluded.row_node = $1::int8::int2 AND excluded.row_hlc > 0) THEN excluded.row_node ELSE s.row_node END,
      row_hlc = CASE WHEN (excluded.row_node = $1::int8::int2 AND excluded.row_hlc > 0) THEN excluded.row_hlc ELSE s.row_hlc END,
      live_node = CASE WHEN excluded.live_hlc > 0 THEN excluded.live_node ELSE s.live_node END,
      live_hlc = CASE WHEN excluded.live_hlc > 0 THEN excluded.live_hlc ELSE s.live_hlc END,
      dead_node = CASE WHEN ((excluded.row_node = $1::int8::int2 AND excluded.row_hlc > 0) AND excluded.dead_hlc IS NULL AND s.dead_hlc = excluded.live_hlc) THEN NULL WHEN (s.dead_hlc, s.dead_node) > (excluded.dead_hlc, excluded.dead_node) THEN s.dead_node ELSE coalesce(excluded.dead_node, s.dead_node) END,
      dead_hlc = CASE WHEN ((excluded.row_node = $1::int8::int2 AND excluded.row_hlc > 0) AND excluded.dead_hlc IS NULL AND s.dead_hlc = excluded.live_hlc) THEN NULL WHEN (s.dead_hlc, s.dead_node) > (excluded.dead_hlc, excluded.dead_node) THEN s.dead_hlc ELSE coalesce(excluded.dead_hlc, s.dead_hlc) END,
      row_xmin = excluded.row_xmin,
      image = excluded.image,
      n_2 = CASE WHEN ((excluded.row_node = $1::int8::int2 AND excluded.row_hlc > 0) OR excluded.h_2 IS NOT NULL) THEN excluded.n_2 ELSE s.n_2 END,
      h_2 = CASE WHEN ((excluded.row_node = $1::int8::int2 AND excluded.row_hlc > 0) OR excluded.h_2 IS NOT NULL) THEN excluded.h_2 ELSE s.h_2 END,
      v_2 = CASE WHEN ((excluded.row_node = $1::int8::int2 AND excluded.row_hlc > 0) OR excluded.h_2 IS NOT NULL) AND coalesce(s.n_2, s.row_node) <> $1::int8::int2 AND coalesce(s.h_2, s.row_hlc) > 0 THEN crdt_state.vector_add(s.v_2, coalesce(s.n_2, s.row_node), coalesce(s.h_2, s.row_hlc), $1::int8::int2) ELSE s.v_2 END,
      n_3 = CASE WHEN ((excluded.row_node = $1::int8::int2 AND excluded.row_hlc > 0) OR excluded.h_3 IS NOT NULL) THEN excluded.n_3 ELSE s.n_3 END,
      h_3 = CASE WHEN ((excluded.row_node = $1::int8::int2 AND excluded.row_hlc > 0) OR excluded.h_3 IS NOT NULL) THEN excluded.h_3 ELSE s.h_3 END,
      v_3 = CASE WHEN ((excluded.row_node = $1::int8::int2 AND excluded.row_hlc > 0) OR excluded.h_3 IS NOT NULL) AND coalesce(s.n_3, s.row_node) <> $1::int8::int2 AND coalesce(s.h_3, s.row_hlc) > 0 THEN crdt_state.vector_add(s.v_3, coalesce(s.n_3, s.row_node), coalesce(s.h_3, s.row_hlc), $1::int8::int2) ELSE s.v_3 END
    RETURNING s.k_1, s.row_xmin, s.row_node, s.live_hlc, s.live_node, s.dead_hlc, s.dead_node, s.alive
)
INSERT INTO crdt_state.rewrite (table_id, row_key)
SELECT 1, ARRAY[up.k_1::text] FROM up WHERE NOT (up.dead_hlc IS NULL OR (up.live_hlc, up.live_node) > (up.dead_hlc, up.dead_node)) AND EXISTS (SELECT FROM "public"."profile" AS t WHERE t."id" = up.k_1) RETURNING id, row_key
