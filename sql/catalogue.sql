-- What pg_catalog says about annotated tables (sidecar/postgres/catalogue.py). One query per kind of fact; %(oids)s is
-- the list of candidates that read_relations returned.

-- name: read_role
-- One row about the session's role: name, superuser, bypasses row security.
SELECT rolname::text, rolsuper, rolbypassrls FROM pg_roles WHERE rolname = current_user

-- name: read_relations
-- Every relation that is annotated itself, has an annotated column, or is attached: one row each, by name.
SELECT c.oid::int8 AS oid, n.nspname::text AS schema, c.relname::text AS name, c.relkind::text AS kind,
       c.relpersistence::text AS persistence, c.relispartition AS is_partition,
       EXISTS (SELECT FROM pg_inherits AS h WHERE c.oid IN (h.inhrelid, h.inhparent)) AS inherits,
       c.relreplident::text AS replica_identity,
       c.relrowsecurity AND c.relforcerowsecurity AS forces_row_security,
       d.description AS comment,
       pg_get_userbyid(c.relowner)::text AS owner,
       pg_has_role(c.relowner, 'USAGE') AS is_owner,
       has_schema_privilege(n.oid, 'USAGE') AS may_use_schema,
       EXISTS (SELECT FROM pg_publication_rel AS r JOIN pg_publication AS p ON p.oid = r.prpubid
               WHERE r.prrelid = c.oid AND p.pubname = 'crdt'
                 AND coalesce(to_jsonb(r) ->> 'prqual', to_jsonb(r) ->> 'prattrs') IS NULL) AS is_published,
       EXISTS (SELECT FROM pg_constraint AS o WHERE o.confrelid = c.oid AND o.contype = 'f') AS is_referenced
FROM pg_class AS c
JOIN pg_namespace AS n ON n.oid = c.relnamespace
LEFT JOIN pg_description AS d ON d.objoid = c.oid AND d.classoid = 'pg_class'::regclass AND d.objsubid = 0
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f')
  AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')
  AND (c.oid = ANY (%(attached)s::oid[])
       OR c.oid IN (SELECT a.objoid FROM pg_description AS a
                    WHERE a.objoid >= 16384 AND a.classoid = 'pg_class'::regclass AND a.description ILIKE '%%@crdt%%'))
ORDER BY n.nspname, c.relname

-- name: read_columns
-- The columns of the candidates in table order. base_type: domains resolved, without modifier. identity: a always,
-- d by default. increment: of the sequence that numbers the column, NULL without one. is_ordered: the type (an array's
-- element type) has a default btree operator class, its own, that of a type it is stored like, or a polymorphic one.
-- parts: the types that a value is made of, however deep in arrays, composite types and ranges. loose_collation: different
-- texts are equal under the collation of one of them. inner_collated: those in composite types and ranges that compare by
-- a collation other than that of bytes, which no statement can choose. delimiter: of the elements in an array's text.
-- default_sql: the default's expression, or that of the domain; NULL without one. checked: a CHECK constraint or a unique
-- index with NULLS NOT DISTINCT looks at it.
WITH RECURSIVE base (type_oid, base_oid) AS (
    SELECT t.oid, CASE t.typtype WHEN 'd' THEN t.typbasetype ELSE t.oid END
    FROM pg_type AS t
    WHERE t.oid IN (SELECT atttypid FROM pg_attribute WHERE attrelid = ANY (%(oids)s::oid[]))
    UNION
    SELECT b.type_oid, t.typbasetype FROM base AS b JOIN pg_type AS t ON t.oid = b.base_oid WHERE t.typtype = 'd'
), part (relation, attnum, type_oid, collation_oid, is_inner, is_whole) AS (
    SELECT a.attrelid, a.attnum, a.atttypid, a.attcollation, false, false
    FROM pg_attribute AS a WHERE a.attrelid = ANY (%(oids)s::oid[]) AND a.attnum > 0 AND NOT a.attisdropped
    UNION
    SELECT p.relation, p.attnum, n.type_oid, n.collation_oid, n.is_inner, n.is_whole
    FROM part AS p JOIN pg_type AS t ON t.oid = p.type_oid AND NOT p.is_whole,
    LATERAL (
        SELECT t.typbasetype, p.collation_oid, p.is_inner, false WHERE t.typtype = 'd'
        UNION ALL SELECT t.typelem, p.collation_oid, p.is_inner, false WHERE t.typtype = 'b' AND t.typcategory = 'A' AND t.typelem <> 0
        UNION ALL SELECT x.atttypid, x.attcollation, true, false FROM pg_attribute AS x
                  WHERE t.typtype = 'c' AND x.attrelid = t.typrelid AND x.attnum > 0 AND NOT x.attisdropped
        UNION ALL SELECT r.rngsubtype, r.rngcollation, true, false FROM pg_range AS r
                  WHERE t.typtype IN ('r', 'm') AND t.oid IN (r.rngtypid, r.rngmultitypid)
        UNION ALL SELECT t.oid, p.collation_oid, p.is_inner, true
                  WHERE t.typtype IN ('b', 'e') AND NOT (t.typcategory = 'A' AND t.typelem <> 0)
    ) AS n (type_oid, collation_oid, is_inner, is_whole)
), made AS (
    SELECT p.relation, p.attnum, array_agg(DISTINCT format_type(p.type_oid, NULL)) AS parts,
           coalesce(bool_or(NOT l.collisdeterministic), false) AS loose_collation,
           coalesce(array_agg(DISTINCT format_type(p.type_oid, NULL)) FILTER (
               WHERE p.is_inner AND l.collprovider <> 'b' AND coalesce(l.collcollate, '') NOT IN ('C', 'POSIX')), '{}')
               AS inner_collated
    FROM part AS p LEFT JOIN pg_collation AS l ON l.oid = p.collation_oid
    WHERE p.is_whole
    GROUP BY p.relation, p.attnum
)
SELECT a.attrelid::int8 AS relation, a.attnum::int4 AS attnum, a.attname::text AS name,
       format_type(a.atttypid, a.atttypmod) AS type_name,
       format_type(t.oid, NULL) AS base_type,
       a.atttypid::int8 AS type_oid,
       EXISTS (SELECT FROM pg_opclass AS o JOIN pg_am AS m ON m.oid = o.opcmethod AND m.amname = 'btree'
               WHERE o.opcdefault AND (
                   o.opcintype = e.oid
                   OR o.opcintype = CASE e.typtype WHEN 'e' THEN 'anyenum' WHEN 'r' THEN 'anyrange'
                                    WHEN 'm' THEN 'anymultirange' WHEN 'c' THEN 'record' END::regtype
                   OR EXISTS (SELECT FROM pg_cast AS c WHERE c.castsource = e.oid AND c.casttarget = o.opcintype
                              AND c.castmethod = 'b' AND c.castcontext = 'i'))) AS is_ordered,
       a.attnotnull OR w.typnotnull AS not_null,
       a.attgenerated <> '' AS generated,
       a.attgenerated = 'v' AS virtual,
       a.attidentity::text AS identity,
       (SELECT min(q.seqincrement) FROM pg_sequence AS q JOIN pg_depend AS s
            ON (s.classid = 'pg_class'::regclass AND s.objid = q.seqrelid AND s.refclassid = 'pg_class'::regclass
                AND s.refobjid = a.attrelid AND s.refobjsubid = a.attnum AND s.deptype = 'i')
            OR (s.classid = 'pg_attrdef'::regclass AND s.objid = f.oid AND s.refclassid = 'pg_class'::regclass
                AND s.refobjid = q.seqrelid)) AS increment,
       coalesce(i.place, 0)::int4 AS key_position,
       coalesce(u.parts, '{}') AS parts,
       coalesce(u.loose_collation, false) AS loose_collation,
       coalesce(u.inner_collated, '{}') AS inner_collated,
       e.typdelim::text AS delimiter,
       coalesce(pg_get_expr(f.adbin, f.adrelid), pg_get_expr(w.typdefaultbin, 0)) AS default_sql,
       EXISTS (SELECT FROM pg_constraint AS o WHERE o.contype = 'c'
               AND (o.conrelid = a.attrelid AND a.attnum = ANY (o.conkey) OR w.typtype = 'd' AND o.contypid = w.oid))
       OR EXISTS (SELECT FROM pg_index AS x
                  WHERE x.indrelid = a.attrelid AND a.attnum = ANY (x.indkey::int2[])
                    AND (to_jsonb(x) ->> 'indnullsnotdistinct')::boolean) AS checked,  -- not there before 15
       d.description AS comment
FROM pg_attribute AS a
JOIN pg_type AS w ON w.oid = a.atttypid
JOIN base AS b ON b.type_oid = a.atttypid
JOIN pg_type AS t ON t.oid = b.base_oid AND t.typtype <> 'd'
JOIN pg_type AS e ON e.oid = CASE WHEN t.typcategory = 'A' AND t.typelem <> 0 THEN t.typelem ELSE t.oid END
LEFT JOIN made AS u ON u.relation = a.attrelid AND u.attnum = a.attnum
LEFT JOIN pg_attrdef AS f ON f.adrelid = a.attrelid AND f.adnum = a.attnum AND a.attgenerated = ''
LEFT JOIN LATERAL (
    SELECT k.place FROM pg_index AS x, unnest(x.indkey::int2[]) WITH ORDINALITY AS k (attnum, place)
    WHERE x.indrelid = a.attrelid AND x.indisprimary AND k.attnum = a.attnum AND k.place <= x.indnkeyatts
) AS i ON true
LEFT JOIN pg_description AS d ON d.objoid = a.attrelid AND d.classoid = 'pg_class'::regclass AND d.objsubid = a.attnum
WHERE a.attrelid = ANY (%(oids)s::oid[]) AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attrelid, a.attnum

-- name: read_indexes
-- Primary keys, secondary unique indexes and exclusion constraints of the candidates. columns: the key columns, and for
-- an expression, a predicate or a generated column every column it mentions.
SELECT x.indrelid::int8 AS relation, c.relname::text AS name, x.indisprimary AS is_primary, x.indimmediate AS immediate,
       x.indisexclusion AS is_exclusion,
       (SELECT array_agg(a.attname::text ORDER BY a.attnum) FROM pg_attribute AS a
        WHERE a.attrelid = x.indrelid AND a.attnum > 0
          AND (a.attnum IN (SELECT k.attnum FROM unnest(x.indkey::int2[]) WITH ORDINALITY AS k (attnum, place)
                            WHERE k.place <= x.indnkeyatts)
               OR ((x.indexprs IS NOT NULL OR x.indpred IS NOT NULL) AND a.attnum IN (
                       SELECT d.refobjsubid FROM pg_depend AS d
                       WHERE d.classid = 'pg_class'::regclass AND d.objid = x.indexrelid
                         AND d.refclassid = 'pg_class'::regclass AND d.refobjid = x.indrelid))
               OR a.attnum IN (
                       SELECT d.refobjsubid FROM pg_attribute AS g
                       LEFT JOIN pg_attrdef AS f ON f.adrelid = g.attrelid AND f.adnum = g.attnum
                       JOIN pg_depend AS d ON d.classid = 'pg_class'::regclass AND d.objid = g.attrelid AND d.objsubid = g.attnum
                           OR d.classid = 'pg_attrdef'::regclass AND d.objid = f.oid
                       WHERE g.attrelid = x.indrelid AND g.attgenerated <> '' AND g.attnum = ANY (x.indkey::int2[])
                         AND d.refclassid = 'pg_class'::regclass AND d.refobjid = x.indrelid))) AS columns
FROM pg_index AS x
JOIN pg_class AS c ON c.oid = x.indexrelid
WHERE x.indrelid = ANY (%(oids)s::oid[]) AND (x.indisunique OR x.indisexclusion) AND x.indislive
ORDER BY x.indrelid, c.relname

-- name: read_merge_functions
-- What @crdt(merge(...)) can call: functions f(T, T) returns T, by schema, name and T's oid.
SELECT n.nspname::text AS schema, p.proname::text AS name, p.prorettype::int8 AS type_oid
FROM pg_proc AS p
JOIN pg_namespace AS n ON n.oid = p.pronamespace
WHERE p.prokind = 'f' AND NOT p.proretset AND p.pronargs = 2
  AND p.proargtypes[0] = p.prorettype AND p.proargtypes[1] = p.prorettype

-- name: read_foreign_keys
-- Foreign keys of the candidates: relation, name, referenced table.
SELECT o.conrelid::int8 AS relation, o.conname::text AS name, n.nspname || '.' || c.relname AS referenced
FROM pg_constraint AS o
JOIN pg_class AS c ON c.oid = o.confrelid
JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE o.conrelid = ANY (%(oids)s::oid[]) AND o.contype = 'f'
ORDER BY o.conrelid, o.conname

-- name: read_triggers
-- User triggers of the candidates; enabled: O origin, A always, R replica, D disabled.
SELECT t.tgrelid::int8 AS relation, t.tgname::text AS name, t.tgenabled::text AS enabled
FROM pg_trigger AS t
WHERE t.tgrelid = ANY (%(oids)s::oid[]) AND NOT t.tgisinternal
ORDER BY t.tgrelid, t.tgname

-- name: has_state
-- Whether the sidecar's schema is there (one boolean).
SELECT to_regclass('crdt_state.replicated_column') IS NOT NULL

-- name: read_attached
-- The tables in force: id, names and relation as recorded, row rule, fingerprint.
SELECT t.table_id, t.schema_name::text AS schema, t.table_name::text AS name, t.relation_oid::int8 AS relation,
       t.row_rule, t.fingerprint
FROM crdt_state.replicated_table AS t
WHERE t.detached IS NULL
ORDER BY t.table_id

-- name: read_attached_columns
-- Their columns: what is in force.
SELECT c.table_id, c.attnum::int4 AS attnum, c.column_name::text AS name, c.type_name, c.crdt, c.argument,
       coalesce(c.key_position, 0)::int4 AS key_position, c.former_names
FROM crdt_state.replicated_column AS c
JOIN crdt_state.replicated_table AS t USING (table_id)
WHERE t.detached IS NULL
ORDER BY c.table_id, c.attnum

-- name: read_version
-- One text that changes whenever something changes that attaching looks at. Cheap: index scans over annotated relations.
WITH annotated AS (
    SELECT d.objoid AS oid FROM pg_description AS d
    WHERE d.objoid >= 16384 AND d.classoid = 'pg_class'::regclass AND d.description ILIKE '%@crdt%'
    UNION
    SELECT r.prrelid FROM pg_publication_rel AS r JOIN pg_publication AS p ON p.oid = r.prpubid WHERE p.pubname = 'crdt'
)
SELECT md5(coalesce((SELECT concat_ws(' ', p.oid, p.pubowner, p.puballtables, p.pubinsert, p.pubupdate, p.pubdelete, p.pubtruncate)
                     FROM pg_publication AS p WHERE p.pubname = 'crdt'), '') || E'\n' || coalesce(string_agg(
    concat_ws(' ', c.oid, n.nspname, c.relname, c.relkind, c.relpersistence, c.relreplident, c.relispartition, c.relowner,
        c.relforcerowsecurity, c.relhastriggers, pg_has_role(c.relowner, 'USAGE'), has_schema_privilege(n.oid, 'USAGE'),
        (SELECT to_jsonb(r)::text FROM pg_publication_rel AS r JOIN pg_publication AS p ON p.oid = r.prpubid
         WHERE r.prrelid = c.oid AND p.pubname = 'crdt'),
        (SELECT string_agg(concat_ws(',', a.attnum, a.attname, a.atttypid, a.atttypmod, a.attcollation, a.attnotnull, a.attgenerated,
                    a.attidentity, a.attisdropped, (SELECT f.oid FROM pg_attrdef AS f
                                                    WHERE f.adrelid = a.attrelid AND f.adnum = a.attnum)),
                    ';' ORDER BY a.attnum)
         FROM pg_attribute AS a WHERE a.attrelid = c.oid AND a.attnum > 0),
        (SELECT string_agg(o.oid::text, ',' ORDER BY o.oid) FROM pg_constraint AS o
         WHERE o.conrelid = c.oid AND o.contype = 'c' OR o.confrelid = c.oid AND o.contype = 'f'),
        (SELECT string_agg(concat_ws(',', d.objsubid, d.description), ';' ORDER BY d.objsubid)
         FROM pg_description AS d
         WHERE d.objoid = c.oid AND d.classoid = 'pg_class'::regclass AND d.description ILIKE '%@crdt%'),
        (SELECT string_agg(concat_ws(',', x.indexrelid, i.relname, x.indkey, x.indisunique, x.indisprimary, x.indimmediate, x.indislive),
                    ';' ORDER BY x.indexrelid)
         FROM pg_index AS x JOIN pg_class AS i ON i.oid = x.indexrelid WHERE x.indrelid = c.oid)
    ), E'\n' ORDER BY c.oid), ''))
FROM annotated
JOIN pg_class AS c ON c.oid = annotated.oid
JOIN pg_namespace AS n ON n.oid = c.relnamespace
