-- Parameters:
--   $1: node
--   $2: ops
--   $3: hlcs
--   $4: inserted
--   $5: mask:0
--   $6: key:1
--   $7: value:7
--   $8: bit:7
--   $9: late:7
--   $10: xids
--   $11: images
--   $12: old:7
--   $13: first
--   $14: last
WITH g AS (
    SELECT u.ord, u.op, u.hlc, u.ins, u.k1::bigint AS k_1, coalesce(u.m0 & $8::int8 <> 0, false) AS a_7, coalesce(u.l7, u.hlc) AS h_7, u.v7::jsonb AS c_7, u.xids, u.images, u.old_7
    FROM unnest($2::text::"char"[], $3::text::int8[], $4::text::int8[], $5::text::int8[], $6::text::text[], $7::text::text[], $9::text::int8[], $10::text::xid[], $11::text::jsonb[], $12::text::text[]) WITH ORDINALITY AS u(op, hlc, ins, m0, k1, v7, l7, xids, images, old_7, ord)
    WHERE u.ord BETWEEN $13::int8 AND $14::int8
), up AS (
    INSERT INTO crdt_state.row_3 AS s (k_1, row_node, row_hlc, live_node, live_hlc, dead_node, dead_hlc, row_xmin, image, n_7, h_7, e_7, z_7)
    SELECT g.k_1, CASE WHEN g.op IN ('I', 'R') THEN $1::int8::int2 ELSE 0 END::int2, CASE WHEN g.op IN ('I', 'R') THEN g.ins ELSE 0 END, CASE WHEN g.op IN ('I', 'R', 'U') THEN $1::int8::int2 ELSE 0 END::int2, CASE WHEN g.op IN ('I', 'R', 'U') THEN g.hlc ELSE 0 END, CASE WHEN g.op = 'D' THEN $1::int8::int2 END, CASE WHEN g.op = 'D' THEN g.hlc END, CASE WHEN g.op <> 'D' THEN g.xids END, g.images, CASE WHEN g.a_7 AND (g.op NOT IN ('I', 'R') OR g.h_7 <> g.ins) THEN $1::int8::int2 END, CASE WHEN g.a_7 AND (g.op NOT IN ('I', 'R') OR g.h_7 <> g.ins) THEN g.h_7 END, CASE WHEN g.a_7 THEN crdt_state.dots_merge(coalesce(r.e_7, crdt_state.genesis_dots(coalesce(r.image ->> 'tags', g.old_7)::text[])), g.c_7, $1::int8, NULL::int8[]) ELSE r.e_7 END, CASE WHEN g.a_7 THEN coalesce((g.c_7 -> 'null')::boolean, false) ELSE r.z_7 END
    FROM g LEFT JOIN LATERAL (SELECT r.image AS image, r.e_7, r.z_7 FROM crdt_state.row_3 AS r WHERE r.k_1 = g.k_1 LIMIT 1) AS r ON true ORDER BY g.k_1
    ON CONFLICT (k_1) DO UPDATE SET
      row_node = CASE WHEN (excluded.row_node = $1::int8::int2 AND excluded.row_hlc > 0) THEN excluded.row_node ELSE s.row_node END,
      row_hlc = CASE WHEN (excluded.row_node = $1::int8::int2 AND excluded.row_hlc > 0) THEN excluded.row_hlc ELSE s.row_hlc END,
      live_node = CASE WHEN excluded.live_hlc > 0 THEN excluded.live_node ELSE s.live_node END,
      live_hlc = CASE WHEN excluded.live_hlc > 0 THEN excluded.live_hlc ELSE s.live_hlc END,
      dead_node = CASE WHEN ((excluded.row_node = $1::int8::int2 AND excluded.row_hlc > 0) AND excluded.dead_hlc IS NULL AND s.dead_hlc = excluded.live_hlc) THEN NULL WHEN (s.dead_hlc, s.dead_node) > (excluded.dead_hlc, excluded.dead_node) THEN s.dead_node ELSE coalesce(excluded.dead_node, s.dead_node) END,
      dead_hlc = CASE WHEN ((excluded.row_node = $1::int8::int2 AND excluded.row_hlc > 0) AND excluded.dead_hlc IS NULL AND s.dead_hlc = excluded.live_hlc) THEN NULL WHEN (s.dead_hlc, s.dead_node) > (excluded.dead_hlc, excluded.dead_node) THEN s.dead_hlc ELSE coalesce(excluded.dead_hlc, s.dead_hlc) END,
      row_xmin = excluded.row_xmin,
      image = excluded.image,
      n_7 = CASE WHEN ((excluded.row_node = $1::int8::int2 AND excluded.row_hlc > 0) OR excluded.h_7 IS NOT NULL) THEN excluded.n_7 ELSE s.n_7 END,
      h_7 = CASE WHEN ((excluded.row_node = $1::int8::int2 AND excluded.row_hlc > 0) OR excluded.h_7 IS NOT NULL) THEN excluded.h_7 ELSE s.h_7 END,
      v_7 = CASE WHEN ((excluded.row_node = $1::int8::int2 AND excluded.row_hlc > 0) OR excluded.h_7 IS NOT NULL) AND coalesce(s.n_7, s.row_node) <> $1::int8::int2 AND coalesce(s.h_7, s.row_hlc) > 0 THEN crdt_state.vector_add(s.v_7, coalesce(s.n_7, s.row_node), coalesce(s.h_7, s.row_hlc), $1::int8::int2) ELSE s.v_7 END,
      e_7 = excluded.e_7,
      z_7 = excluded.z_7
    RETURNING s.k_1, s.row_xmin, s.row_node, s.e_7, s.z_7
)
INSERT INTO crdt_state.rewrite (table_id, row_key)
SELECT 3, ARRAY[up.k_1::text] FROM up WHERE up.row_xmin IS NOT NULL AND (EXISTS (SELECT FROM "shop"."basket" AS t WHERE t."id" = up.k_1 AND (up.e_7 IS NOT NULL AND t."tags"::text IS DISTINCT FROM (coalesce(nullif(crdt_state.dots_elements(up.e_7, false), '{}')::text, CASE WHEN up.z_7 IS NOT TRUE THEN '{}' END)::text[])::text))) RETURNING id, row_key
