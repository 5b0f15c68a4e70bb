-- Parameters:
--   $1: origins
--   $2: contexts
--   $3: ops
--   $4: hlcs
--   $5: inserted
--   $6: mask:0
--   $7: key:1
--   $8: value:2
--   $9: bit:2
--   $10: late:2
--   $11: value:3
--   $12: bit:3
--   $13: late:3
--   $14: value:4
--   $15: bit:4
--   $16: late:4
--   $17: value:5
--   $18: bit:5
--   $19: late:5
--   $20: value:6
--   $21: bit:6
--   $22: late:6
--   $23: value:7
--   $24: bit:7
--   $25: late:7
--   $26: value:8
--   $27: bit:8
--   $28: late:8
--   $29: value:9
--   $30: bit:9
--   $31: late:9
--   $32: value:10
--   $33: bit:10
--   $34: late:10
--   $35: value:11
--   $36: bit:11
--   $37: accepted
--   $38: members
--   $39: seen:11
--   $40: first
--   $41: last
--   $42: locked
--   $43: from_hlcs
--   $44: to_hlcs
WITH g AS (
    SELECT u.ord, u.op, u.hlc, u.ins, u.k1::bigint AS k_1, coalesce(u.m0 & $9::int8 <> 0, false) AS a_2, coalesce(u.l2, u.hlc) AS h_2, u.v2::text AS val_2, coalesce(u.m0 & $12::int8 <> 0, false) AS a_3, coalesce(u.l3, u.hlc) AS h_3, u.v3::character varying AS val_3, coalesce(u.m0 & $15::int8 <> 0, false) AS a_4, coalesce(u.l4, u.hlc) AS h_4, u.v4::integer AS val_4, coalesce(u.m0 & $18::int8 <> 0, false) AS a_5, coalesce(u.l5, u.hlc) AS h_5, u.v5::jsonb AS val_5, coalesce(u.m0 & $21::int8 <> 0, false) AS a_6, coalesce(u.l6, u.hlc) AS h_6, u.v6::jsonb AS c_6, coalesce(u.m0 & $24::int8 <> 0, false) AS a_7, coalesce(u.l7, u.hlc) AS h_7, u.v7::jsonb AS c_7, coalesce(u.m0 & $27::int8 <> 0, false) AS a_8, coalesce(u.l8, u.hlc) AS h_8, u.v8::jsonb AS c_8, coalesce(u.m0 & $30::int8 <> 0, false) AS a_9, coalesce(u.l9, u.hlc) AS h_9, u.v9::jsonb AS c_9, coalesce(u.m0 & $33::int8 <> 0, false) AS a_10, coalesce(u.l10, u.hlc) AS h_10, u.v10::jsonb AS c_10, coalesce(u.m0 & $36::int8 <> 0, false) AS a_11, coalesce(u.v11::numeric, 0) AS d_11, u.accepted, u.members, u.seen_11
    FROM unnest($3::text::"char"[], $4::text::int8[], $5::text::int8[], $6::text::int8[], $7::text::text[], $8::text::text[], $10::text::int8[], $11::text::text[], $13::text::int8[], $14::text::text[], $16::text::int8[], $17::text::text[], $19::text::int8[], $20::text::text[], $22::text::int8[], $23::text::text[], $25::text::int8[], $26::text::text[], $28::text::int8[], $29::text::text[], $31::text::int8[], $32::text::text[], $34::text::int8[], $35::text::text[], $37::text::text[], $38::text::int4[], $39::text::text[]) WITH ORDINALITY AS u(op, hlc, ins, m0, k1, v2, l2, v3, l3, v4, l4, v5, l5, v6, l6, v7, l7, v8, l8, v9, l9, v10, l10, v11, accepted, members, seen_11, ord)
    WHERE u.ord BETWEEN $40::int8 AND $41::int8 ORDER BY k_1
), j AS (
    SELECT m.*, CASE WHEN m.nsib_2 IS NOT NULL AND (m.a_2 OR m.op = 'T') THEN (m.nsib_2 -> 0 ->> 2)::text WHEN m.a_2 THEN m.val_2 WHEN m.present THEN m.old_2 ELSE (m.image ->> 'note')::text END AS ns_2,
      CASE WHEN m.nsib_3 IS NOT NULL AND (m.a_3 OR m.op = 'T') THEN (SELECT (w.value ->> 2)::character varying FROM jsonb_array_elements(m.nsib_3) WITH ORDINALITY AS w(value, place) ORDER BY (w.value ->> 2)::character varying::text COLLATE "C" DESC NULLS LAST, w.place LIMIT 1) WHEN m.a_3 THEN m.val_3 WHEN m.present THEN m.old_3 ELSE (m.image ->> 'best')::character varying END AS ns_3,
      CASE WHEN m.nsib_4 IS NOT NULL AND (m.a_4 OR m.op = 'T') THEN (SELECT (w.value ->> 2)::integer FROM jsonb_array_elements(m.nsib_4) WITH ORDINALITY AS w(value, place) ORDER BY (w.value ->> 2)::integer ASC NULLS LAST, w.place LIMIT 1) WHEN m.a_4 THEN m.val_4 WHEN m.present THEN m.old_4 ELSE (m.image ->> 'least')::integer END AS ns_4,
      CASE WHEN m.nsib_5 IS NOT NULL AND (m.a_5 OR m.op = 'T') THEN m.fd_5[1]::jsonb WHEN m.a_5 THEN m.val_5 WHEN m.present THEN m.old_5 ELSE (m.image ->> 'cart')::jsonb END AS ns_5,
      CASE WHEN m.ne_6 IS NOT NULL AND (m.a_6 OR m.op = 'T' OR NOT m.present) THEN coalesce(nullif(crdt_state.dots_elements(m.ne_6, false), '{}')::text, CASE WHEN m.nz_6 IS NOT TRUE THEN '{}' END)::uuid[] WHEN m.present THEN m.old_6 ELSE (m.image ->> 'seen')::uuid[] END AS ns_6,
      CASE WHEN m.ne_7 IS NOT NULL AND (m.a_7 OR m.op = 'T' OR NOT m.present) THEN coalesce(nullif(crdt_state.dots_elements(m.ne_7, false), '{}')::text, CASE WHEN m.nz_7 IS NOT TRUE THEN '{}' END)::text[] WHEN m.present THEN m.old_7 ELSE (m.image ->> 'tags')::text[] END AS ns_7,
      CASE WHEN m.ne_8 IS NOT NULL AND (m.a_8 OR m.op = 'T' OR NOT m.present) THEN coalesce(nullif(crdt_state.dots_elements(m.ne_8, true), '{}')::text, CASE WHEN m.nz_8 IS NOT TRUE THEN '{}' END)::integer[] WHEN m.present THEN m.old_8 ELSE (m.image ->> 'sizes')::integer[] END AS ns_8,
      CASE WHEN m.ne_9 IS NOT NULL AND (m.a_9 OR m.op = 'T' OR NOT m.present) THEN coalesce(crdt_state.json_array(nullif(crdt_state.stamps_elements(m.ne_9, true), '{}')), CASE WHEN m.nz_9 IS NOT TRUE THEN '[]'::jsonb END)::jsonb WHEN m.present THEN m.old_9 ELSE (m.image ->> 'notes')::jsonb END AS ns_9,
      CASE WHEN m.ne_10 IS NOT NULL AND (m.a_10 OR m.op = 'T' OR NOT m.present) THEN coalesce(nullif(crdt_state.map_value(m.ne_10), '{}'), CASE WHEN m.nz_10 IS NOT TRUE THEN '{}'::jsonb END)::jsonb WHEN m.present THEN m.old_10 ELSE (m.image ->> 'the prefs')::jsonb END AS ns_10
    FROM (
    SELECT k.*, CASE WHEN k.nsib_5 IS NOT NULL AND (k.a_5 OR k.op = 'T') THEN crdt_state.fold_siblings(k.nsib_5, 'shop.cart''s', 'shop', 'jsonb') END AS fd_5
    FROM (
    SELECT i.*, (i.a_2 AND (i.h_2 > i.sh_2 OR i.h_2 = i.sh_2 AND i.origin >= i.sn_2)) AS win_2,
      CASE WHEN i.a_2 THEN crdt_state.siblings_merge(i.sib_2, i.sn_2, i.sh_2, CASE WHEN i.present THEN i.old_2::text ELSE i.image ->> 'note' END, i.origin, i.context, i.h_2, i.val_2::text) ELSE i.sib_2 END AS nsib_2,
      (i.a_3 AND (i.h_3 > i.sh_3 OR i.h_3 = i.sh_3 AND i.origin >= i.sn_3)) AS win_3,
      CASE WHEN i.a_3 THEN crdt_state.siblings_merge(i.sib_3, i.sn_3, i.sh_3, CASE WHEN i.present THEN i.old_3::text ELSE i.image ->> 'best' END, i.origin, i.context, i.h_3, i.val_3::text) ELSE i.sib_3 END AS nsib_3,
      (i.a_4 AND (i.h_4 > i.sh_4 OR i.h_4 = i.sh_4 AND i.origin >= i.sn_4)) AS win_4,
      CASE WHEN i.a_4 THEN crdt_state.siblings_merge(i.sib_4, i.sn_4, i.sh_4, CASE WHEN i.present THEN i.old_4::text ELSE i.image ->> 'least' END, i.origin, i.context, i.h_4, i.val_4::text) ELSE i.sib_4 END AS nsib_4,
      (i.a_5 AND (i.h_5 > i.sh_5 OR i.h_5 = i.sh_5 AND i.origin >= i.sn_5)) AS win_5,
      CASE WHEN i.a_5 THEN crdt_state.siblings_merge(i.sib_5, i.sn_5, i.sh_5, CASE WHEN i.present THEN i.old_5::text ELSE i.image ->> 'cart' END, i.origin, i.context, i.h_5, i.val_5::text) ELSE i.sib_5 END AS nsib_5,
      (i.a_6 AND (i.h_6 > i.sh_6 OR i.h_6 = i.sh_6 AND i.origin >= i.sn_6)) AS win_6,
      CASE WHEN i.a_6 THEN crdt_state.dots_merge(coalesce(i.e_6, crdt_state.genesis_dots((CASE WHEN i.present THEN i.old_6::text ELSE i.image ->> 'seen' END)::text[])), i.c_6, i.origin, i.context) ELSE i.e_6 END AS ne_6,
      CASE WHEN i.a_6 AND (i.h_6 > i.sh_6 OR i.h_6 = i.sh_6 AND i.origin >= i.sn_6) THEN coalesce((i.c_6 -> 'null')::boolean, false) ELSE i.z_6 END AS nz_6,
      CASE WHEN i.a_6 AND i.context IS NOT NULL THEN crdt_state.dots_conflicts(coalesce(i.e_6, crdt_state.genesis_dots((CASE WHEN i.present THEN i.old_6::text ELSE i.image ->> 'seen' END)::text[])), i.c_6, i.origin, i.context) END AS ec_6,
      (i.a_7 AND (i.h_7 > i.sh_7 OR i.h_7 = i.sh_7 AND i.origin >= i.sn_7)) AS win_7,
      CASE WHEN i.a_7 THEN crdt_state.dots_merge(coalesce(i.e_7, crdt_state.genesis_dots((CASE WHEN i.present THEN i.old_7::text ELSE i.image ->> 'tags' END)::text[])), i.c_7, i.origin, i.context) ELSE i.e_7 END AS ne_7,
      CASE WHEN i.a_7 AND (i.h_7 > i.sh_7 OR i.h_7 = i.sh_7 AND i.origin >= i.sn_7) THEN coalesce((i.c_7 -> 'null')::boolean, false) ELSE i.z_7 END AS nz_7,
      CASE WHEN i.a_7 AND i.context IS NOT NULL THEN crdt_state.dots_conflicts(coalesce(i.e_7, crdt_state.genesis_dots((CASE WHEN i.present THEN i.old_7::text ELSE i.image ->> 'tags' END)::text[])), i.c_7, i.origin, i.context) END AS ec_7,
      (i.a_8 AND (i.h_8 > i.sh_8 OR i.h_8 = i.sh_8 AND i.origin >= i.sn_8)) AS win_8,
      CASE WHEN i.a_8 THEN crdt_state.dots_merge(coalesce(i.e_8, crdt_state.genesis_dots((CASE WHEN i.present THEN i.old_8::text ELSE i.image ->> 'sizes' END)::text[])), i.c_8, i.origin, i.context) ELSE i.e_8 END AS ne_8,
      CASE WHEN i.a_8 AND (i.h_8 > i.sh_8 OR i.h_8 = i.sh_8 AND i.origin >= i.sn_8) THEN coalesce((i.c_8 -> 'null')::boolean, false) ELSE i.z_8 END AS nz_8,
      CASE WHEN i.a_8 AND i.context IS NOT NULL THEN crdt_state.dots_conflicts(coalesce(i.e_8, crdt_state.genesis_dots((CASE WHEN i.present THEN i.old_8::text ELSE i.image ->> 'sizes' END)::text[])), i.c_8, i.origin, i.context) END AS ec_8,
      (i.a_9 AND (i.h_9 > i.sh_9 OR i.h_9 = i.sh_9 AND i.origin >= i.sn_9)) AS win_9,
      CASE WHEN i.a_9 THEN crdt_state.stamps_merge(coalesce(i.e_9, crdt_state.genesis_stamps(crdt_state.json_elements((CASE WHEN i.present THEN i.old_9::text ELSE i.image ->> 'notes' END)::jsonb))), i.c_9, i.origin, false) ELSE i.e_9 END AS ne_9,
      CASE WHEN i.a_9 AND (i.h_9 > i.sh_9 OR i.h_9 = i.sh_9 AND i.origin >= i.sn_9) THEN coalesce((i.c_9 -> 'null')::boolean, false) ELSE i.z_9 END AS nz_9,
      CASE WHEN i.a_9 AND i.context IS NOT NULL THEN crdt_state.stamps_conflicts(coalesce(i.e_9, crdt_state.genesis_stamps(crdt_state.json_elements((CASE WHEN i.present THEN i.old_9::text ELSE i.image ->> 'notes' END)::jsonb))), i.c_9, i.origin, i.context, false) END AS ec_9,
      (i.a_10 AND (i.h_10 > i.sh_10 OR i.h_10 = i.sh_10 AND i.origin >= i.sn_10)) AS win_10,
      CASE WHEN i.a_10 THEN crdt_state.stamps_merge(coalesce(i.e_10, crdt_state.genesis_map((CASE WHEN i.present THEN i.old_10::text ELSE i.image ->> 'the prefs' END)::jsonb)), i.c_10, i.origin, true) ELSE i.e_10 END AS ne_10,
      CASE WHEN i.a_10 AND (i.h_10 > i.sh_10 OR i.h_10 = i.sh_10 AND i.origin >= i.sn_10) THEN coalesce((i.c_10 -> 'null')::boolean, false) ELSE i.z_10 END AS nz_10,
      CASE WHEN i.a_10 AND i.context IS NOT NULL THEN crdt_state.stamps_conflicts(coalesce(i.e_10, crdt_state.genesis_map((CASE WHEN i.present THEN i.old_10::text ELSE i.image ->> 'the prefs' END)::jsonb)), i.c_10, i.origin, i.context, true) END AS ec_10
    FROM (
    SELECT h.*, CASE WHEN h.a_2 AND (h.sv_2 IS NOT NULL OR NOT (h.sn_2 = h.origin OR h.sh_2 <= coalesce(($2::int8[])[h.member][h.sn_2], 0))) OR h.a_3 AND (h.sv_3 IS NOT NULL OR NOT (h.sn_3 = h.origin OR h.sh_3 <= coalesce(($2::int8[])[h.member][h.sn_3], 0))) OR h.a_4 AND (h.sv_4 IS NOT NULL OR NOT (h.sn_4 = h.origin OR h.sh_4 <= coalesce(($2::int8[])[h.member][h.sn_4], 0))) OR h.a_5 AND (h.sv_5 IS NOT NULL OR NOT (h.sn_5 = h.origin OR h.sh_5 <= coalesce(($2::int8[])[h.member][h.sn_5], 0))) OR h.a_6 AND (h.sv_6 IS NOT NULL OR NOT (h.sn_6 = h.origin OR h.sh_6 <= coalesce(($2::int8[])[h.member][h.sn_6], 0))) OR h.a_7 AND (h.sv_7 IS NOT NULL OR NOT (h.sn_7 = h.origin OR h.sh_7 <= coalesce(($2::int8[])[h.member][h.sn_7], 0))) OR h.a_8 AND (h.sv_8 IS NOT NULL OR NOT (h.sn_8 = h.origin OR h.sh_8 <= coalesce(($2::int8[])[h.member][h.sn_8], 0))) OR h.a_9 AND (h.sv_9 IS NOT NULL OR NOT (h.sn_9 = h.origin OR h.sh_9 <= coalesce(($2::int8[])[h.member][h.sn_9], 0))) OR h.a_10 AND (h.sv_10 IS NOT NULL OR NOT (h.sn_10 = h.origin OR h.sh_10 <= coalesce(($2::int8[])[h.member][h.sn_10], 0))) THEN ARRAY(SELECT unnest(($2::int8[])[h.member:h.member])) END AS context FROM (
    SELECT g.*,
      coalesce(g.members, 1) AS member,
      ($1::int8[])[coalesce(g.members, 1)] AS origin,
      s.ctid AS s_ctid,
      t.ctid AS t_ctid,
      t.xmin AS t_xmin,
      t.ctid IS NOT NULL AS present,
      coalesce(s.row_hlc, 0) AS s_row_hlc,
      coalesce(s.row_node, 0::int2) AS s_row_node,
      coalesce(s.live_hlc, 0) AS s_live_hlc,
      coalesce(s.live_node, 0::int2) AS s_live_node,
      s.dead_hlc AS s_dead_hlc,
      s.dead_node AS s_dead_node,
      s.image AS image,
      CASE WHEN g.accepted IS NOT NULL AND (coalesce(t.xmin::text, concat('-', coalesce(s.live_hlc, 0), '.', s.dead_hlc)) = ANY (string_to_array(g.accepted, ' ')) OR g.accepted = '' AND t.ctid IS NULL) THEN false WHEN s.ctid IS NULL THEN t.ctid IS NOT NULL OR g.op IN ('U', 'R') OR g.op = 'D' AND g.ins IS NULL ELSE (t.ctid IS NOT NULL) <> (s.dead_hlc IS NULL OR (s.live_hlc, s.live_node) > (s.dead_hlc, s.dead_node)) OR (t.ctid IS NOT NULL AND t.xmin IS DISTINCT FROM s.row_xmin) END AND NOT ($42::int8 = 1 AND t.ctid IS NOT NULL AND crdt_state.is_own(t.xmin)) AS dirty,
      t."hits" AS old_11,
      coalesce(s.x_11, 0) AS sx_11,
      coalesce(s.h_2, s.row_hlc, 0) AS sh_2,
      coalesce(s.n_2, s.row_node, 0::int2) AS sn_2,
      t."note" AS old_2,
      s.v_2 AS sv_2,
      s.sib_2,
      coalesce(s.h_3, s.row_hlc, 0) AS sh_3,
      coalesce(s.n_3, s.row_node, 0::int2) AS sn_3,
      t."best" AS old_3,
      s.v_3 AS sv_3,
      s.sib_3,
      coalesce(s.h_4, s.row_hlc, 0) AS sh_4,
      coalesce(s.n_4, s.row_node, 0::int2) AS sn_4,
      t."least" AS old_4,
      s.v_4 AS sv_4,
      s.sib_4,
      coalesce(s.h_5, s.row_hlc, 0) AS sh_5,
      coalesce(s.n_5, s.row_node, 0::int2) AS sn_5,
      t."cart" AS old_5,
      s.v_5 AS sv_5,
      s.sib_5,
      coalesce(s.h_6, s.row_hlc, 0) AS sh_6,
      coalesce(s.n_6, s.row_node, 0::int2) AS sn_6,
      t."seen" AS old_6,
      s.v_6 AS sv_6,
      s.e_6,
      s.z_6,
      coalesce(s.h_7, s.row_hlc, 0) AS sh_7,
      coalesce(s.n_7, s.row_node, 0::int2) AS sn_7,
      t."tags" AS old_7,
      s.v_7 AS sv_7,
      s.e_7,
      s.z_7,
      coalesce(s.h_8, s.row_hlc, 0) AS sh_8,
      coalesce(s.n_8, s.row_node, 0::int2) AS sn_8,
      t."sizes" AS old_8,
      s.v_8 AS sv_8,
      s.e_8,
      s.z_8,
      coalesce(s.h_9, s.row_hlc, 0) AS sh_9,
      coalesce(s.n_9, s.row_node, 0::int2) AS sn_9,
      t."notes" AS old_9,
      s.v_9 AS sv_9,
      s.e_9,
      s.z_9,
      coalesce(s.h_10, s.row_hlc, 0) AS sh_10,
      coalesce(s.n_10, s.row_node, 0::int2) AS sn_10,
      t."the prefs" AS old_10,
      s.v_10 AS sv_10,
      s.e_10,
      s.z_10
    FROM g LEFT JOIN LATERAL (SELECT s.ctid, s.* FROM crdt_state.row_3 AS s WHERE s.k_1 = g.k_1 LIMIT 1) AS s ON true
    LEFT JOIN LATERAL (SELECT t.ctid, t.xmin, t.* FROM "shop"."basket" AS t WHERE t."id" = g.k_1 LIMIT 1) AS t ON true
    OFFSET 0) AS h OFFSET 0) AS i OFFSET 0) AS k OFFSET 0) AS m OFFSET 0
), p AS MATERIALIZED (
    SELECT CASE WHEN q.alive AND q.present THEN CASE WHEN (least(greatest(q.true_11, -2147483648), 2147483647)::integer) IS DISTINCT FROM q.old_11 OR ((q.a_2 OR q.op = 'T') AND q.ns_2::text IS DISTINCT FROM q.old_2::text) OR ((q.a_3 OR q.op = 'T') AND q.ns_3::text IS DISTINCT FROM q.old_3::text) OR ((q.a_4 OR q.op = 'T') AND q.ns_4::text IS DISTINCT FROM q.old_4::text) OR ((q.a_5 OR q.op = 'T') AND q.ns_5::text IS DISTINCT FROM q.old_5::text) OR ((q.a_6 OR q.op = 'T') AND q.ns_6::text IS DISTINCT FROM q.old_6::text) OR ((q.a_7 OR q.op = 'T') AND q.ns_7::text IS DISTINCT FROM q.old_7::text) OR ((q.a_8 OR q.op = 'T') AND q.ns_8::text IS DISTINCT FROM q.old_8::text) OR ((q.a_9 OR q.op = 'T') AND q.ns_9::text IS DISTINCT FROM q.old_9::text) OR ((q.a_10 OR q.op = 'T') AND q.ns_10::text IS DISTINCT FROM q.old_10::text) THEN 'U'::"char" ELSE 'N'::"char" END
        WHEN q.alive THEN CASE WHEN q.image IS NULL AND (q.op NOT IN ('I', 'R') OR q.s_ctid IS NOT NULL AND (q.nsib_2 IS NOT NULL OR q.nsib_3 IS NOT NULL OR q.nsib_4 IS NOT NULL OR q.nsib_5 IS NOT NULL)) THEN 'M'::"char" ELSE 'I'::"char" END WHEN q.present THEN 'D'::"char" ELSE 'N'::"char" END AS act,
      (q.conf_row OR (q.a_11 AND q.alive AND q.true_11 <> least(greatest(q.true_11, -2147483648), 2147483647)::integer)) AS concurrent,
      ((q.a_2 AND q.nsib_2 IS NOT NULL) OR (q.a_3 AND q.nsib_3 IS NOT NULL) OR (q.a_4 AND q.nsib_4 IS NOT NULL) OR (q.a_5 AND q.nsib_5 IS NOT NULL) OR q.ec_6 IS NOT NULL OR q.ec_7 IS NOT NULL OR q.ec_8 IS NOT NULL OR q.ec_9 IS NOT NULL OR q.ec_10 IS NOT NULL) AS within,
      q.op, q.dirty, q.present, q.alive, q.conf_row, q.a_11, q.a_2, q.win_2, q.a_3, q.win_3, q.a_4, q.win_4, q.a_5, q.win_5, q.a_6, q.win_6, q.a_7, q.win_7, q.a_8, q.win_8, q.a_9, q.win_9, q.a_10, q.win_10,
      q.member, q.ord, q.hlc, q.origin, q.live_hlc, q.live_node, q.rv_hlc, q.rv_node, q.k_1, q.s_ctid, q.t_ctid, q.t_xmin, q.d_11, q.true_11, q.h_2, q.val_2, q.nsib_2, q.ns_2, q.h_3, q.val_3, q.nsib_3, q.ns_3, q.h_4, q.val_4, q.nsib_4, q.ns_4, q.h_5, q.val_5, q.nsib_5, q.ns_5, q.fd_5, q.h_6, q.c_6, q.ne_6, q.nz_6, q.ec_6, q.ns_6, q.h_7, q.c_7, q.ne_7, q.nz_7, q.ec_7, q.ns_7, q.h_8, q.c_8, q.ne_8, q.nz_8, q.ec_8, q.ns_8, q.h_9, q.c_9, q.ne_9, q.nz_9, q.ec_9, q.ns_9, q.h_10, q.c_10, q.ne_10, q.nz_10, q.ec_10, q.ns_10, q.dead_hlc, q.dead_node, q.image,
      CASE WHEN q.alive THEN NULL WHEN q.present THEN jsonb_build_object('note', q.ns_2::text, 'best', q.ns_3::text, 'least', q.ns_4::text, 'cart', q.ns_5::text, 'seen', q.ns_6::text, 'tags', q.ns_7::text, 'sizes', q.ns_8::text, 'notes', q.ns_9::text, 'the prefs', q.ns_10::text) ELSE coalesce(q.image, CASE WHEN q.ins IS NOT NULL AND NOT (q.s_ctid IS NOT NULL AND (q.nsib_2 IS NOT NULL OR q.nsib_3 IS NOT NULL OR q.nsib_4 IS NOT NULL OR q.nsib_5 IS NOT NULL)) THEN '{}'::jsonb END) || CASE WHEN q.a_2 THEN jsonb_build_object('note', q.ns_2::text) ELSE '{}'::jsonb END || CASE WHEN q.a_3 THEN jsonb_build_object('best', q.ns_3::text) ELSE '{}'::jsonb END || CASE WHEN q.a_4 THEN jsonb_build_object('least', q.ns_4::text) ELSE '{}'::jsonb END || CASE WHEN q.a_5 THEN jsonb_build_object('cart', q.ns_5::text) ELSE '{}'::jsonb END || CASE WHEN q.a_6 THEN jsonb_build_object('seen', q.ns_6::text) ELSE '{}'::jsonb END || CASE WHEN q.a_7 THEN jsonb_build_object('tags', q.ns_7::text) ELSE '{}'::jsonb END || CASE WHEN q.a_8 THEN jsonb_build_object('sizes', q.ns_8::text) ELSE '{}'::jsonb END || CASE WHEN q.a_9 THEN jsonb_build_object('notes', q.ns_9::text) ELSE '{}'::jsonb END || CASE WHEN q.a_10 THEN jsonb_build_object('the prefs', q.ns_10::text) ELSE '{}'::jsonb END END AS new_image, CASE WHEN q.dirty THEN coalesce(q.t_xmin::text, concat('-', q.s_live_hlc, '.', q.s_dead_hlc)) END AS seen
    FROM (SELECT v.*, (v.dead_hlc IS NULL OR (v.live_hlc, v.live_node) > (v.dead_hlc, v.dead_node)) AS alive FROM (
      SELECT j.*, CASE WHEN j.op IN ('I', 'U', 'R') AND (j.hlc > j.s_live_hlc OR j.hlc = j.s_live_hlc AND j.origin >= j.s_live_node) THEN j.hlc ELSE j.s_live_hlc END AS live_hlc,
      CASE WHEN j.op IN ('I', 'U', 'R') AND (j.hlc > j.s_live_hlc OR j.hlc = j.s_live_hlc AND j.origin >= j.s_live_node) THEN j.origin ELSE j.s_live_node END AS live_node,
      CASE WHEN j.op = 'D' AND (j.s_dead_hlc IS NULL OR (j.hlc > j.s_dead_hlc OR j.hlc = j.s_dead_hlc AND j.origin >= j.s_dead_node)) THEN j.hlc WHEN (j.op IN ('I', 'R') AND j.hlc = j.s_dead_hlc AND j.origin = j.s_dead_node) THEN NULL ELSE j.s_dead_hlc END AS dead_hlc,
      CASE WHEN j.op = 'D' AND (j.s_dead_hlc IS NULL OR (j.hlc > j.s_dead_hlc OR j.hlc = j.s_dead_hlc AND j.origin >= j.s_dead_node)) THEN j.origin WHEN (j.op IN ('I', 'R') AND j.hlc = j.s_dead_hlc AND j.origin = j.s_dead_node) THEN NULL ELSE j.s_dead_node END AS dead_node,
      CASE WHEN j.op IN ('I', 'R') AND (j.ins > j.s_row_hlc OR j.ins = j.s_row_hlc AND j.origin >= j.s_row_node) THEN j.ins ELSE j.s_row_hlc END AS rv_hlc,
      CASE WHEN j.op IN ('I', 'R') AND (j.ins > j.s_row_hlc OR j.ins = j.s_row_hlc AND j.origin >= j.s_row_node) THEN j.origin ELSE j.s_row_node END AS rv_node,
      CASE WHEN j.op = 'D' THEN j.s_ctid IS NOT NULL AND (j.s_dead_hlc IS NULL OR (j.s_live_hlc, j.s_live_node) > (j.s_dead_hlc, j.s_dead_node)) AND NOT (j.s_live_node = j.origin OR j.s_live_hlc <= coalesce(($2::int8[])[j.member][j.s_live_node], 0)) ELSE j.op <> 'T' AND j.s_dead_hlc IS NOT NULL AND NOT (j.s_dead_node = j.origin OR j.s_dead_hlc <= coalesce(($2::int8[])[j.member][j.s_dead_node], 0)) END AS conf_row,
      coalesce(j.old_11, 0)::numeric + j.sx_11 + CASE WHEN j.a_11 THEN j.d_11 ELSE 0 END - CASE WHEN j.seen_11 IS NULL OR j.op NOT IN ('I', 'R') THEN 0 ELSE (SELECT coalesce(sum(greatest((e.value ->> 0)::numeric - coalesce(c.base_increased, 0), 0) - greatest((e.value ->> 1)::numeric - coalesce(c.base_decreased, 0), 0)), 0) FROM jsonb_each(j.seen_11::jsonb) AS e LEFT JOIN crdt_state.counter_3 AS c ON c.k_1 = j.k_1 AND c.attnum = 11 AND c.node = e.key::int2 WHERE e.key <> '0' OR NOT EXISTS (SELECT FROM crdt_state.truncation AS e WHERE e.table_id = 3)) END AS true_11
      FROM j OFFSET 0) AS v OFFSET 0) AS q
), go AS MATERIALIZED (
    SELECT count(*) AS staged, NOT coalesce(bool_or(dirty), false) AS clean,
      count(*) FILTER (WHERE p.act IN ('D', 'X')) AS planned_del,
      count(*) FILTER (WHERE p.act IN ('U')) AS planned_upd,
      count(*) FILTER (WHERE p.act IN ('I', 'X')) AS planned_ins,
      count(*) FILTER (WHERE act = 'M') AS absent, count(*) FILTER (WHERE concurrent) AS concurrent, count(*) FILTER (WHERE within) AS within,
      count(s_ctid) AS known, count(*) - count(s_ctid) AS unknown,
      array_agg(ord) FILTER (WHERE NOT present AND NOT alive) AS vacant,
      array_agg(ord) FILTER (WHERE dirty) AS dirty,
      array_agg(seen) FILTER (WHERE dirty) AS dirty_seen
    FROM p
), del AS (
    DELETE FROM "shop"."basket" AS t USING (SELECT p.t_ctid, p.t_xmin FROM p WHERE p.act IN ('D', 'X') AND (SELECT clean AND planned_del > 0 FROM go) OFFSET 0) AS p WHERE t.ctid = p.t_ctid AND t.xmin = p.t_xmin RETURNING 1
), upd AS (
    UPDATE "shop"."basket" AS t SET "hits" = least(greatest(p.true_11, -2147483648), 2147483647)::integer,
      "note" = p.ns_2,
      "best" = p.ns_3,
      "least" = p.ns_4,
      "cart" = p.ns_5,
      "seen" = p.ns_6,
      "tags" = p.ns_7,
      "sizes" = p.ns_8,
      "notes" = p.ns_9,
      "the prefs" = p.ns_10
    FROM (SELECT p.t_ctid, p.t_xmin, p.true_11, p.ns_2, p.ns_3, p.ns_4, p.ns_5, p.ns_6, p.ns_7, p.ns_8, p.ns_9, p.ns_10 FROM p WHERE p.act IN ('U') AND (SELECT clean AND planned_upd > 0 FROM go) OFFSET 0) AS p WHERE t.ctid = p.t_ctid AND t.xmin = p.t_xmin RETURNING 1
), ins AS (
    INSERT INTO "shop"."basket" ("id", "note", "best", "least", "cart", "seen", "tags", "sizes", "notes", "the prefs", "hits") OVERRIDING SYSTEM VALUE
    SELECT p.k_1,
      p.ns_2,
      p.ns_3,
      p.ns_4,
      p.ns_5,
      p.ns_6,
      p.ns_7,
      p.ns_8,
      p.ns_9,
      p.ns_10,
      least(greatest(p.true_11, -2147483648), 2147483647)::integer
    FROM p WHERE p.act IN ('I', 'X') AND (SELECT clean AND planned_ins > 0 FROM go) RETURNING 1
), st_upd AS (
    UPDATE crdt_state.row_3 AS s SET live_node = p.live_node::int2,
      live_hlc = p.live_hlc,
      row_xmin = CASE WHEN p.act IN ('U', 'I', 'X') THEN pg_current_xact_id()::xid WHEN p.alive AND p.present THEN p.t_xmin END,
      image = p.new_image,
      dead_node = p.dead_node::int2,
      dead_hlc = p.dead_hlc,
      row_hlc = p.rv_hlc,
      row_node = p.rv_node::int2,
      x_11 = nullif(p.true_11 - CASE WHEN p.alive THEN least(greatest(p.true_11, -2147483648), 2147483647)::integer ELSE 0 END, 0),
      n_2 = CASE WHEN p.win_2 THEN CASE WHEN NOT (p.h_2 = p.rv_hlc AND p.origin = p.rv_node) THEN p.origin::int2 END ELSE CASE WHEN p.rv_hlc = s.row_hlc AND p.rv_node = s.row_node THEN s.n_2 WHEN NOT (coalesce(s.h_2, s.row_hlc) = p.rv_hlc AND coalesce(s.n_2, s.row_node) = p.rv_node) THEN coalesce(s.n_2, s.row_node) END END,
      h_2 = CASE WHEN p.win_2 THEN CASE WHEN NOT (p.h_2 = p.rv_hlc AND p.origin = p.rv_node) THEN p.h_2 END ELSE CASE WHEN p.rv_hlc = s.row_hlc AND p.rv_node = s.row_node THEN s.h_2 WHEN NOT (coalesce(s.h_2, s.row_hlc) = p.rv_hlc AND coalesce(s.n_2, s.row_node) = p.rv_node) THEN coalesce(s.h_2, s.row_hlc) END END,
      v_2 = CASE WHEN p.win_2 THEN CASE WHEN coalesce(s.n_2, s.row_node) <> p.origin AND coalesce(s.h_2, s.row_hlc) > 0 THEN CASE WHEN coalesce(s.n_2, s.row_node) <> p.origin AND coalesce(s.h_2, s.row_hlc) > 0 AND (s.v_2 IS NULL OR cardinality(s.v_2) = 2 AND s.v_2[1] IN (coalesce(s.n_2, s.row_node), p.origin)) THEN ARRAY[coalesce(s.n_2, s.row_node)::int8, greatest(coalesce(s.h_2, s.row_hlc), CASE WHEN s.v_2[1] = coalesce(s.n_2, s.row_node) THEN s.v_2[2] END)] ELSE crdt_state.vector_add(s.v_2, coalesce(s.n_2, s.row_node), coalesce(s.h_2, s.row_hlc), p.origin) END ELSE s.v_2 END WHEN p.a_2 THEN CASE WHEN p.origin <> coalesce(s.n_2, s.row_node) AND p.h_2 > 0 AND (s.v_2 IS NULL OR cardinality(s.v_2) = 2 AND s.v_2[1] IN (p.origin, coalesce(s.n_2, s.row_node))) THEN ARRAY[p.origin::int8, greatest(p.h_2, CASE WHEN s.v_2[1] = p.origin THEN s.v_2[2] END)] ELSE crdt_state.vector_add(s.v_2, p.origin, p.h_2, coalesce(s.n_2, s.row_node)) END ELSE s.v_2 END,
      sib_2 = p.nsib_2,
      n_3 = CASE WHEN p.win_3 THEN CASE WHEN NOT (p.h_3 = p.rv_hlc AND p.origin = p.rv_node) THEN p.origin::int2 END ELSE CASE WHEN p.rv_hlc = s.row_hlc AND p.rv_node = s.row_node THEN s.n_3 WHEN NOT (coalesce(s.h_3, s.row_hlc) = p.rv_hlc AND coalesce(s.n_3, s.row_node) = p.rv_node) THEN coalesce(s.n_3, s.row_node) END END,
      h_3 = CASE WHEN p.win_3 THEN CASE WHEN NOT (p.h_3 = p.rv_hlc AND p.origin = p.rv_node) THEN p.h_3 END ELSE CASE WHEN p.rv_hlc = s.row_hlc AND p.rv_node = s.row_node THEN s.h_3 WHEN NOT (coalesce(s.h_3, s.row_hlc) = p.rv_hlc AND coalesce(s.n_3, s.row_node) = p.rv_node) THEN coalesce(s.h_3, s.row_hlc) END END,
      v_3 = CASE WHEN p.win_3 THEN CASE WHEN coalesce(s.n_3, s.row_node) <> p.origin AND coalesce(s.h_3, s.row_hlc) > 0 THEN CASE WHEN coalesce(s.n_3, s.row_node) <> p.origin AND coalesce(s.h_3, s.row_hlc) > 0 AND (s.v_3 IS NULL OR cardinality(s.v_3) = 2 AND s.v_3[1] IN (coalesce(s.n_3, s.row_node), p.origin)) THEN ARRAY[coalesce(s.n_3, s.row_node)::int8, greatest(coalesce(s.h_3, s.row_hlc), CASE WHEN s.v_3[1] = coalesce(s.n_3, s.row_node) THEN s.v_3[2] END)] ELSE crdt_state.vector_add(s.v_3, coalesce(s.n_3, s.row_node), coalesce(s.h_3, s.row_hlc), p.origin) END ELSE s.v_3 END WHEN p.a_3 THEN CASE WHEN p.origin <> coalesce(s.n_3, s.row_node) AND p.h_3 > 0 AND (s.v_3 IS NULL OR cardinality(s.v_3) = 2 AND s.v_3[1] IN (p.origin, coalesce(s.n_3, s.row_node))) THEN ARRAY[p.origin::int8, greatest(p.h_3, CASE WHEN s.v_3[1] = p.origin THEN s.v_3[2] END)] ELSE crdt_state.vector_add(s.v_3, p.origin, p.h_3, coalesce(s.n_3, s.row_node)) END ELSE s.v_3 END,
      sib_3 = p.nsib_3,
      n_4 = CASE WHEN p.win_4 THEN CASE WHEN NOT (p.h_4 = p.rv_hlc AND p.origin = p.rv_node) THEN p.origin::int2 END ELSE CASE WHEN p.rv_hlc = s.row_hlc AND p.rv_node = s.row_node THEN s.n_4 WHEN NOT (coalesce(s.h_4, s.row_hlc) = p.rv_hlc AND coalesce(s.n_4, s.row_node) = p.rv_node) THEN coalesce(s.n_4, s.row_node) END END,
      h_4 = CASE WHEN p.win_4 THEN CASE WHEN NOT (p.h_4 = p.rv_hlc AND p.origin = p.rv_node) THEN p.h_4 END ELSE CASE WHEN p.rv_hlc = s.row_hlc AND p.rv_node = s.row_node THEN s.h_4 WHEN NOT (coalesce(s.h_4, s.row_hlc) = p.rv_hlc AND coalesce(s.n_4, s.row_node) = p.rv_node) THEN coalesce(s.h_4, s.row_hlc) END END,
      v_4 = CASE WHEN p.win_4 THEN CASE WHEN coalesce(s.n_4, s.row_node) <> p.origin AND coalesce(s.h_4, s.row_hlc) > 0 THEN CASE WHEN coalesce(s.n_4, s.row_node) <> p.origin AND coalesce(s.h_4, s.row_hlc) > 0 AND (s.v_4 IS NULL OR cardinality(s.v_4) = 2 AND s.v_4[1] IN (coalesce(s.n_4, s.row_node), p.origin)) THEN ARRAY[coalesce(s.n_4, s.row_node)::int8, greatest(coalesce(s.h_4, s.row_hlc), CASE WHEN s.v_4[1] = coalesce(s.n_4, s.row_node) THEN s.v_4[2] END)] ELSE crdt_state.vector_add(s.v_4, coalesce(s.n_4, s.row_node), coalesce(s.h_4, s.row_hlc), p.origin) END ELSE s.v_4 END WHEN p.a_4 THEN CASE WHEN p.origin <> coalesce(s.n_4, s.row_node) AND p.h_4 > 0 AND (s.v_4 IS NULL OR cardinality(s.v_4) = 2 AND s.v_4[1] IN (p.origin, coalesce(s.n_4, s.row_node))) THEN ARRAY[p.origin::int8, greatest(p.h_4, CASE WHEN s.v_4[1] = p.origin THEN s.v_4[2] END)] ELSE crdt_state.vector_add(s.v_4, p.origin, p.h_4, coalesce(s.n_4, s.row_node)) END ELSE s.v_4 END,
      sib_4 = p.nsib_4,
      n_5 = CASE WHEN p.win_5 THEN CASE WHEN NOT (p.h_5 = p.rv_hlc AND p.origin = p.rv_node) THEN p.origin::int2 END ELSE CASE WHEN p.rv_hlc = s.row_hlc AND p.rv_node = s.row_node THEN s.n_5 WHEN NOT (coalesce(s.h_5, s.row_hlc) = p.rv_hlc AND coalesce(s.n_5, s.row_node) = p.rv_node) THEN coalesce(s.n_5, s.row_node) END END,
      h_5 = CASE WHEN p.win_5 THEN CASE WHEN NOT (p.h_5 = p.rv_hlc AND p.origin = p.rv_node) THEN p.h_5 END ELSE CASE WHEN p.rv_hlc = s.row_hlc AND p.rv_node = s.row_node THEN s.h_5 WHEN NOT (coalesce(s.h_5, s.row_hlc) = p.rv_hlc AND coalesce(s.n_5, s.row_node) = p.rv_node) THEN coalesce(s.h_5, s.row_hlc) END END,
      v_5 = CASE WHEN p.win_5 THEN CASE WHEN coalesce(s.n_5, s.row_node) <> p.origin AND coalesce(s.h_5, s.row_hlc) > 0 THEN CASE WHEN coalesce(s.n_5, s.row_node) <> p.origin AND coalesce(s.h_5, s.row_hlc) > 0 AND (s.v_5 IS NULL OR cardinality(s.v_5) = 2 AND s.v_5[1] IN (coalesce(s.n_5, s.row_node), p.origin)) THEN ARRAY[coalesce(s.n_5, s.row_node)::int8, greatest(coalesce(s.h_5, s.row_hlc), CASE WHEN s.v_5[1] = coalesce(s.n_5, s.row_node) THEN s.v_5[2] END)] ELSE crdt_state.vector_add(s.v_5, coalesce(s.n_5, s.row_node), coalesce(s.h_5, s.row_hlc), p.origin) END ELSE s.v_5 END WHEN p.a_5 THEN CASE WHEN p.origin <> coalesce(s.n_5, s.row_node) AND p.h_5 > 0 AND (s.v_5 IS NULL OR cardinality(s.v_5) = 2 AND s.v_5[1] IN (p.origin, coalesce(s.n_5, s.row_node))) THEN ARRAY[p.origin::int8, greatest(p.h_5, CASE WHEN s.v_5[1] = p.origin THEN s.v_5[2] END)] ELSE crdt_state.vector_add(s.v_5, p.origin, p.h_5, coalesce(s.n_5, s.row_node)) END ELSE s.v_5 END,
      sib_5 = p.nsib_5,
      n_6 = CASE WHEN p.win_6 THEN CASE WHEN NOT (p.h_6 = p.rv_hlc AND p.origin = p.rv_node) THEN p.origin::int2 END ELSE CASE WHEN p.rv_hlc = s.row_hlc AND p.rv_node = s.row_node THEN s.n_6 WHEN NOT (coalesce(s.h_6, s.row_hlc) = p.rv_hlc AND coalesce(s.n_6, s.row_node) = p.rv_node) THEN coalesce(s.n_6, s.row_node) END END,
      h_6 = CASE WHEN p.win_6 THEN CASE WHEN NOT (p.h_6 = p.rv_hlc AND p.origin = p.rv_node) THEN p.h_6 END ELSE CASE WHEN p.rv_hlc = s.row_hlc AND p.rv_node = s.row_node THEN s.h_6 WHEN NOT (coalesce(s.h_6, s.row_hlc) = p.rv_hlc AND coalesce(s.n_6, s.row_node) = p.rv_node) THEN coalesce(s.h_6, s.row_hlc) END END,
      v_6 = CASE WHEN p.win_6 THEN CASE WHEN coalesce(s.n_6, s.row_node) <> p.origin AND coalesce(s.h_6, s.row_hlc) > 0 THEN CASE WHEN coalesce(s.n_6, s.row_node) <> p.origin AND coalesce(s.h_6, s.row_hlc) > 0 AND (s.v_6 IS NULL OR cardinality(s.v_6) = 2 AND s.v_6[1] IN (coalesce(s.n_6, s.row_node), p.origin)) THEN ARRAY[coalesce(s.n_6, s.row_node)::int8, greatest(coalesce(s.h_6, s.row_hlc), CASE WHEN s.v_6[1] = coalesce(s.n_6, s.row_node) THEN s.v_6[2] END)] ELSE crdt_state.vector_add(s.v_6, coalesce(s.n_6, s.row_node), coalesce(s.h_6, s.row_hlc), p.origin) END ELSE s.v_6 END WHEN p.a_6 THEN CASE WHEN p.origin <> coalesce(s.n_6, s.row_node) AND p.h_6 > 0 AND (s.v_6 IS NULL OR cardinality(s.v_6) = 2 AND s.v_6[1] IN (p.origin, coalesce(s.n_6, s.row_node))) THEN ARRAY[p.origin::int8, greatest(p.h_6, CASE WHEN s.v_6[1] = p.origin THEN s.v_6[2] END)] ELSE crdt_state.vector_add(s.v_6, p.origin, p.h_6, coalesce(s.n_6, s.row_node)) END ELSE s.v_6 END,
      e_6 = p.ne_6,
      z_6 = p.nz_6,
      n_7 = CASE WHEN p.win_7 THEN CASE WHEN NOT (p.h_7 = p.rv_hlc AND p.origin = p.rv_node) THEN p.origin::int2 END ELSE CASE WHEN p.rv_hlc = s.row_hlc AND p.rv_node = s.row_node THEN s.n_7 WHEN NOT (coalesce(s.h_7, s.row_hlc) = p.rv_hlc AND coalesce(s.n_7, s.row_node) = p.rv_node) THEN coalesce(s.n_7, s.row_node) END END,
      h_7 = CASE WHEN p.win_7 THEN CASE WHEN NOT (p.h_7 = p.rv_hlc AND p.origin = p.rv_node) THEN p.h_7 END ELSE CASE WHEN p.rv_hlc = s.row_hlc AND p.rv_node = s.row_node THEN s.h_7 WHEN NOT (coalesce(s.h_7, s.row_hlc) = p.rv_hlc AND coalesce(s.n_7, s.row_node) = p.rv_node) THEN coalesce(s.h_7, s.row_hlc) END END,
      v_7 = CASE WHEN p.win_7 THEN CASE WHEN coalesce(s.n_7, s.row_node) <> p.origin AND coalesce(s.h_7, s.row_hlc) > 0 THEN CASE WHEN coalesce(s.n_7, s.row_node) <> p.origin AND coalesce(s.h_7, s.row_hlc) > 0 AND (s.v_7 IS NULL OR cardinality(s.v_7) = 2 AND s.v_7[1] IN (coalesce(s.n_7, s.row_node), p.origin)) THEN ARRAY[coalesce(s.n_7, s.row_node)::int8, greatest(coalesce(s.h_7, s.row_hlc), CASE WHEN s.v_7[1] = coalesce(s.n_7, s.row_node) THEN s.v_7[2] END)] ELSE crdt_state.vector_add(s.v_7, coalesce(s.n_7, s.row_node), coalesce(s.h_7, s.row_hlc), p.origin) END ELSE s.v_7 END WHEN p.a_7 THEN CASE WHEN p.origin <> coalesce(s.n_7, s.row_node) AND p.h_7 > 0 AND (s.v_7 IS NULL OR cardinality(s.v_7) = 2 AND s.v_7[1] IN (p.origin, coalesce(s.n_7, s.row_node))) THEN ARRAY[p.origin::int8, greatest(p.h_7, CASE WHEN s.v_7[1] = p.origin THEN s.v_7[2] END)] ELSE crdt_state.vector_add(s.v_7, p.origin, p.h_7, coalesce(s.n_7, s.row_node)) END ELSE s.v_7 END,
      e_7 = p.ne_7,
      z_7 = p.nz_7,
      n_8 = CASE WHEN p.win_8 THEN CASE WHEN NOT (p.h_8 = p.rv_hlc AND p.origin = p.rv_node) THEN p.origin::int2 END ELSE CASE WHEN p.rv_hlc = s.row_hlc AND p.rv_node = s.row_node THEN s.n_8 WHEN NOT (coalesce(s.h_8, s.row_hlc) = p.rv_hlc AND coalesce(s.n_8, s.row_node) = p.rv_node) THEN coalesce(s.n_8, s.row_node) END END,
      h_8 = CASE WHEN p.win_8 THEN CASE WHEN NOT (p.h_8 = p.rv_hlc AND p.origin = p.rv_node) THEN p.h_8 END ELSE CASE WHEN p.rv_hlc = s.row_hlc AND p.rv_node = s.row_node THEN s.h_8 WHEN NOT (coalesce(s.h_8, s.row_hlc) = p.rv_hlc AND coalesce(s.n_8, s.row_node) = p.rv_node) THEN coalesce(s.h_8, s.row_hlc) END END,
      v_8 = CASE WHEN p.win_8 THEN CASE WHEN coalesce(s.n_8, s.row_node) <> p.origin AND coalesce(s.h_8, s.row_hlc) > 0 THEN CASE WHEN coalesce(s.n_8, s.row_node) <> p.origin AND coalesce(s.h_8, s.row_hlc) > 0 AND (s.v_8 IS NULL OR cardinality(s.v_8) = 2 AND s.v_8[1] IN (coalesce(s.n_8, s.row_node), p.origin)) THEN ARRAY[coalesce(s.n_8, s.row_node)::int8, greatest(coalesce(s.h_8, s.row_hlc), CASE WHEN s.v_8[1] = coalesce(s.n_8, s.row_node) THEN s.v_8[2] END)] ELSE crdt_state.vector_add(s.v_8, coalesce(s.n_8, s.row_node), coalesce(s.h_8, s.row_hlc), p.origin) END ELSE s.v_8 END WHEN p.a_8 THEN CASE WHEN p.origin <> coalesce(s.n_8, s.row_node) AND p.h_8 > 0 AND (s.v_8 IS NULL OR cardinality(s.v_8) = 2 AND s.v_8[1] IN (p.origin, coalesce(s.n_8, s.row_node))) THEN ARRAY[p.origin::int8, greatest(p.h_8, CASE WHEN s.v_8[1] = p.origin THEN s.v_8[2] END)] ELSE crdt_state.vector_add(s.v_8, p.origin, p.h_8, coalesce(s.n_8, s.row_node)) END ELSE s.v_8 END,
      e_8 = p.ne_8,
      z_8 = p.nz_8,
      n_9 = CASE WHEN p.win_9 THEN CASE WHEN NOT (p.h_9 = p.rv_hlc AND p.origin = p.rv_node) THEN p.origin::int2 END ELSE CASE WHEN p.rv_hlc = s.row_hlc AND p.rv_node = s.row_node THEN s.n_9 WHEN NOT (coalesce(s.h_9, s.row_hlc) = p.rv_hlc AND coalesce(s.n_9, s.row_node) = p.rv_node) THEN coalesce(s.n_9, s.row_node) END END,
      h_9 = CASE WHEN p.win_9 THEN CASE WHEN NOT (p.h_9 = p.rv_hlc AND p.origin = p.rv_node) THEN p.h_9 END ELSE CASE WHEN p.rv_hlc = s.row_hlc AND p.rv_node = s.row_node THEN s.h_9 WHEN NOT (coalesce(s.h_9, s.row_hlc) = p.rv_hlc AND coalesce(s.n_9, s.row_node) = p.rv_node) THEN coalesce(s.h_9, s.row_hlc) END END,
      v_9 = CASE WHEN p.win_9 THEN CASE WHEN coalesce(s.n_9, s.row_node) <> p.origin AND coalesce(s.h_9, s.row_hlc) > 0 THEN CASE WHEN coalesce(s.n_9, s.row_node) <> p.origin AND coalesce(s.h_9, s.row_hlc) > 0 AND (s.v_9 IS NULL OR cardinality(s.v_9) = 2 AND s.v_9[1] IN (coalesce(s.n_9, s.row_node), p.origin)) THEN ARRAY[coalesce(s.n_9, s.row_node)::int8, greatest(coalesce(s.h_9, s.row_hlc), CASE WHEN s.v_9[1] = coalesce(s.n_9, s.row_node) THEN s.v_9[2] END)] ELSE crdt_state.vector_add(s.v_9, coalesce(s.n_9, s.row_node), coalesce(s.h_9, s.row_hlc), p.origin) END ELSE s.v_9 END WHEN p.a_9 THEN CASE WHEN p.origin <> coalesce(s.n_9, s.row_node) AND p.h_9 > 0 AND (s.v_9 IS NULL OR cardinality(s.v_9) = 2 AND s.v_9[1] IN (p.origin, coalesce(s.n_9, s.row_node))) THEN ARRAY[p.origin::int8, greatest(p.h_9, CASE WHEN s.v_9[1] = p.origin THEN s.v_9[2] END)] ELSE crdt_state.vector_add(s.v_9, p.origin, p.h_9, coalesce(s.n_9, s.row_node)) END ELSE s.v_9 END,
      e_9 = p.ne_9,
      z_9 = p.nz_9,
      n_10 = CASE WHEN p.win_10 THEN CASE WHEN NOT (p.h_10 = p.rv_hlc AND p.origin = p.rv_node) THEN p.origin::int2 END ELSE CASE WHEN p.rv_hlc = s.row_hlc AND p.rv_node = s.row_node THEN s.n_10 WHEN NOT (coalesce(s.h_10, s.row_hlc) = p.rv_hlc AND coalesce(s.n_10, s.row_node) = p.rv_node) THEN coalesce(s.n_10, s.row_node) END END,
      h_10 = CASE WHEN p.win_10 THEN CASE WHEN NOT (p.h_10 = p.rv_hlc AND p.origin = p.rv_node) THEN p.h_10 END ELSE CASE WHEN p.rv_hlc = s.row_hlc AND p.rv_node = s.row_node THEN s.h_10 WHEN NOT (coalesce(s.h_10, s.row_hlc) = p.rv_hlc AND coalesce(s.n_10, s.row_node) = p.rv_node) THEN coalesce(s.h_10, s.row_hlc) END END,
      v_10 = CASE WHEN p.win_10 THEN CASE WHEN coalesce(s.n_10, s.row_node) <> p.origin AND coalesce(s.h_10, s.row_hlc) > 0 THEN CASE WHEN coalesce(s.n_10, s.row_node) <> p.origin AND coalesce(s.h_10, s.row_hlc) > 0 AND (s.v_10 IS NULL OR cardinality(s.v_10) = 2 AND s.v_10[1] IN (coalesce(s.n_10, s.row_node), p.origin)) THEN ARRAY[coalesce(s.n_10, s.row_node)::int8, greatest(coalesce(s.h_10, s.row_hlc), CASE WHEN s.v_10[1] = coalesce(s.n_10, s.row_node) THEN s.v_10[2] END)] ELSE crdt_state.vector_add(s.v_10, coalesce(s.n_10, s.row_node), coalesce(s.h_10, s.row_hlc), p.origin) END ELSE s.v_10 END WHEN p.a_10 THEN CASE WHEN p.origin <> coalesce(s.n_10, s.row_node) AND p.h_10 > 0 AND (s.v_10 IS NULL OR cardinality(s.v_10) = 2 AND s.v_10[1] IN (p.origin, coalesce(s.n_10, s.row_node))) THEN ARRAY[p.origin::int8, greatest(p.h_10, CASE WHEN s.v_10[1] = p.origin THEN s.v_10[2] END)] ELSE crdt_state.vector_add(s.v_10, p.origin, p.h_10, coalesce(s.n_10, s.row_node)) END ELSE s.v_10 END,
      e_10 = p.ne_10,
      z_10 = p.nz_10
    FROM (SELECT p.act, p.present, p.alive, p.a_2, p.win_2, p.a_3, p.win_3, p.a_4, p.win_4, p.a_5, p.win_5, p.a_6, p.win_6, p.a_7, p.win_7, p.a_8, p.win_8, p.a_9, p.win_9, p.a_10, p.win_10, p.origin, p.live_hlc, p.live_node, p.rv_hlc, p.rv_node, p.s_ctid, p.t_xmin, p.true_11, p.h_2, p.nsib_2, p.h_3, p.nsib_3, p.h_4, p.nsib_4, p.h_5, p.nsib_5, p.h_6, p.ne_6, p.nz_6, p.h_7, p.ne_7, p.nz_7, p.h_8, p.ne_8, p.nz_8, p.h_9, p.ne_9, p.nz_9, p.h_10, p.ne_10, p.nz_10, p.dead_hlc, p.dead_node, p.new_image FROM p WHERE p.s_ctid IS NOT NULL AND (SELECT clean AND known > 0 FROM go) OFFSET 0) AS p WHERE s.ctid = p.s_ctid
), st_ins AS (
    INSERT INTO crdt_state.row_3 (k_1, live_node, live_hlc, row_xmin, image, dead_node, dead_hlc, row_hlc, row_node, x_11, n_2, h_2, sib_2, n_3, h_3, sib_3, n_4, h_4, sib_4, n_5, h_5, sib_5, n_6, h_6, e_6, z_6, n_7, h_7, e_7, z_7, n_8, h_8, e_8, z_8, n_9, h_9, e_9, z_9, n_10, h_10, e_10, z_10)
    SELECT p.k_1,
      p.live_node::int2,
      p.live_hlc,
      CASE WHEN p.act IN ('U', 'I', 'X') THEN pg_current_xact_id()::xid WHEN p.alive AND p.present THEN p.t_xmin END,
      p.new_image,
      p.dead_node::int2,
      p.dead_hlc,
      p.rv_hlc,
      p.rv_node::int2,
      nullif(p.true_11 - CASE WHEN p.alive THEN least(greatest(p.true_11, -2147483648), 2147483647)::integer ELSE 0 END, 0),
      CASE WHEN p.win_2 THEN CASE WHEN NOT (p.h_2 = p.rv_hlc AND p.origin = p.rv_node) THEN p.origin::int2 END WHEN NOT (p.rv_hlc = 0 AND p.rv_node = 0) THEN 0::int2 END,
      CASE WHEN p.win_2 THEN CASE WHEN NOT (p.h_2 = p.rv_hlc AND p.origin = p.rv_node) THEN p.h_2 END WHEN NOT (p.rv_hlc = 0 AND p.rv_node = 0) THEN 0 END,
      p.nsib_2,
      CASE WHEN p.win_3 THEN CASE WHEN NOT (p.h_3 = p.rv_hlc AND p.origin = p.rv_node) THEN p.origin::int2 END WHEN NOT (p.rv_hlc = 0 AND p.rv_node = 0) THEN 0::int2 END,
      CASE WHEN p.win_3 THEN CASE WHEN NOT (p.h_3 = p.rv_hlc AND p.origin = p.rv_node) THEN p.h_3 END WHEN NOT (p.rv_hlc = 0 AND p.rv_node = 0) THEN 0 END,
      p.nsib_3,
      CASE WHEN p.win_4 THEN CASE WHEN NOT (p.h_4 = p.rv_hlc AND p.origin = p.rv_node) THEN p.origin::int2 END WHEN NOT (p.rv_hlc = 0 AND p.rv_node = 0) THEN 0::int2 END,
      CASE WHEN p.win_4 THEN CASE WHEN NOT (p.h_4 = p.rv_hlc AND p.origin = p.rv_node) THEN p.h_4 END WHEN NOT (p.rv_hlc = 0 AND p.rv_node = 0) THEN 0 END,
      p.nsib_4,
      CASE WHEN p.win_5 THEN CASE WHEN NOT (p.h_5 = p.rv_hlc AND p.origin = p.rv_node) THEN p.origin::int2 END WHEN NOT (p.rv_hlc = 0 AND p.rv_node = 0) THEN 0::int2 END,
      CASE WHEN p.win_5 THEN CASE WHEN NOT (p.h_5 = p.rv_hlc AND p.origin = p.rv_node) THEN p.h_5 END WHEN NOT (p.rv_hlc = 0 AND p.rv_node = 0) THEN 0 END,
      p.nsib_5,
      CASE WHEN p.win_6 THEN CASE WHEN NOT (p.h_6 = p.rv_hlc AND p.origin = p.rv_node) THEN p.origin::int2 END WHEN NOT (p.rv_hlc = 0 AND p.rv_node = 0) THEN 0::int2 END,
      CASE WHEN p.win_6 THEN CASE WHEN NOT (p.h_6 = p.rv_hlc AND p.origin = p.rv_node) THEN p.h_6 END WHEN NOT (p.rv_hlc = 0 AND p.rv_node = 0) THEN 0 END,
      p.ne_6,
      p.nz_6,
      CASE WHEN p.win_7 THEN CASE WHEN NOT (p.h_7 = p.rv_hlc AND p.origin = p.rv_node) THEN p.origin::int2 END WHEN NOT (p.rv_hlc = 0 AND p.rv_node = 0) THEN 0::int2 END,
      CASE WHEN p.win_7 THEN CASE WHEN NOT (p.h_7 = p.rv_hlc AND p.origin = p.rv_node) THEN p.h_7 END WHEN NOT (p.rv_hlc = 0 AND p.rv_node = 0) THEN 0 END,
      p.ne_7,
      p.nz_7,
      CASE WHEN p.win_8 THEN CASE WHEN NOT (p.h_8 = p.rv_hlc AND p.origin = p.rv_node) THEN p.origin::int2 END WHEN NOT (p.rv_hlc = 0 AND p.rv_node = 0) THEN 0::int2 END,
      CASE WHEN p.win_8 THEN CASE WHEN NOT (p.h_8 = p.rv_hlc AND p.origin = p.rv_node) THEN p.h_8 END WHEN NOT (p.rv_hlc = 0 AND p.rv_node = 0) THEN 0 END,
      p.ne_8,
      p.nz_8,
      CASE WHEN p.win_9 THEN CASE WHEN NOT (p.h_9 = p.rv_hlc AND p.origin = p.rv_node) THEN p.origin::int2 END WHEN NOT (p.rv_hlc = 0 AND p.rv_node = 0) THEN 0::int2 END,
      CASE WHEN p.win_9 THEN CASE WHEN NOT (p.h_9 = p.rv_hlc AND p.origin = p.rv_node) THEN p.h_9 END WHEN NOT (p.rv_hlc = 0 AND p.rv_node = 0) THEN 0 END,
      p.ne_9,
      p.nz_9,
      CASE WHEN p.win_10 THEN CASE WHEN NOT (p.h_10 = p.rv_hlc AND p.origin = p.rv_node) THEN p.origin::int2 END WHEN NOT (p.rv_hlc = 0 AND p.rv_node = 0) THEN 0::int2 END,
      CASE WHEN p.win_10 THEN CASE WHEN NOT (p.h_10 = p.rv_hlc AND p.origin = p.rv_node) THEN p.h_10 END WHEN NOT (p.rv_hlc = 0 AND p.rv_node = 0) THEN 0 END,
      p.ne_10,
      p.nz_10
    FROM p WHERE p.s_ctid IS NULL AND p.act <> 'M' AND (SELECT clean AND unknown > 0 FROM go)
), counted AS (
    INSERT INTO crdt_state.counter_3 AS c (k_1, attnum, node, increased, decreased) SELECT p.k_1, v.attnum, p.origin::int2, greatest(v.delta, 0), greatest(-v.delta, 0) FROM p, LATERAL (VALUES (11, CASE WHEN p.a_11 THEN p.d_11 ELSE 0 END, false)) AS v(attnum, delta, written) WHERE (v.delta <> 0 OR v.written AND p.op = 'U') AND p.act <> 'M' AND (SELECT clean AND staged > 0 FROM go) ON CONFLICT (k_1, attnum, node) DO UPDATE SET increased = c.increased + excluded.increased, decreased = c.decreased + excluded.decreased
), conflicts AS (
    INSERT INTO crdt_state.conflict (id, table_id, row_key, column_name, rule, kind, winner_node, winner_hlc, winner_value, winner_vector, loser_node, loser_hlc, loser_value, loser_vector)
    SELECT (SELECT (lpad(to_hex(greatest(c.hlc, c.here_hlc) >> 16), 12, '0') || '7' || substr(d.md5, 1, 3) || '8' || substr(d.md5, 4, 15))::uuid FROM (SELECT md5(concat_ws(E'\x01', 'shop.basket', jsonb_build_object('id', p.k_1::text)::text, c.name, CASE WHEN c.name IS NULL THEN 'row' ELSE c.kind END, coalesce(CASE WHEN c.kind = 'saturated' THEN c.value END, ''), least(c.hlc || '.' || CASE WHEN c.kind = 'saturated' THEN c.here_node ELSE p.origin END, c.here_hlc || '.' || c.here_node), greatest(c.hlc || '.' || CASE WHEN c.kind = 'saturated' THEN c.here_node ELSE p.origin END, c.here_hlc || '.' || c.here_node)))) AS d(md5)), 3, jsonb_build_object('id', p.k_1::text),
      c.name, c.rule, c.kind,
      CASE WHEN c.wins THEN CASE WHEN c.kind = 'saturated' THEN c.here_node ELSE p.origin END ELSE c.here_node END,
      CASE WHEN c.wins THEN c.hlc ELSE c.here_hlc END,
      CASE WHEN c.wins THEN c.value ELSE c.here_value END,
      CASE WHEN c.wins THEN CASE WHEN c.kind <> 'saturated' THEN crdt_state.seen_by(p.origin, c.hlc, ARRAY(SELECT unnest(($2::int8[])[p.member:p.member]))) END ELSE array_cat(ARRAY[c.here_node::int8, c.here_hlc], c.here_vector) END,
      CASE WHEN c.wins THEN c.here_node ELSE CASE WHEN c.kind = 'saturated' THEN c.here_node ELSE p.origin END END,
      CASE WHEN c.wins THEN c.here_hlc ELSE c.hlc END,
      CASE WHEN c.wins THEN c.here_value ELSE c.value END,
      CASE WHEN c.wins THEN array_cat(ARRAY[c.here_node::int8, c.here_hlc], c.here_vector) ELSE CASE WHEN c.kind <> 'saturated' THEN crdt_state.seen_by(p.origin, c.hlc, ARRAY(SELECT unnest(($2::int8[])[p.member:p.member]))) END END
    FROM p LEFT JOIN crdt_state.row_3 AS s ON s.ctid = p.s_ctid
    LEFT JOIN "shop"."basket" AS t ON t.ctid = p.t_ctid,
    LATERAL (VALUES ('hits', 'pn_counter', 'saturated', (p.a_11 AND p.alive AND p.true_11 <> least(greatest(p.true_11, -2147483648), 2147483647)::integer), false, p.live_hlc, p.true_11::text, p.live_hlc, p.live_node::int2, (least(greatest(p.true_11, -2147483648), 2147483647)::integer)::text, NULL::int8[]),
      (NULL, 'row=lww', CASE WHEN (s.live_hlc, s.live_node) > (p.hlc, p.origin) THEN 'lost_delete' ELSE 'overwrite' END, p.conf_row AND p.op = 'D', NOT (s.live_hlc, s.live_node) > (p.hlc, p.origin), p.hlc, 'deleted', s.live_hlc, s.live_node, 'written', NULL::int8[]),
      (NULL, 'row=lww', CASE WHEN (p.hlc, p.origin) > (s.dead_hlc, s.dead_node) AND p.alive AND NOT p.present THEN 'revived' WHEN (p.hlc, p.origin) > (s.dead_hlc, s.dead_node) THEN 'lost_delete' ELSE 'overwrite' END, p.conf_row AND p.op <> 'D', (p.hlc, p.origin) > (s.dead_hlc, s.dead_node), p.hlc, 'written', s.dead_hlc, s.dead_node, 'deleted', NULL::int8[]))
      AS c(name, rule, kind, conflict, wins, hlc, value, here_hlc, here_node, here_value, here_vector)
    WHERE p.concurrent AND c.conflict AND c.value IS DISTINCT FROM c.here_value AND (SELECT clean AND concurrent > 0 FROM go)
    ON CONFLICT (id) DO NOTHING RETURNING 1
), missing AS (
    INSERT INTO crdt_state.quarantine (origin, from_hlc, to_hlc, table_name, row_key, change, sqlstate, reason)
    SELECT p.origin, ($43::int8[])[p.member], ($44::int8[])[p.member], 'shop.basket', jsonb_build_object('id', p.k_1::text), jsonb_build_object('hits', p.d_11::text, 'note', p.val_2::text, 'best', p.val_3::text, 'least', p.val_4::text, 'cart', p.val_5::text, 'seen', p.c_6::text, 'tags', p.c_7::text, 'sizes', p.c_8::text, 'notes', p.c_9::text, 'the prefs', p.c_10::text), '02000', 'the row is not in this database and left no tombstone; copy it, then repeat the change'
    FROM p WHERE p.act = 'M' AND p.op <> 'T' AND (SELECT clean AND absent > 0 FROM go) RETURNING 1
), within AS (
    INSERT INTO crdt_state.conflict (id, table_id, row_key, column_name, element, rule, kind, note, winner_node, winner_hlc, winner_value, winner_vector, loser_node, loser_hlc, loser_value, loser_vector)
    SELECT (SELECT (lpad(to_hex(greatest(c.hlc, c.here_hlc) >> 16), 12, '0') || '7' || substr(d.md5, 1, 3) || '8' || substr(d.md5, 4, 15))::uuid FROM (SELECT md5(concat_ws(E'\x01', 'shop.basket', jsonb_build_object('id', p.k_1::text)::text, c.name, c.kind, coalesce(c.element, ''), least(c.hlc || '.' || c.node, c.here_hlc || '.' || c.here_node), greatest(c.hlc || '.' || c.node, c.here_hlc || '.' || c.here_node)))) AS d(md5)), 3, jsonb_build_object('id', p.k_1::text), c.name, c.element, c.rule, c.kind, c.note,
      CASE WHEN c.wins THEN c.node ELSE c.here_node END, CASE WHEN c.wins THEN c.hlc ELSE c.here_hlc END, CASE WHEN c.wins THEN c.value ELSE c.here_value END, CASE WHEN c.wins THEN CASE WHEN c.node = p.origin THEN crdt_state.seen_by(p.origin, c.hlc, ARRAY(SELECT unnest(($2::int8[])[p.member:p.member]))) ELSE array_cat(ARRAY[c.node::int8, c.hlc], c.here_vector) END ELSE CASE WHEN c.here_node = p.origin THEN crdt_state.seen_by(p.origin, c.here_hlc, ARRAY(SELECT unnest(($2::int8[])[p.member:p.member]))) ELSE array_cat(ARRAY[c.here_node::int8, c.here_hlc], c.here_vector) END END,
      CASE WHEN c.wins THEN c.here_node ELSE c.node END, CASE WHEN c.wins THEN c.here_hlc ELSE c.hlc END, CASE WHEN c.wins THEN c.here_value ELSE c.value END, CASE WHEN c.wins THEN CASE WHEN c.here_node = p.origin THEN crdt_state.seen_by(p.origin, c.here_hlc, ARRAY(SELECT unnest(($2::int8[])[p.member:p.member]))) ELSE array_cat(ARRAY[c.here_node::int8, c.here_hlc], c.here_vector) END ELSE CASE WHEN c.node = p.origin THEN crdt_state.seen_by(p.origin, c.hlc, ARRAY(SELECT unnest(($2::int8[])[p.member:p.member]))) ELSE array_cat(ARRAY[c.node::int8, c.hlc], c.here_vector) END END
    FROM p LEFT JOIN crdt_state.row_3 AS s ON s.ctid = p.s_ctid, LATERAL (SELECT 'note', NULL, 'mv_register', 'overwrite', NULL, (p.h_2, p.origin) > ((w.value -> 1)::int8, (w.value -> 0)::int8), p.origin, p.h_2, p.val_2::text, (w.value -> 0)::int8, (w.value -> 1)::int8, w.value ->> 2, CASE WHEN s.sib_2 IS NULL THEN s.v_2 END FROM jsonb_array_elements(p.nsib_2) AS w WHERE p.a_2 AND (w.value -> 0)::int8 <> p.origin
      UNION ALL SELECT 'best', NULL, 'max_register', 'overwrite', NULL, (SELECT x.wins FROM (VALUES (p.val_3, (p.h_3, p.origin) > ((w.value -> 1)::int8, (w.value -> 0)::int8), true), ((w.value ->> 2)::character varying, NOT (p.h_3, p.origin) > ((w.value -> 1)::int8, (w.value -> 0)::int8), false)) AS x(value, newer, wins) ORDER BY x.value::text COLLATE "C" DESC NULLS LAST, x.newer DESC LIMIT 1), p.origin, p.h_3, p.val_3::text, (w.value -> 0)::int8, (w.value -> 1)::int8, w.value ->> 2, CASE WHEN s.sib_3 IS NULL THEN s.v_3 END FROM jsonb_array_elements(p.nsib_3) AS w WHERE p.a_3 AND (w.value -> 0)::int8 <> p.origin
      UNION ALL SELECT 'least', NULL, 'min_register', 'overwrite', NULL, (SELECT x.wins FROM (VALUES (p.val_4, (p.h_4, p.origin) > ((w.value -> 1)::int8, (w.value -> 0)::int8), true), ((w.value ->> 2)::integer, NOT (p.h_4, p.origin) > ((w.value -> 1)::int8, (w.value -> 0)::int8), false)) AS x(value, newer, wins) ORDER BY x.value ASC NULLS LAST, x.newer DESC LIMIT 1), p.origin, p.h_4, p.val_4::text, (w.value -> 0)::int8, (w.value -> 1)::int8, w.value ->> 2, CASE WHEN s.sib_4 IS NULL THEN s.v_4 END FROM jsonb_array_elements(p.nsib_4) AS w WHERE p.a_4 AND (w.value -> 0)::int8 <> p.origin
      UNION ALL SELECT 'cart', NULL, 'merge', 'overwrite', NULL, (p.h_5, p.origin) > ((w.value -> 1)::int8, (w.value -> 0)::int8), p.origin, p.h_5, p.val_5::text, (w.value -> 0)::int8, (w.value -> 1)::int8, w.value ->> 2, CASE WHEN s.sib_5 IS NULL THEN s.v_5 END FROM jsonb_array_elements(p.nsib_5) AS w WHERE p.a_5 AND (w.value -> 0)::int8 <> p.origin
      UNION ALL (SELECT 'cart', NULL, 'merge', 'merge_failed', p.fd_5[2], true, (p.nsib_5 -> 0 -> 0)::int8, (p.nsib_5 -> 0 -> 1)::int8, p.nsib_5 -> 0 ->> 2, (w.value -> 0)::int8, (w.value -> 1)::int8, w.value ->> 2, CASE WHEN s.sib_5 IS NULL THEN s.v_5 END FROM jsonb_array_elements(p.nsib_5) WITH ORDINALITY AS w(value, place) WHERE p.a_5 AND p.fd_5[2] IS NOT NULL AND w.value ->> 2 IS DISTINCT FROM p.nsib_5 -> 0 ->> 2 ORDER BY w.place LIMIT 1)
      UNION ALL SELECT 'seen', w.value ->> 0, 'g_set', 'lost_delete', NULL, (w.value -> 6)::boolean, p.origin, (w.value -> 1)::int8, w.value ->> 2, (w.value -> 3)::int8, (w.value -> 4)::int8, w.value ->> 5, NULL::int8[] FROM jsonb_array_elements(p.ec_6) AS w
      UNION ALL SELECT 'tags', w.value ->> 0, 'or_set', 'lost_delete', NULL, (w.value -> 6)::boolean, p.origin, (w.value -> 1)::int8, w.value ->> 2, (w.value -> 3)::int8, (w.value -> 4)::int8, w.value ->> 5, NULL::int8[] FROM jsonb_array_elements(p.ec_7) AS w
      UNION ALL SELECT 'sizes', w.value ->> 0, 'aw_set', 'lost_delete', NULL, (w.value -> 6)::boolean, p.origin, (w.value -> 1)::int8, w.value ->> 2, (w.value -> 3)::int8, (w.value -> 4)::int8, w.value ->> 5, NULL::int8[] FROM jsonb_array_elements(p.ec_8) AS w
      UNION ALL SELECT 'notes', w.value ->> 0, 'lww_set', 'overwrite', NULL, (w.value -> 6)::boolean, p.origin, (w.value -> 1)::int8, w.value ->> 2, (w.value -> 3)::int8, (w.value -> 4)::int8, w.value ->> 5, NULL::int8[] FROM jsonb_array_elements(p.ec_9) AS w
      UNION ALL SELECT 'the prefs', w.value ->> 0, 'lww_map', 'overwrite', NULL, (w.value -> 6)::boolean, p.origin, (w.value -> 1)::int8, w.value ->> 2, (w.value -> 3)::int8, (w.value -> 4)::int8, w.value ->> 5, NULL::int8[] FROM jsonb_array_elements(p.ec_10) AS w)
      AS c(name, element, rule, kind, note, wins, node, hlc, value, here_node, here_hlc, here_value, here_vector)
    WHERE p.within AND p.act <> 'M' AND c.value IS DISTINCT FROM c.here_value AND (SELECT clean AND within > 0 FROM go)
    ON CONFLICT (id) DO NOTHING RETURNING 1
)
SELECT (SELECT count(*) FROM del) AS del, (SELECT count(*) FROM upd) AS upd, (SELECT count(*) FROM ins) AS ins, (SELECT count(*) FROM conflicts) AS conflicts, (SELECT count(*) FROM missing) AS missing, (SELECT count(*) FROM within) AS within,
  staged, planned_del, planned_upd, planned_ins, vacant, dirty, dirty_seen
FROM go
