-- Parameters:
--   $1: node
--   $2: ops
--   $3: hlcs
--   $4: inserted
--   $5: mask:0
--   $6: key:2
--   $7: key:1
--   $8: value:4
--   $9: bit:4
--   $10: xids
--   $11: images
--   $12: first
--   $13: last
WITH g AS (
    SELECT u.ord, u.op, u.hlc, u.ins, u.k2::character varying AS k_2, u.k1::bigint AS k_1, coalesce(u.m0 & $9::int8 <> 0, false) AS a_4, coalesce(u.v4::numeric, 0) AS d_4, u.xids, u.images
    FROM unnest($2::text::"char"[], $3::text::int8[], $4::text::int8[], $5::text::int8[], $6::text::text[], $7::text::text[], $8::text::text[], $10::text::xid[], $11::text::jsonb[]) WITH ORDINALITY AS u(op, hlc, ins, m0, k2, k1, v4, xids, images, ord)
    WHERE u.ord BETWEEN $12::int8 AND $13::int8
), up AS (
    INSERT INTO crdt_state.row_2 AS s (k_2, k_1, row_node, row_hlc, live_node, live_hlc, dead_node, dead_hlc, row_xmin, image, x_4)
    SELECT g.k_2, g.k_1, CASE WHEN g.op IN ('I', 'R') THEN $1::int8::int2 ELSE 0 END::int2, CASE WHEN g.op IN ('I', 'R') THEN g.ins ELSE 0 END, CASE WHEN g.op IN ('I', 'R', 'U') THEN $1::int8::int2 ELSE 0 END::int2, CASE WHEN g.op IN ('I', 'R', 'U') THEN g.hlc ELSE 0 END, CASE WHEN g.op = 'D' THEN $1::int8::int2 END, CASE WHEN g.op = 'D' THEN g.hlc END, CASE WHEN g.op <> 'D' THEN g.xids END, g.images, nullif(0, 0)
    FROM g ORDER BY g.k_2, g.k_1
    ON CONFLICT (k_2, k_1) DO UPDATE SET
      row_node = CASE WHEN (excluded.row_node = $1::int8::int2 AND excluded.row_hlc > 0) THEN excluded.row_node ELSE s.row_node END,
      row_hlc = CASE WHEN (excluded.row_node = $1::int8::int2 AND excluded.row_hlc > 0) THEN excluded.row_hlc ELSE s.row_hlc END,
      live_node = CASE WHEN excluded.live_hlc > 0 THEN excluded.live_node ELSE s.live_node END,
      live_hlc = CASE WHEN excluded.live_hlc > 0 THEN excluded.live_hlc ELSE s.live_hlc END,
      dead_node = CASE WHEN ((excluded.row_node = $1::int8::int2 AND excluded.row_hlc > 0) AND excluded.dead_hlc IS NULL AND s.dead_hlc = excluded.live_hlc) THEN NULL WHEN (s.dead_hlc, s.dead_node) > (excluded.dead_hlc, excluded.dead_node) THEN s.dead_node ELSE coalesce(excluded.dead_node, s.dead_node) END,
      dead_hlc = CASE WHEN ((excluded.row_node = $1::int8::int2 AND excluded.row_hlc > 0) AND excluded.dead_hlc IS NULL AND s.dead_hlc = excluded.live_hlc) THEN NULL WHEN (s.dead_hlc, s.dead_node) > (excluded.dead_hlc, excluded.dead_node) THEN s.dead_hlc ELSE coalesce(excluded.dead_hlc, s.dead_hlc) END,
      row_xmin = excluded.row_xmin,
      image = excluded.image,
      x_4 = nullif(coalesce(s.x_4, 0) + coalesce(excluded.x_4, 0), 0)
    RETURNING s.k_2, s.k_1, s.row_xmin, s.row_node, s.x_4
)
INSERT INTO crdt_state.rewrite (table_id, row_key)
SELECT 2, ARRAY[up.k_2::text, up.k_1::text] FROM up WHERE up.row_xmin IS NOT NULL AND (up.x_4 <> 0) RETURNING id, row_key
