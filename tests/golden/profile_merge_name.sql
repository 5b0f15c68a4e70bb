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
--   $11: accepted
--   $12: members
--   $13: first
--   $14: last
--   $15: from_hlcs
--   $16: to_hlcs
WITH g AS (
    SELECT u.ord, u.op, u.hlc, u.ins, u.k1::uuid AS k_1, coalesce(u.m0 & $9::int8 <> 0, false) AS a_2, coalesce(u.l2, u.hlc) AS h_2, CASE WHEN coalesce(u.m0 & $9::int8 <> 0, false) THEN u.v2::text END AS val_2, u.accepted, u.members
    FROM unnest($3::text::text[], $4::text::int8[], $5::text::int8[], $6::text::int8[], $7::text::text[], $8::text::text[], $10::text::int8[], $11::text::text[], $12::text::int4[]) WITH ORDINALITY AS u(op, hlc, ins, m0, k1, v2, l2, accepted, members, ord)
    WHERE u.ord BETWEEN $13::int8 AND $14::int8
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
      s.image,
      CASE WHEN g.accepted = coalesce(t.xmin::text, '') THEN false WHEN s.ctid IS NULL THEN t.ctid IS NOT NULL OR g.op = 'U' ELSE (t.ctid IS NOT NULL) <> (s.dead_hlc IS NULL OR (s.live_hlc, s.live_node) > (s.dead_hlc, s.dead_node)) OR (t.ctid IS NOT NULL AND t.xmin IS DISTINCT FROM s.row_xmin) END AS dirty,
      coalesce(s.h_2, s.row_hlc, 0) AS sh_2,
      coalesce(s.n_2, s.row_node, 0::int2) AS sn_2,
      t."name" AS old_2
    FROM g LEFT JOIN crdt_state.row_1 AS s ON s.k_1 = g.k_1
    LEFT JOIN "public"."profile" AS t ON t."id" = g.k_1
), p AS MATERIALIZED (
    SELECT q.*, CASE WHEN q.alive AND q.present THEN CASE WHEN q.win_2 THEN 'U' ELSE 'N' END
        WHEN q.alive THEN CASE WHEN q.op NOT IN ('I', 'R') AND q.image IS NULL THEN 'M' ELSE 'I' END WHEN q.present THEN 'D' ELSE 'N' END AS act,
      CASE WHEN NOT q.alive THEN coalesce(q.image, '{}') || CASE WHEN q.win_2 THEN jsonb_build_object('name', q.val_2::text) ELSE '{}'::jsonb END END AS new_image
    FROM (SELECT v.*, (v.dead_hlc IS NULL OR (v.live_hlc, v.live_node) > (v.dead_hlc, v.dead_node)) AS alive FROM (SELECT j.*, CASE WHEN j.op IN ('I', 'U', 'R') AND (j.hlc, j.origin) >= (j.s_live_hlc, j.s_live_node::int8) THEN j.hlc ELSE j.s_live_hlc END AS live_hlc,
      CASE WHEN j.op IN ('I', 'U', 'R') AND (j.hlc, j.origin) >= (j.s_live_hlc, j.s_live_node::int8) THEN j.origin ELSE j.s_live_node END AS live_node,
      CASE WHEN j.op = 'D' AND (j.s_dead_hlc IS NULL OR (j.hlc, j.origin) >= (j.s_dead_hlc, j.s_dead_node::int8)) THEN j.hlc WHEN NOT coalesce(j.op IN ('I', 'R') AND (j.hlc, j.origin) = (j.s_dead_hlc, j.s_dead_node::int8), false) THEN j.s_dead_hlc END AS dead_hlc,
      CASE WHEN j.op = 'D' AND (j.s_dead_hlc IS NULL OR (j.hlc, j.origin) >= (j.s_dead_hlc, j.s_dead_node::int8)) THEN j.origin WHEN NOT coalesce(j.op IN ('I', 'R') AND (j.hlc, j.origin) = (j.s_dead_hlc, j.s_dead_node::int8), false) THEN j.s_dead_node END AS dead_node,
      CASE WHEN j.op IN ('I', 'R') AND (j.ins, j.origin) >= (j.s_row_hlc, j.s_row_node::int8) THEN j.ins ELSE j.s_row_hlc END AS rv_hlc,
      CASE WHEN j.op IN ('I', 'R') AND (j.ins, j.origin) >= (j.s_row_hlc, j.s_row_node::int8) THEN j.origin ELSE j.s_row_node END AS rv_node,
      CASE WHEN j.op = 'D' THEN j.s_ctid IS NOT NULL AND (j.s_dead_hlc IS NULL OR (j.s_live_hlc, j.s_live_node) > (j.s_dead_hlc, j.s_dead_node)) AND NOT (j.s_live_node = j.origin OR j.s_live_hlc <= coalesce(($2::int8[])[j.member][j.s_live_node], 0)) WHEN j.op = 'T' THEN false ELSE j.s_dead_hlc IS NOT NULL AND NOT (j.s_dead_node = j.origin OR j.s_dead_hlc <= coalesce(($2::int8[])[j.member][j.s_dead_node], 0)) END AS conf_row,
      (j.a_2 AND (j.h_2, j.origin) >= (j.sh_2, j.sn_2::int8)) AS win_2
      FROM j) AS v) AS q
), del AS (
    DELETE FROM "public"."profile" AS t USING p WHERE act IN ('D', 'X') AND t.ctid = p.t_ctid AND t.xmin = p.t_xmin AND (SELECT NOT coalesce(bool_or(dirty), false) FROM p) RETURNING 1
), upd AS (
    UPDATE "public"."profile" AS t SET "name" = CASE WHEN p.win_2 THEN p.val_2 ELSE t."name" END
    FROM p WHERE act IN ('U') AND t.ctid = p.t_ctid AND t.xmin = p.t_xmin AND (SELECT NOT coalesce(bool_or(dirty), false) FROM p) RETURNING 1
), ins AS (
    INSERT INTO "public"."profile" ("id", "name", "born") OVERRIDING SYSTEM VALUE
    SELECT p.k_1,
      CASE WHEN p.win_2 THEN p.val_2 ELSE (p.image ->> 'name')::text END,
      (p.image ->> 'born')::date
    FROM p WHERE act IN ('I', 'X') AND (SELECT NOT coalesce(bool_or(dirty), false) FROM p) RETURNING 1
), st_upd AS (
    UPDATE crdt_state.row_1 AS s SET row_node = p.rv_node::int2,
      row_hlc = p.rv_hlc,
      live_node = p.live_node::int2,
      live_hlc = p.live_hlc,
      dead_node = p.dead_node::int2,
      dead_hlc = p.dead_hlc,
      row_xmin = CASE WHEN p.act IN ('U', 'I', 'X') THEN pg_current_xact_id()::xid WHEN p.alive AND p.present THEN p.t_xmin END,
      image = p.new_image,
      n_2 = CASE WHEN ((CASE WHEN p.win_2 THEN p.h_2 ELSE p.sh_2 END) = p.rv_hlc AND (CASE WHEN p.win_2 THEN p.origin ELSE p.sn_2 END) = p.rv_node) THEN NULL ELSE (CASE WHEN p.win_2 THEN p.origin ELSE p.sn_2 END) END::int2,
      h_2 = CASE WHEN ((CASE WHEN p.win_2 THEN p.h_2 ELSE p.sh_2 END) = p.rv_hlc AND (CASE WHEN p.win_2 THEN p.origin ELSE p.sn_2 END) = p.rv_node) THEN NULL ELSE (CASE WHEN p.win_2 THEN p.h_2 ELSE p.sh_2 END) END,
      v_2 = CASE WHEN p.win_2 AND p.sn_2 <> p.origin AND p.sh_2 > 0 THEN crdt_state.vector_add(s.v_2, p.sn_2, p.sh_2, p.origin) WHEN p.a_2 AND NOT p.win_2 THEN crdt_state.vector_add(s.v_2, p.origin, p.h_2, p.sn_2) ELSE s.v_2 END
    FROM p WHERE s.ctid = p.s_ctid AND (SELECT NOT coalesce(bool_or(dirty), false) FROM p) RETURNING 1
), st_ins AS (
    INSERT INTO crdt_state.row_1 (k_1, row_node, row_hlc, live_node, live_hlc, dead_node, dead_hlc, row_xmin, image, n_2, h_2, v_2)
    SELECT p.k_1,
      p.rv_node::int2,
      p.rv_hlc,
      p.live_node::int2,
      p.live_hlc,
      p.dead_node::int2,
      p.dead_hlc,
      CASE WHEN p.act IN ('U', 'I', 'X') THEN pg_current_xact_id()::xid WHEN p.alive AND p.present THEN p.t_xmin END,
      p.new_image,
      CASE WHEN ((CASE WHEN p.win_2 THEN p.h_2 ELSE p.sh_2 END) = p.rv_hlc AND (CASE WHEN p.win_2 THEN p.origin ELSE p.sn_2 END) = p.rv_node) THEN NULL ELSE (CASE WHEN p.win_2 THEN p.origin ELSE p.sn_2 END) END::int2,
      CASE WHEN ((CASE WHEN p.win_2 THEN p.h_2 ELSE p.sh_2 END) = p.rv_hlc AND (CASE WHEN p.win_2 THEN p.origin ELSE p.sn_2 END) = p.rv_node) THEN NULL ELSE (CASE WHEN p.win_2 THEN p.h_2 ELSE p.sh_2 END) END,
      CASE WHEN p.win_2 AND p.sn_2 <> p.origin AND p.sh_2 > 0 THEN crdt_state.vector_add(NULL::int8[], p.sn_2, p.sh_2, p.origin) WHEN p.a_2 AND NOT p.win_2 THEN crdt_state.vector_add(NULL::int8[], p.origin, p.h_2, p.sn_2) ELSE NULL::int8[] END
    FROM p WHERE p.s_ctid IS NULL AND p.act <> 'M' AND (SELECT NOT coalesce(bool_or(dirty), false) FROM p) RETURNING 1
), conflicts AS (
    INSERT INTO crdt_state.conflict (id, table_id, row_key, column_name, rule, winner_node, winner_hlc, winner_value, loser_node, loser_hlc, loser_value)
    SELECT (lpad(to_hex(greatest(c.hlc, c.here_hlc) >> 16), 12, '0') || '7' || substr(d.md5, 1, 3) || '8' || substr(d.md5, 4, 15))::uuid, 1, jsonb_build_object('id', p.k_1::text), c.name, c.rule, CASE WHEN c.wins THEN p.origin ELSE c.here_node END,
      CASE WHEN c.wins THEN c.hlc ELSE c.here_hlc END,
      CASE WHEN c.wins THEN c.value ELSE c.here_value END,
      CASE WHEN c.wins THEN c.here_node ELSE p.origin END,
      CASE WHEN c.wins THEN c.here_hlc ELSE c.hlc END,
      CASE WHEN c.wins THEN c.here_value ELSE c.value END
    FROM p, LATERAL (VALUES ('name', 'lww_register', (p.a_2 AND NOT (p.sn_2 = p.origin OR p.sh_2 <= coalesce(($2::int8[])[p.member][p.sn_2], 0))), p.win_2, p.h_2, p.val_2::text, p.sh_2, p.sn_2, CASE WHEN p.present THEN p.old_2::text ELSE p.image ->> 'name' END),
      (NULL, 'row=lww', p.conf_row AND p.op = 'D', NOT p.alive, p.hlc, 'deleted', p.s_live_hlc, p.s_live_node, 'written'),
      (NULL, 'row=lww', p.conf_row AND p.op <> 'D', p.alive, p.hlc, 'written', p.s_dead_hlc, p.s_dead_node, 'deleted'))
      AS c(name, rule, conflict, wins, hlc, value, here_hlc, here_node, here_value),
    LATERAL (SELECT md5(concat_ws(E'\x01', 'public.profile', jsonb_build_object('id', p.k_1::text)::text, c.name, least(c.hlc || '.' || p.origin, c.here_hlc || '.' || c.here_node), greatest(c.hlc || '.' || p.origin, c.here_hlc || '.' || c.here_node))) AS md5) AS d
    WHERE (p.conf_row OR (p.a_2 AND NOT (p.sn_2 = p.origin OR p.sh_2 <= coalesce(($2::int8[])[p.member][p.sn_2], 0)))) AND c.conflict AND c.value IS DISTINCT FROM c.here_value AND (SELECT NOT coalesce(bool_or(dirty), false) FROM p)
    ON CONFLICT (id) DO NOTHING RETURNING 1
), missing AS (
    INSERT INTO crdt_state.quarantine (origin, from_hlc, to_hlc, table_name, row_key, change, sqlstate, reason)
    SELECT p.origin, ($15::int8[])[p.member], ($16::int8[])[p.member], 'public.profile', jsonb_build_object('id', p.k_1::text), jsonb_build_object('name', p.val_2::text), '02000', 'the row is not in this database and left no tombstone; copy it, then repeat the change'
    FROM p WHERE p.act = 'M' AND p.op <> 'T' AND (SELECT NOT coalesce(bool_or(dirty), false) FROM p) RETURNING 1
)
SELECT (SELECT count(*) FROM del) AS del, (SELECT count(*) FROM upd) AS upd, (SELECT count(*) FROM ins) AS ins, (SELECT count(*) FROM st_upd) AS st_upd, (SELECT count(*) FROM st_ins) AS st_ins, (SELECT count(*) FROM conflicts) AS conflicts, (SELECT count(*) FROM missing) AS missing,
  n.staged, n.planned_del, n.planned_upd, n.planned_ins, n.dirty, n.dirty_xmin
FROM (SELECT count(*) AS staged, count(*) FILTER (WHERE act IN ('D', 'X')) AS planned_del,
    count(*) FILTER (WHERE act IN ('U')) AS planned_upd,
    count(*) FILTER (WHERE act IN ('I', 'X')) AS planned_ins,
    array_agg(ord ORDER BY ord) FILTER (WHERE dirty) AS dirty,
    array_agg(coalesce(t_xmin::text, '') ORDER BY ord) FILTER (WHERE dirty) AS dirty_xmin
  FROM p) AS n
