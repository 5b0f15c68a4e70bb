-- Parameters:
--   $1: origins
--   $2: contexts
--   $3: ops
--   $4: hlcs
--   $5: inserted
--   $6: mask:0
--   $7: key:2
--   $8: key:1
--   $9: value:3
--   $10: bit:3
--   $11: late:3
--   $12: value:4
--   $13: bit:4
--   $14: value:5
--   $15: bit:5
--   $16: value:7
--   $17: bit:7
--   $18: accepted
--   $19: members
--   $20: seen:4
--   $21: seen:5
--   $22: seen:7
--   $23: first
--   $24: last
--   $25: locked
--   $26: from_hlcs
--   $27: to_hlcs
WITH g AS (
    SELECT u.ord, u.op, u.hlc, u.ins, u.k2::character varying AS k_2, u.k1::bigint AS k_1, coalesce(u.m0 & $10::int8 <> 0, false) AS a_3, coalesce(u.l3, u.hlc) AS h_3, u.v3::text AS val_3, coalesce(u.m0 & $13::int8 <> 0, false) AS a_4, coalesce(u.v4::numeric, 0) AS d_4, coalesce(u.m0 & $15::int8 <> 0, false) AS a_5, coalesce(u.v5::numeric, 0) AS d_5, coalesce(u.m0 & $17::int8 <> 0, false) AS a_7, coalesce(u.v7::numeric, 0) AS d_7, u.accepted, u.members, u.seen_4, u.seen_5, u.seen_7
    FROM unnest($3::text::"char"[], $4::text::int8[], $5::text::int8[], $6::text::int8[], $7::text::text[], $8::text::text[], $9::text::text[], $11::text::int8[], $12::text::text[], $14::text::text[], $16::text::text[], $18::text::text[], $19::text::int4[], $20::text::text[], $21::text::text[], $22::text::text[]) WITH ORDINALITY AS u(op, hlc, ins, m0, k2, k1, v3, l3, v4, v5, v7, accepted, members, seen_4, seen_5, seen_7, ord)
    WHERE u.ord BETWEEN $23::int8 AND $24::int8 ORDER BY k_2, k_1
), j AS (
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
      CASE WHEN g.accepted IS NOT NULL AND (coalesce(t.xmin::text, concat('-', coalesce(s.live_hlc, 0), '.', s.dead_hlc)) = ANY (string_to_array(g.accepted, ' ')) OR g.accepted = '' AND t.ctid IS NULL) THEN false WHEN s.ctid IS NULL THEN t.ctid IS NOT NULL OR g.op IN ('U', 'R') OR g.op = 'D' AND g.ins IS NULL ELSE (t.ctid IS NOT NULL) <> (s.dead_hlc IS NULL OR (s.live_hlc, s.live_node) > (s.dead_hlc, s.dead_node)) OR (t.ctid IS NOT NULL AND t.xmin IS DISTINCT FROM s.row_xmin) END AND NOT ($25::int8 = 1 AND t.ctid IS NOT NULL AND crdt_state.is_own(t.xmin)) AS dirty,
      coalesce(s.h_3, s.row_hlc, 0) AS sh_3,
      coalesce(s.n_3, s.row_node, 0::int2) AS sn_3,
      t."label" AS old_3,
      t."amount" AS old_4,
      coalesce(s.x_4, 0) AS sx_4,
      t."views" AS old_5,
      coalesce(s.x_5, 0) AS sx_5,
      t."price" AS old_7,
      coalesce(s.x_7, 0) AS sx_7
    FROM g LEFT JOIN LATERAL (SELECT s.ctid, s.* FROM crdt_state.row_2 AS s WHERE s.k_2 = g.k_2 AND s.k_1 = g.k_1 LIMIT 1) AS s ON true
    LEFT JOIN LATERAL (SELECT t.ctid, t.xmin, t.* FROM "Shop's"."the ""stock""" AS t WHERE t."region" = g.k_2 AND t."id" = g.k_1 LIMIT 1) AS t ON true
    OFFSET 0
), p AS MATERIALIZED (
    SELECT CASE WHEN q.alive AND q.present THEN CASE WHEN q.win_3 OR (least(greatest(q.true_4, -2147483648), 2147483647)::integer) IS DISTINCT FROM q.old_4 OR (least(greatest(q.true_5, -9223372036854775808), 9223372036854775807)::bigint) IS DISTINCT FROM q.old_5 OR (CASE WHEN q.keep_7 THEN CASE WHEN q.present THEN q.old_7 ELSE (q.image ->> 'price')::numeric(10,2) END ELSE least(greatest(q.true_7, -(10::numeric ^ 8 - 10::numeric ^ -2)), (10::numeric ^ 8 - 10::numeric ^ -2))::numeric(10,2) END)::text IS DISTINCT FROM q.old_7::text THEN 'U'::"char" ELSE 'N'::"char" END
        WHEN q.alive THEN CASE WHEN q.image IS NULL AND (q.op NOT IN ('I', 'R') OR q.s_ctid IS NOT NULL AND (q.sh_3 > 0 AND NOT q.win_3)) THEN 'M'::"char" ELSE 'I'::"char" END WHEN q.present THEN 'D'::"char" ELSE 'N'::"char" END AS act,
      (q.conf_row OR q.s_ctid IS NOT NULL AND ((q.a_3 AND NOT (q.sn_3 = q.origin OR q.sh_3 <= coalesce(($2::int8[])[q.member][q.sn_3], 0)))) OR (q.a_4 AND q.alive AND q.true_4 <> least(greatest(q.true_4, -2147483648), 2147483647)::integer) OR (q.a_5 AND q.alive AND q.true_5 <> least(greatest(q.true_5, -9223372036854775808), 9223372036854775807)::bigint) OR (q.a_7 AND q.alive AND q.true_7 <> least(greatest(q.true_7, -(10::numeric ^ 8 - 10::numeric ^ -2)), (10::numeric ^ 8 - 10::numeric ^ -2))::numeric(10,2))) AS concurrent,
      q.op, q.dirty, q.present, q.alive, q.conf_row, q.a_3, q.win_3, q.a_4, q.a_5, q.a_7, q.keep_7,
      q.member, q.ord, q.hlc, q.origin, q.live_hlc, q.live_node, q.rv_hlc, q.rv_node, q.k_2, q.k_1, q.s_ctid, q.t_ctid, q.t_xmin, q.h_3, q.val_3, q.d_4, q.true_4, q.d_5, q.true_5, q.d_7, q.true_7, q.old_7, q.dead_hlc, q.dead_node, q.image,
      CASE WHEN q.alive THEN NULL WHEN q.present THEN jsonb_build_object('label', CASE WHEN q.win_3 THEN q.val_3::text ELSE q.old_3::text END, 'price', q.old_7::text) ELSE coalesce(q.image, CASE WHEN q.ins IS NOT NULL AND NOT (q.s_ctid IS NOT NULL AND (q.sh_3 > 0 AND NOT q.win_3)) THEN '{}'::jsonb END) || CASE WHEN q.win_3 THEN jsonb_build_object('label', q.val_3::text) ELSE '{}'::jsonb END END AS new_image, CASE WHEN q.dirty THEN coalesce(q.t_xmin::text, concat('-', q.s_live_hlc, '.', q.s_dead_hlc)) END AS seen
    FROM (SELECT v.*, (v.dead_hlc IS NULL OR (v.live_hlc, v.live_node) > (v.dead_hlc, v.dead_node)) AS alive FROM (
      SELECT j.*, CASE WHEN j.op IN ('I', 'U', 'R') AND (j.hlc > j.s_live_hlc OR j.hlc = j.s_live_hlc AND j.origin >= j.s_live_node) THEN j.hlc ELSE j.s_live_hlc END AS live_hlc,
      CASE WHEN j.op IN ('I', 'U', 'R') AND (j.hlc > j.s_live_hlc OR j.hlc = j.s_live_hlc AND j.origin >= j.s_live_node) THEN j.origin ELSE j.s_live_node END AS live_node,
      CASE WHEN j.op = 'D' AND (j.s_dead_hlc IS NULL OR (j.hlc > j.s_dead_hlc OR j.hlc = j.s_dead_hlc AND j.origin >= j.s_dead_node)) THEN j.hlc WHEN (j.op IN ('I', 'R') AND j.hlc = j.s_dead_hlc AND j.origin = j.s_dead_node) THEN NULL ELSE j.s_dead_hlc END AS dead_hlc,
      CASE WHEN j.op = 'D' AND (j.s_dead_hlc IS NULL OR (j.hlc > j.s_dead_hlc OR j.hlc = j.s_dead_hlc AND j.origin >= j.s_dead_node)) THEN j.origin WHEN (j.op IN ('I', 'R') AND j.hlc = j.s_dead_hlc AND j.origin = j.s_dead_node) THEN NULL ELSE j.s_dead_node END AS dead_node,
      CASE WHEN j.op IN ('I', 'R') AND (j.ins > j.s_row_hlc OR j.ins = j.s_row_hlc AND j.origin >= j.s_row_node) THEN j.ins ELSE j.s_row_hlc END AS rv_hlc,
      CASE WHEN j.op IN ('I', 'R') AND (j.ins > j.s_row_hlc OR j.ins = j.s_row_hlc AND j.origin >= j.s_row_node) THEN j.origin ELSE j.s_row_node END AS rv_node,
      CASE WHEN j.op = 'D' THEN j.s_ctid IS NOT NULL AND (j.s_dead_hlc IS NULL OR (j.s_live_hlc, j.s_live_node) > (j.s_dead_hlc, j.s_dead_node)) AND NOT (j.s_live_node = j.origin OR j.s_live_hlc <= coalesce(($2::int8[])[j.member][j.s_live_node], 0)) ELSE j.op <> 'T' AND j.s_dead_hlc IS NOT NULL AND NOT (j.s_dead_node = j.origin OR j.s_dead_hlc <= coalesce(($2::int8[])[j.member][j.s_dead_node], 0)) END AS conf_row,
      (j.a_3 AND (j.h_3 > j.sh_3 OR j.h_3 = j.sh_3 AND j.origin >= j.sn_3)) AS win_3,
      coalesce(j.old_4, 0)::numeric + j.sx_4 + CASE WHEN j.a_4 THEN j.d_4 ELSE 0 END - CASE WHEN j.seen_4 IS NULL OR j.op NOT IN ('I', 'R') THEN 0 ELSE (SELECT coalesce(sum(greatest((e.value ->> 0)::numeric - coalesce(c.base_increased, 0), 0) - greatest((e.value ->> 1)::numeric - coalesce(c.base_decreased, 0), 0)), 0) FROM jsonb_each(j.seen_4::jsonb) AS e LEFT JOIN crdt_state.counter_2 AS c ON c.k_2 = j.k_2 AND c.k_1 = j.k_1 AND c.attnum = 4 AND c.node = e.key::int2 WHERE e.key <> '0' OR NOT EXISTS (SELECT FROM crdt_state.truncation AS e WHERE e.table_id = 2)) END AS true_4,
      coalesce(j.old_5, 0)::numeric + j.sx_5 + greatest(CASE WHEN j.a_5 THEN j.d_5 ELSE 0 END, 0) - CASE WHEN j.seen_5 IS NULL OR j.op NOT IN ('I', 'R') THEN 0 ELSE (SELECT coalesce(sum(greatest((e.value ->> 0)::numeric - coalesce(c.base_increased, 0), 0) - greatest((e.value ->> 1)::numeric - coalesce(c.base_decreased, 0), 0)), 0) FROM jsonb_each(j.seen_5::jsonb) AS e LEFT JOIN crdt_state.counter_2 AS c ON c.k_2 = j.k_2 AND c.k_1 = j.k_1 AND c.attnum = 5 AND c.node = e.key::int2 WHERE e.key <> '0' OR NOT EXISTS (SELECT FROM crdt_state.truncation AS e WHERE e.table_id = 2)) END AS true_5,
      CASE WHEN j.old_7 IN ('NaN', 'Infinity', '-Infinity') THEN 0 ELSE coalesce(j.old_7, 0) END::numeric + j.sx_7 + CASE WHEN j.a_7 THEN j.d_7 ELSE 0 END - CASE WHEN j.seen_7 IS NULL OR j.op NOT IN ('I', 'R') THEN 0 ELSE (SELECT coalesce(sum(greatest((e.value ->> 0)::numeric - coalesce(c.base_increased, 0), 0) - greatest((e.value ->> 1)::numeric - coalesce(c.base_decreased, 0), 0)), 0) FROM jsonb_each(j.seen_7::jsonb) AS e LEFT JOIN crdt_state.counter_2 AS c ON c.k_2 = j.k_2 AND c.k_1 = j.k_1 AND c.attnum = 7 AND c.node = e.key::int2 WHERE e.key <> '0' OR NOT EXISTS (SELECT FROM crdt_state.truncation AS e WHERE e.table_id = 2)) END AS true_7,
      ((j.present OR j.image ? 'price') AND j.s_row_node = 0 AND j.op NOT IN ('I', 'R') AND NOT j.a_7 AND NOT EXISTS (SELECT FROM crdt_state.counter_2 AS c WHERE c.k_2 = j.k_2 AND c.k_1 = j.k_1 AND c.attnum = 7 AND c.node <> 0) AND NOT EXISTS (SELECT FROM crdt_state.truncation AS e WHERE e.table_id = 2)) AS keep_7
      FROM j OFFSET 0) AS v OFFSET 0) AS q
), go AS MATERIALIZED (
    SELECT count(*) AS staged, NOT coalesce(bool_or(dirty), false) AS clean,
      count(*) FILTER (WHERE p.act IN ('D', 'X')) AS planned_del,
      count(*) FILTER (WHERE p.act IN ('U')) AS planned_upd,
      count(*) FILTER (WHERE p.act IN ('I', 'X')) AS planned_ins,
      count(*) FILTER (WHERE act = 'M') AS absent, count(*) FILTER (WHERE concurrent) AS concurrent,
      count(s_ctid) AS known, count(*) - count(s_ctid) AS unknown,
      array_agg(ord) FILTER (WHERE NOT present AND NOT alive) AS vacant,
      array_agg(ord) FILTER (WHERE dirty) AS dirty,
      array_agg(seen) FILTER (WHERE dirty) AS dirty_seen
    FROM p
), del AS (
    DELETE FROM "Shop's"."the ""stock""" AS t USING (SELECT p.t_ctid, p.t_xmin FROM p WHERE p.act IN ('D', 'X') AND (SELECT clean AND planned_del > 0 FROM go) OFFSET 0) AS p WHERE t.ctid = p.t_ctid AND t.xmin = p.t_xmin RETURNING 1
), upd AS (
    UPDATE "Shop's"."the ""stock""" AS t SET "label" = CASE WHEN p.win_3 THEN p.val_3 ELSE t."label" END,
      "amount" = least(greatest(p.true_4, -2147483648), 2147483647)::integer,
      "views" = least(greatest(p.true_5, -9223372036854775808), 9223372036854775807)::bigint,
      "price" = CASE WHEN p.keep_7 THEN CASE WHEN p.present THEN p.old_7 ELSE (p.image ->> 'price')::numeric(10,2) END ELSE least(greatest(p.true_7, -(10::numeric ^ 8 - 10::numeric ^ -2)), (10::numeric ^ 8 - 10::numeric ^ -2))::numeric(10,2) END
    FROM (SELECT p.present, p.win_3, p.keep_7, p.t_ctid, p.t_xmin, p.val_3, p.true_4, p.true_5, p.true_7, p.old_7, p.image FROM p WHERE p.act IN ('U') AND (SELECT clean AND planned_upd > 0 FROM go) OFFSET 0) AS p WHERE t.ctid = p.t_ctid AND t.xmin = p.t_xmin RETURNING 1
), ins AS (
    INSERT INTO "Shop's"."the ""stock""" ("region", "id", "label", "amount", "views", "price") OVERRIDING SYSTEM VALUE
    SELECT p.k_2,
      p.k_1,
      CASE WHEN p.win_3 THEN p.val_3 ELSE (p.image ->> 'label')::text END,
      least(greatest(p.true_4, -2147483648), 2147483647)::integer,
      least(greatest(p.true_5, -9223372036854775808), 9223372036854775807)::bigint,
      CASE WHEN p.keep_7 THEN CASE WHEN p.present THEN p.old_7 ELSE (p.image ->> 'price')::numeric(10,2) END ELSE least(greatest(p.true_7, -(10::numeric ^ 8 - 10::numeric ^ -2)), (10::numeric ^ 8 - 10::numeric ^ -2))::numeric(10,2) END
    FROM p WHERE p.act IN ('I', 'X') AND (SELECT clean AND planned_ins > 0 FROM go) RETURNING 1
), st_upd AS (
    UPDATE crdt_state.row_2 AS s SET live_node = p.live_node::int2,
      live_hlc = p.live_hlc,
      row_xmin = CASE WHEN p.act IN ('U', 'I', 'X') THEN pg_current_xact_id()::xid WHEN p.alive AND p.present THEN p.t_xmin END,
      image = p.new_image,
      dead_node = p.dead_node::int2,
      dead_hlc = p.dead_hlc,
      row_hlc = p.rv_hlc,
      row_node = p.rv_node::int2,
      n_3 = CASE WHEN p.win_3 THEN CASE WHEN NOT (p.h_3 = p.rv_hlc AND p.origin = p.rv_node) THEN p.origin::int2 END ELSE CASE WHEN p.rv_hlc = s.row_hlc AND p.rv_node = s.row_node THEN s.n_3 WHEN NOT (coalesce(s.h_3, s.row_hlc) = p.rv_hlc AND coalesce(s.n_3, s.row_node) = p.rv_node) THEN coalesce(s.n_3, s.row_node) END END,
      h_3 = CASE WHEN p.win_3 THEN CASE WHEN NOT (p.h_3 = p.rv_hlc AND p.origin = p.rv_node) THEN p.h_3 END ELSE CASE WHEN p.rv_hlc = s.row_hlc AND p.rv_node = s.row_node THEN s.h_3 WHEN NOT (coalesce(s.h_3, s.row_hlc) = p.rv_hlc AND coalesce(s.n_3, s.row_node) = p.rv_node) THEN coalesce(s.h_3, s.row_hlc) END END,
      v_3 = CASE WHEN p.win_3 THEN CASE WHEN coalesce(s.n_3, s.row_node) <> p.origin AND coalesce(s.h_3, s.row_hlc) > 0 THEN CASE WHEN coalesce(s.n_3, s.row_node) <> p.origin AND coalesce(s.h_3, s.row_hlc) > 0 AND (s.v_3 IS NULL OR cardinality(s.v_3) = 2 AND s.v_3[1] IN (coalesce(s.n_3, s.row_node), p.origin)) THEN ARRAY[coalesce(s.n_3, s.row_node)::int8, greatest(coalesce(s.h_3, s.row_hlc), CASE WHEN s.v_3[1] = coalesce(s.n_3, s.row_node) THEN s.v_3[2] END)] ELSE crdt_state.vector_add(s.v_3, coalesce(s.n_3, s.row_node), coalesce(s.h_3, s.row_hlc), p.origin) END ELSE s.v_3 END WHEN p.a_3 THEN CASE WHEN p.origin <> coalesce(s.n_3, s.row_node) AND p.h_3 > 0 AND (s.v_3 IS NULL OR cardinality(s.v_3) = 2 AND s.v_3[1] IN (p.origin, coalesce(s.n_3, s.row_node))) THEN ARRAY[p.origin::int8, greatest(p.h_3, CASE WHEN s.v_3[1] = p.origin THEN s.v_3[2] END)] ELSE crdt_state.vector_add(s.v_3, p.origin, p.h_3, coalesce(s.n_3, s.row_node)) END ELSE s.v_3 END,
      x_4 = nullif(p.true_4 - CASE WHEN p.alive THEN least(greatest(p.true_4, -2147483648), 2147483647)::integer ELSE 0 END, 0),
      x_5 = nullif(p.true_5 - CASE WHEN p.alive THEN least(greatest(p.true_5, -9223372036854775808), 9223372036854775807)::bigint ELSE 0 END, 0),
      x_7 = nullif(p.true_7 - CASE WHEN p.alive THEN least(greatest(p.true_7, -(10::numeric ^ 8 - 10::numeric ^ -2)), (10::numeric ^ 8 - 10::numeric ^ -2))::numeric(10,2) ELSE 0 END, 0)
    FROM (SELECT p.act, p.present, p.alive, p.a_3, p.win_3, p.origin, p.live_hlc, p.live_node, p.rv_hlc, p.rv_node, p.s_ctid, p.t_xmin, p.h_3, p.true_4, p.true_5, p.true_7, p.dead_hlc, p.dead_node, p.new_image FROM p WHERE p.s_ctid IS NOT NULL AND (SELECT clean AND known > 0 FROM go) OFFSET 0) AS p WHERE s.ctid = p.s_ctid
), st_ins AS (
    INSERT INTO crdt_state.row_2 (k_2, k_1, live_node, live_hlc, row_xmin, image, dead_node, dead_hlc, row_hlc, row_node, n_3, h_3, x_4, x_5, x_7)
    SELECT p.k_2,
      p.k_1,
      p.live_node::int2,
      p.live_hlc,
      CASE WHEN p.act IN ('U', 'I', 'X') THEN pg_current_xact_id()::xid WHEN p.alive AND p.present THEN p.t_xmin END,
      p.new_image,
      p.dead_node::int2,
      p.dead_hlc,
      p.rv_hlc,
      p.rv_node::int2,
      CASE WHEN p.win_3 THEN CASE WHEN NOT (p.h_3 = p.rv_hlc AND p.origin = p.rv_node) THEN p.origin::int2 END WHEN NOT (p.rv_hlc = 0 AND p.rv_node = 0) THEN 0::int2 END,
      CASE WHEN p.win_3 THEN CASE WHEN NOT (p.h_3 = p.rv_hlc AND p.origin = p.rv_node) THEN p.h_3 END WHEN NOT (p.rv_hlc = 0 AND p.rv_node = 0) THEN 0 END,
      nullif(p.true_4 - CASE WHEN p.alive THEN least(greatest(p.true_4, -2147483648), 2147483647)::integer ELSE 0 END, 0),
      nullif(p.true_5 - CASE WHEN p.alive THEN least(greatest(p.true_5, -9223372036854775808), 9223372036854775807)::bigint ELSE 0 END, 0),
      nullif(p.true_7 - CASE WHEN p.alive THEN least(greatest(p.true_7, -(10::numeric ^ 8 - 10::numeric ^ -2)), (10::numeric ^ 8 - 10::numeric ^ -2))::numeric(10,2) ELSE 0 END, 0)
    FROM p WHERE p.s_ctid IS NULL AND p.act <> 'M' AND (SELECT clean AND unknown > 0 FROM go)
), counted AS (
    INSERT INTO crdt_state.counter_2 AS c (k_2, k_1, attnum, node, increased, decreased) SELECT p.k_2, p.k_1, v.attnum, p.origin::int2, greatest(v.delta, 0), greatest(-v.delta, 0) FROM p, LATERAL (VALUES (4, CASE WHEN p.a_4 THEN p.d_4 ELSE 0 END, false), (5, greatest(CASE WHEN p.a_5 THEN p.d_5 ELSE 0 END, 0), false), (7, CASE WHEN p.a_7 THEN p.d_7 ELSE 0 END, p.a_7)) AS v(attnum, delta, written) WHERE (v.delta <> 0 OR v.written AND p.op = 'U') AND p.act <> 'M' AND (SELECT clean AND staged > 0 FROM go) ON CONFLICT (k_2, k_1, attnum, node) DO UPDATE SET increased = c.increased + excluded.increased, decreased = c.decreased + excluded.decreased
), conflicts AS (
    INSERT INTO crdt_state.conflict (id, table_id, row_key, column_name, rule, kind, winner_node, winner_hlc, winner_value, winner_vector, loser_node, loser_hlc, loser_value, loser_vector)
    SELECT (SELECT (lpad(to_hex(greatest(c.hlc, c.here_hlc) >> 16), 12, '0') || '7' || substr(d.md5, 1, 3) || '8' || substr(d.md5, 4, 15))::uuid FROM (SELECT md5(concat_ws(E'\x01', 'Shop''s.the "stock"', jsonb_build_object('region', p.k_2::text, 'id', p.k_1::text)::text, c.name, CASE WHEN c.name IS NULL THEN 'row' ELSE c.kind END, coalesce(CASE WHEN c.kind = 'saturated' THEN c.value END, ''), least(c.hlc || '.' || CASE WHEN c.kind = 'saturated' THEN c.here_node ELSE p.origin END, c.here_hlc || '.' || c.here_node), greatest(c.hlc || '.' || CASE WHEN c.kind = 'saturated' THEN c.here_node ELSE p.origin END, c.here_hlc || '.' || c.here_node)))) AS d(md5)), 2, jsonb_build_object('region', p.k_2::text, 'id', p.k_1::text),
      c.name, c.rule, c.kind,
      CASE WHEN c.wins THEN CASE WHEN c.kind = 'saturated' THEN c.here_node ELSE p.origin END ELSE c.here_node END,
      CASE WHEN c.wins THEN c.hlc ELSE c.here_hlc END,
      CASE WHEN c.wins THEN c.value ELSE c.here_value END,
      CASE WHEN c.wins THEN CASE WHEN c.kind <> 'saturated' THEN crdt_state.seen_by(p.origin, c.hlc, ARRAY(SELECT unnest(($2::int8[])[p.member:p.member]))) END ELSE array_cat(ARRAY[c.here_node::int8, c.here_hlc], c.here_vector) END,
      CASE WHEN c.wins THEN c.here_node ELSE CASE WHEN c.kind = 'saturated' THEN c.here_node ELSE p.origin END END,
      CASE WHEN c.wins THEN c.here_hlc ELSE c.hlc END,
      CASE WHEN c.wins THEN c.here_value ELSE c.value END,
      CASE WHEN c.wins THEN array_cat(ARRAY[c.here_node::int8, c.here_hlc], c.here_vector) ELSE CASE WHEN c.kind <> 'saturated' THEN crdt_state.seen_by(p.origin, c.hlc, ARRAY(SELECT unnest(($2::int8[])[p.member:p.member]))) END END
    FROM p LEFT JOIN crdt_state.row_2 AS s ON s.ctid = p.s_ctid
    LEFT JOIN "Shop's"."the ""stock""" AS t ON t.ctid = p.t_ctid,
    LATERAL (VALUES ('label', 'lww_register', 'overwrite', (p.a_3 AND NOT (coalesce(s.n_3, s.row_node, 0::int2) = p.origin OR coalesce(s.h_3, s.row_hlc, 0) <= coalesce(($2::int8[])[p.member][coalesce(s.n_3, s.row_node, 0::int2)], 0))), p.win_3, p.h_3, p.val_3::text, coalesce(s.h_3, s.row_hlc, 0), coalesce(s.n_3, s.row_node, 0::int2), CASE WHEN p.present THEN t."label"::text ELSE s.image ->> 'label' END, s.v_3),
      ('amount', 'pn_counter', 'saturated', (p.a_4 AND p.alive AND p.true_4 <> least(greatest(p.true_4, -2147483648), 2147483647)::integer), false, p.live_hlc, p.true_4::text, p.live_hlc, p.live_node::int2, (least(greatest(p.true_4, -2147483648), 2147483647)::integer)::text, NULL::int8[]),
      ('views', 'g_counter', 'saturated', (p.a_5 AND p.alive AND p.true_5 <> least(greatest(p.true_5, -9223372036854775808), 9223372036854775807)::bigint), false, p.live_hlc, p.true_5::text, p.live_hlc, p.live_node::int2, (least(greatest(p.true_5, -9223372036854775808), 9223372036854775807)::bigint)::text, NULL::int8[]),
      ('price', 'pn_counter', 'saturated', (p.a_7 AND p.alive AND p.true_7 <> least(greatest(p.true_7, -(10::numeric ^ 8 - 10::numeric ^ -2)), (10::numeric ^ 8 - 10::numeric ^ -2))::numeric(10,2)), false, p.live_hlc, p.true_7::text, p.live_hlc, p.live_node::int2, (least(greatest(p.true_7, -(10::numeric ^ 8 - 10::numeric ^ -2)), (10::numeric ^ 8 - 10::numeric ^ -2))::numeric(10,2))::text, NULL::int8[]),
      (NULL, 'row=lww', CASE WHEN (s.live_hlc, s.live_node) > (p.hlc, p.origin) THEN 'lost_delete' ELSE 'overwrite' END, p.conf_row AND p.op = 'D', NOT (s.live_hlc, s.live_node) > (p.hlc, p.origin), p.hlc, 'deleted', s.live_hlc, s.live_node, 'written', NULL::int8[]),
      (NULL, 'row=lww', CASE WHEN (p.hlc, p.origin) > (s.dead_hlc, s.dead_node) AND p.alive AND NOT p.present THEN 'revived' WHEN (p.hlc, p.origin) > (s.dead_hlc, s.dead_node) THEN 'lost_delete' ELSE 'overwrite' END, p.conf_row AND p.op <> 'D', (p.hlc, p.origin) > (s.dead_hlc, s.dead_node), p.hlc, 'written', s.dead_hlc, s.dead_node, 'deleted', NULL::int8[]))
      AS c(name, rule, kind, conflict, wins, hlc, value, here_hlc, here_node, here_value, here_vector)
    WHERE p.concurrent AND c.conflict AND c.value IS DISTINCT FROM c.here_value AND (SELECT clean AND concurrent > 0 FROM go)
    ON CONFLICT (id) DO NOTHING RETURNING 1
), missing AS (
    INSERT INTO crdt_state.quarantine (origin, from_hlc, to_hlc, table_name, row_key, change, sqlstate, reason)
    SELECT p.origin, ($26::int8[])[p.member], ($27::int8[])[p.member], 'Shop''s.the "stock"', jsonb_build_object('region', p.k_2::text, 'id', p.k_1::text), jsonb_build_object('label', p.val_3::text, 'amount', p.d_4::text, 'views', p.d_5::text, 'price', p.d_7::text), '02000', 'the row is not in this database and left no tombstone; copy it, then repeat the change'
    FROM p WHERE p.act = 'M' AND p.op <> 'T' AND (SELECT clean AND absent > 0 FROM go) RETURNING 1
)
SELECT (SELECT count(*) FROM del) AS del, (SELECT count(*) FROM upd) AS upd, (SELECT count(*) FROM ins) AS ins, (SELECT count(*) FROM conflicts) AS conflicts, (SELECT count(*) FROM missing) AS missing,
  staged, planned_del, planned_upd, planned_ins, vacant, dirty, dirty_seen
FROM go
