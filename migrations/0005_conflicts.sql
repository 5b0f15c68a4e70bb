-- Conflicts as data: what kind each is and what both sides had seen, the values that lost beside the row they belong to,
-- every value of a column that keeps siblings, and writing a value that lost again.

-- {"us-east": "<ms>.<counter>"} of {node,hlc,...}. SECURITY DEFINER: a public view calls it.
CREATE FUNCTION crdt_state.vector_json(vector int8[]) RETURNS jsonb
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$ SELECT CASE WHEN vector IS NOT NULL THEN crdt_state.vector_json(0, 0, vector) END $$;

-- Whether the caller may see values of the table: SELECT on it, and no row security that applies to the caller, because a
-- record is no row of the table; or the sidecar's own role.
CREATE OR REPLACE FUNCTION crdt.may_read(relation oid) RETURNS boolean
LANGUAGE sql STABLE
AS $$
    SELECT coalesce(pg_catalog.has_table_privilege(relation, 'SELECT'), false)
           AND NOT EXISTS (SELECT FROM pg_catalog.pg_class AS c
                           WHERE c.oid = relation AND c.relrowsecurity AND NOT pg_catalog.pg_has_role(c.relowner, 'USAGE')
                             AND NOT (SELECT r.rolbypassrls FROM pg_catalog.pg_roles AS r WHERE r.rolname = current_user))
        OR (SELECT pg_catalog.pg_has_role(s.nspowner, 'USAGE') FROM pg_catalog.pg_namespace AS s WHERE s.nspname = 'crdt_state')
$$;

CREATE OR REPLACE VIEW crdt.conflicts AS
    SELECT f.id, f.detected, format('%I.%I', t.schema_name, t.table_name) AS "table", f.row_key AS key,
           f.column_name AS "column", f.rule,
           crdt_state.node_name(f.winner_node) AS winner, crdt.hlc_text(f.winner_hlc) AS winner_dot, f.winner_value,
           crdt_state.node_name(f.loser_node) AS loser, crdt.hlc_text(f.loser_hlc) AS loser_dot, f.loser_value,
           f.kind, f.note,
           crdt_state.vector_json(f.winner_vector) AS winner_vector, crdt_state.vector_json(f.loser_vector) AS loser_vector
    FROM crdt_state.conflict AS f
    JOIN crdt_state.replicated_table AS t USING (table_id)
    WHERE crdt.may_read(t.relation_oid);

-- A row as crdt.explain and crdt.siblings are asked for it: its table's id, its text images in table order (NULL when it
-- is not there), its row state, its counters' sums by column. Nothing when nobody knows the row. Refuses a caller who may
-- not read the table. key: the text of a single-column key, or a JSON object {"column": "text", ...} as crdt.conflicts has
-- it. A single key whose own text reads as such an object of its own column's name needs the object around it, too.
CREATE FUNCTION crdt_state.row_of(relation oid, key text, caller name)
RETURNS TABLE (table_id int4, key_json jsonb, user_row text[], state jsonb, sums jsonb)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $function$
#variable_conflict use_column
DECLARE
    held     record;
    columns  record;
    attached int4;
    keys     text[];
    given    jsonb;
BEGIN
    SELECT c.oid, c.relowner, c.relrowsecurity, format('%I.%I', n.nspname, c.relname) AS qualified INTO held
    FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE c.oid = relation;
    IF NOT has_table_privilege(caller, held.oid, 'SELECT') THEN
        RAISE EXCEPTION 'permission denied for table %', held.qualified USING ERRCODE = 'insufficient_privilege';
    END IF;
    IF held.relrowsecurity AND NOT pg_has_role(caller, held.relowner, 'USAGE')
       AND NOT (SELECT r.rolbypassrls FROM pg_roles AS r WHERE r.rolname = caller) THEN
        RAISE EXCEPTION 'table % has row security, which cannot be applied here', held.qualified
            USING ERRCODE = 'insufficient_privilege', HINT = 'Ask the owner of the table.';
    END IF;
    SELECT t.table_id INTO attached FROM crdt_state.replicated_table AS t
    WHERE t.relation_oid = held.oid AND t.detached IS NULL;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'table % is not replicated', held.qualified
            USING ERRCODE = 'undefined_table', HINT = 'Annotate it; crdt.columns lists what is replicated.';
    END IF;
    SELECT array_agg(c.column_name ORDER BY c.key_position) FILTER (WHERE c.key_position IS NOT NULL) AS key_names,
           string_agg(format('t.%I = ($1)[%s]::%s', c.column_name, c.key_position, c.type_name), ' AND ')
               FILTER (WHERE c.key_position IS NOT NULL) AS user_key,
           string_agg(format('t.k_%s = ($1)[%s]::%s', c.attnum, c.key_position, c.type_name), ' AND ')
               FILTER (WHERE c.key_position IS NOT NULL) AS state_key,
           string_agg(format('%L, ($1)[%s]::%s::text', c.column_name, c.key_position, c.type_name), ', ')
               FILTER (WHERE c.key_position IS NOT NULL) AS key_pairs,
           string_agg(format('t.%I::text', c.column_name), ', ' ORDER BY c.attnum) AS texts
    INTO columns
    FROM crdt_state.replicated_column AS c WHERE c.table_id = attached;
    IF key ~ '^\s*\{' THEN
        BEGIN
            given := key::jsonb;
        EXCEPTION WHEN invalid_text_representation OR untranslatable_character THEN
            given := NULL; -- the text of an array, say
        END;
    END IF;
    SELECT array_agg(given ->> k.name ORDER BY k.position) INTO keys
    FROM unnest(columns.key_names) WITH ORDINALITY AS k (name, position);
    IF array_length(columns.key_names, 1) = 1 THEN
        IF keys[1] IS NULL OR given - columns.key_names[1]::text <> '{}' THEN
            keys := ARRAY[key];
        END IF;
    ELSIF array_position(keys, NULL) IS NOT NULL THEN
        RAISE EXCEPTION 'the key lacks a column' USING ERRCODE = 'invalid_parameter_value',
            HINT = format('Give a JSON object with %s.', array_to_string(columns.key_names, ', '));
    END IF;
    table_id := attached;
    EXECUTE format('SELECT jsonb_build_object(%s)', columns.key_pairs) INTO key_json USING keys;
    EXECUTE format('SELECT ARRAY[%s] FROM ONLY %s AS t WHERE %s', columns.texts, held.qualified, columns.user_key)
        INTO user_row USING keys;
    EXECUTE format('SELECT to_jsonb(t) FROM crdt_state.row_%s AS t WHERE %s', attached, columns.state_key)
        INTO state USING keys;
    IF jsonb_typeof(state -> 'image') = 'object' THEN
        state := jsonb_set(state, '{image}', crdt_state.present_image(attached, state -> 'image'));
    END IF;
    IF user_row IS NULL AND state IS NULL THEN
        RETURN;
    END IF;
    IF to_regclass('crdt_state.counter_' || attached) IS NOT NULL THEN
        EXECUTE format(
            'SELECT jsonb_object_agg(a.attnum, a.nodes) FROM (
                 SELECT t.attnum, jsonb_object_agg(crdt_state.node_name(t.node), jsonb_build_object(
                     ''increased'', t.increased - t.base_increased, ''decreased'', t.decreased - t.base_decreased)) AS nodes
                 FROM crdt_state.counter_%s AS t WHERE %s GROUP BY t.attnum) AS a', attached, columns.state_key)
            INTO sums USING keys;
    END IF;
    RETURN NEXT;
END
$function$;

-- Each column of a row state: who wrote it last and when; siblings and element states as they stand in the row state.
CREATE FUNCTION crdt_state.columns_of(table_id int4, state jsonb)
RETURNS TABLE (attnum int2, name name, type_name text, crdt text, place int8, node int8, hlc int8, further int8[],
               siblings jsonb, elements jsonb)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT c.attnum, c.column_name, c.type_name, c.crdt, row_number() OVER (ORDER BY c.attnum),
           coalesce((state ->> ('n_' || c.attnum))::int8, (state ->> 'row_node')::int8, 0),
           coalesce((state ->> ('h_' || c.attnum))::int8, (state ->> 'row_hlc')::int8, 0),
           (SELECT array_agg(e.v::int8 ORDER BY e.o)
            FROM jsonb_array_elements_text(nullif(state -> ('v_' || c.attnum), 'null')) WITH ORDINALITY AS e (v, o)),
           nullif(state -> ('sib_' || c.attnum), 'null'), nullif(state -> ('e_' || c.attnum), 'null')
    FROM crdt_state.replicated_column AS c
    WHERE c.table_id = $1
$$;

-- Inside a SECURITY DEFINER function current_user is the owner: the caller is the role that was set, or logged in.
CREATE FUNCTION crdt_state.caller() RETURNS name
LANGUAGE sql STABLE
AS $$ SELECT CASE current_setting('role') WHEN 'none' THEN session_user ELSE current_setting('role')::name END $$;

-- crdt.explain('posts', '17'): who wrote each column of a row and when, one row per column in table order. A counter has no
-- single writer: contributions shows what each node added and took, true_value the exact sum. elements: of sets and maps,
-- the dots or stamps of each element. lost: values of the column that lost a conflict and are still on record.
DROP FUNCTION crdt.explain(regclass, text);
CREATE FUNCTION crdt.explain("table" regclass, key text)
RETURNS TABLE ("column" name, type text, value text, writer text, written_at timestamptz, dot text,
               version_vector jsonb, contributions jsonb, true_value numeric,
               row_alive boolean, row_inserted text, row_written text, row_deleted text,
               siblings jsonb, elements jsonb, lost jsonb)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET "TimeZone" = 'UTC' SET "DateStyle" = 'ISO, MDY' SET "IntervalStyle" = 'postgres' SET extra_float_digits = '1'
SET bytea_output = 'hex' SET lc_monetary = 'C'
AS $function$
#variable_conflict use_column
DECLARE
    r record;
BEGIN
    SELECT * INTO r FROM crdt_state.row_of($1, $2, crdt_state.caller());
    IF NOT FOUND THEN
        RETURN;
    END IF;
    RETURN QUERY
    WITH life AS (
        SELECT coalesce((r.state ->> 'row_node')::int8, 0) AS row_node, coalesce((r.state ->> 'row_hlc')::int8, 0) AS row_hlc,
               coalesce((r.state ->> 'live_node')::int8, 0) AS live_node, coalesce((r.state ->> 'live_hlc')::int8, 0) AS live_hlc,
               (r.state ->> 'dead_node')::int8 AS dead_node, (r.state ->> 'dead_hlc')::int8 AS dead_hlc
    ), lost AS (
        SELECT f.column_name AS name, jsonb_agg(jsonb_build_object(
                   'value', f.loser_value, 'writer', crdt_state.node_name(f.loser_node), 'dot', crdt.hlc_text(f.loser_hlc),
                   'kind', f.kind, 'conflict', f.id) ORDER BY f.loser_hlc DESC) AS found
        FROM crdt_state.conflict AS f
        WHERE f.table_id = r.table_id AND f.row_key = r.key_json AND f.column_name IS NOT NULL
        GROUP BY f.column_name
    ), listed AS (
        SELECT c.*, c.crdt IN ('pn_counter', 'g_counter') AS is_counter FROM crdt_state.columns_of(r.table_id, r.state) AS c
    )
    SELECT c.name, c.type_name, r.user_row[c.place],
           CASE WHEN NOT c.is_counter THEN crdt_state.node_name(c.node) END,
           CASE WHEN NOT c.is_counter AND c.hlc > 0 THEN crdt.hlc_time(c.hlc) END,
           CASE WHEN NOT c.is_counter THEN crdt.hlc_text(c.hlc) END,
           CASE WHEN NOT c.is_counter THEN crdt_state.vector_json(c.node, c.hlc, c.further) END,
           CASE WHEN c.is_counter THEN coalesce(r.sums -> c.attnum::text, '{}') END,
           CASE WHEN c.is_counter
                THEN coalesce(r.user_row[c.place]::numeric, 0) + coalesce((r.state ->> ('x_' || c.attnum))::numeric, 0) END,
           coalesce((r.state ->> 'alive')::boolean,
                    l.dead_hlc IS NULL OR (l.live_hlc, l.live_node) > (l.dead_hlc, l.dead_node)),
           crdt_state.node_name(l.row_node) || ' ' || crdt.hlc_text(l.row_hlc),
           crdt_state.node_name(l.live_node) || ' ' || crdt.hlc_text(l.live_hlc),
           crdt_state.node_name(l.dead_node) || ' ' || crdt.hlc_text(l.dead_hlc),
           (SELECT jsonb_agg(jsonb_build_object('value', s.value -> 2, 'writer', crdt_state.node_name((s.value -> 0)::int8),
                             'dot', crdt.hlc_text((s.value -> 1)::int8))) FROM jsonb_array_elements(c.siblings) AS s),
           c.elements, lost.found
    FROM listed AS c CROSS JOIN life AS l LEFT JOIN lost ON lost.name = c.name
    ORDER BY c.place;
END
$function$;

-- The same for a key that is at hand as a number, a uuid, or jsonb out of crdt.conflicts.
CREATE FUNCTION crdt.explain("table" regclass, key anyelement)
RETURNS TABLE ("column" name, type text, value text, writer text, written_at timestamptz, dot text,
               version_vector jsonb, contributions jsonb, true_value numeric,
               row_alive boolean, row_inserted text, row_written text, row_deleted text,
               siblings jsonb, elements jsonb, lost jsonb)
LANGUAGE sql STABLE
AS $$ SELECT * FROM crdt.explain($1, $2::text) $$;

-- crdt.siblings('carts', '17'[, 'note']): every value of a column that no later write has seen, highest (hlc, node) first; of
-- all columns that hold one value, or of the one named. A column without concurrent writes has one. shown: what the
-- column shows (a merge function may show something else than any sibling).
CREATE FUNCTION crdt.siblings("table" regclass, key text, only_column name DEFAULT NULL)
RETURNS TABLE ("column" name, value text, writer text, written_at timestamptz, dot text, shown boolean)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET "TimeZone" = 'UTC' SET "DateStyle" = 'ISO, MDY' SET "IntervalStyle" = 'postgres' SET extra_float_digits = '1'
SET bytea_output = 'hex' SET lc_monetary = 'C'
AS $function$
#variable_conflict use_column
DECLARE
    r record;
BEGIN
    SELECT * INTO r FROM crdt_state.row_of($1, $2, crdt_state.caller());
    IF NOT FOUND THEN
        RETURN;
    END IF;
    IF $3 IS NOT NULL AND NOT EXISTS (
        SELECT FROM crdt_state.replicated_column AS c WHERE c.table_id = r.table_id AND c.column_name = $3
    ) THEN
        RAISE EXCEPTION 'table % has no replicated column %', $1, quote_ident($3) USING ERRCODE = 'undefined_column';
    END IF;
    RETURN QUERY
    SELECT c.name, s.value, crdt_state.node_name(s.node), CASE WHEN s.hlc > 0 THEN crdt.hlc_time(s.hlc) END,
           crdt.hlc_text(s.hlc), s.value IS NOT DISTINCT FROM r.user_row[c.place]
    FROM crdt_state.columns_of(r.table_id, r.state) AS c
    CROSS JOIN LATERAL (
        SELECT (e.value -> 0)::int8 AS node, (e.value -> 1)::int8 AS hlc, e.value ->> 2 AS value
        FROM jsonb_array_elements(c.siblings) AS e
        UNION ALL
        SELECT c.node, c.hlc, coalesce(r.user_row[c.place], r.state -> 'image' ->> c.name) WHERE c.siblings IS NULL
    ) AS s
    WHERE CASE WHEN $3 IS NULL
               THEN c.crdt IN ('lww_register', 'mv_register', 'max_register', 'min_register', 'merge')
                    AND NOT EXISTS (SELECT FROM crdt_state.replicated_column AS k
                                    WHERE k.table_id = r.table_id AND k.attnum = c.attnum AND k.key_position IS NOT NULL)
               ELSE c.name = $3 END
    ORDER BY c.place, s.hlc DESC, s.node DESC;
END
$function$;

-- The same for a key that is at hand as a number, a uuid, or jsonb out of crdt.conflicts.
CREATE FUNCTION crdt.siblings("table" regclass, key anyelement, only_column name DEFAULT NULL)
RETURNS TABLE ("column" name, value text, writer text, written_at timestamptz, dot text, shown boolean)
LANGUAGE sql STABLE
AS $$ SELECT * FROM crdt.siblings($1, $2::text, $3) $$;

-- What crdt.reassert needs of a conflict: its table and key, and the tombstone of the row. Refuses a caller who may not
-- read the table; callers have no rights on crdt_state.
CREATE FUNCTION crdt.reassertable(id uuid)
RETURNS TABLE (relation oid, row_key jsonb, column_name name, crdt text, base_type text, kind text, rule text,
               winner_value text, loser_value text, image jsonb)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET "TimeZone" = 'UTC' SET "DateStyle" = 'ISO, MDY' SET "IntervalStyle" = 'postgres' SET extra_float_digits = '1'
SET bytea_output = 'hex' SET lc_monetary = 'C'
AS $function$
#variable_conflict use_column
DECLARE
    f record;
    r record;
BEGIN
    SELECT c.*, t.relation_oid AS relation INTO f
    FROM crdt_state.conflict AS c JOIN crdt_state.replicated_table AS t USING (table_id)
    WHERE c.id = $1 AND t.detached IS NULL;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no conflict %', $1
            USING ERRCODE = 'no_data_found', HINT = 'crdt.conflicts lists them; old ones are dropped.';
    END IF;
    SELECT o.* INTO r
    FROM crdt_state.row_of(f.relation, CASE WHEN (SELECT count(*) FROM jsonb_object_keys(f.row_key)) = 1
        THEN (SELECT v.value FROM jsonb_each_text(f.row_key) AS v) ELSE f.row_key::text END, crdt_state.caller()) AS o;
    relation := f.relation;
    row_key := f.row_key;
    column_name := f.column_name;
    SELECT c.crdt, c.type_name INTO crdt, base_type FROM crdt_state.replicated_column AS c
    WHERE c.table_id = f.table_id AND c.column_name = f.column_name;
    kind := f.kind;
    rule := f.rule;
    winner_value := f.winner_value;
    loser_value := f.loser_value;
    image := r.state -> 'image';
    RETURN NEXT;
END
$function$;

-- crdt.reassert(conflict): writes the value that lost again, as an ordinary write of the caller, later than everything its
-- row holds here; so it wins on every node against what it lost to. Of a map or a set: the key or element alone. Of a
-- row (a delete that lost, a write that lost to a delete): deletes it again, or puts it back from its tombstone. Returns
-- what the column shows then, 'deleted' or 'written' for rows. It runs with the caller's rights and pg_catalog alone as
-- search path, so that nothing planted in another schema runs; triggers of the table run with that path, too.
CREATE FUNCTION crdt.reassert(id uuid) RETURNS text
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
    f        record;
    place    text;
    wanted   text;
    shown    text;
    touched  int8;
BEGIN
    SELECT * INTO f FROM crdt.reassertable($1);
    place := (SELECT pg_catalog.string_agg(pg_catalog.format('t.%I = (%L)::%s', a.attname, f.row_key ->> a.attname::text,
                                           pg_catalog.format_type(a.atttypid, a.atttypmod)), ' AND ')
              FROM pg_catalog.pg_attribute AS a
              WHERE a.attrelid = f.relation AND a.attnum > 0 AND NOT a.attisdropped AND f.row_key ? a.attname::text);
    IF f.kind IN ('undone', 'saturated', 'merge_failed') THEN
        RAISE EXCEPTION 'a % write cannot be written again: the rule of the column would do the same with it', f.kind
            USING ERRCODE = 'feature_not_supported', HINT = 'Choose another type for the column, or another value.';
    ELSIF f.column_name IS NULL AND f.loser_value = 'deleted' THEN
        EXECUTE pg_catalog.format('DELETE FROM %s AS t WHERE %s', f.relation::regclass, place);
        shown := 'deleted';
    ELSIF f.column_name IS NULL THEN
        IF f.image IS NULL THEN
            RAISE EXCEPTION 'the row is there, or its values are no longer kept'
                USING ERRCODE = 'object_not_in_prerequisite_state';
        END IF;
        EXECUTE pg_catalog.format(
            'INSERT INTO %s (%s) OVERRIDING SYSTEM VALUE SELECT %s', f.relation::regclass,
            pg_catalog.string_agg(pg_catalog.quote_ident(v.key), ', ' ORDER BY v.key),
            pg_catalog.string_agg(pg_catalog.format('(%L)::%s', v.value, pg_catalog.format_type(a.atttypid, a.atttypmod)), ', '
                                  ORDER BY v.key))
        FROM pg_catalog.jsonb_each_text(f.image || f.row_key) AS v
        JOIN pg_catalog.pg_attribute AS a ON a.attrelid = f.relation AND a.attname = v.key AND NOT a.attisdropped;
        shown := 'written';
    ELSE
        wanted := crdt.reasserted(f.crdt, f.base_type, f.column_name, f.winner_value, f.loser_value);
        EXECUTE pg_catalog.format('UPDATE %s AS t SET %I = %s WHERE %s RETURNING t.%2$I::text',
                                  f.relation::regclass, f.column_name, wanted, place) INTO shown;
    END IF;
    GET DIAGNOSTICS touched = ROW_COUNT;
    IF touched = 0 THEN
        RAISE EXCEPTION 'the row is not there' USING ERRCODE = 'no_data_found',
            HINT = 'Insert it again, or reassert the conflict about the row.';
    END IF;
    RETURN shown;
END
$function$;

-- The expression that gives a column the value that lost a conflict. A set or map gets or loses one element or key.
CREATE FUNCTION crdt.reasserted(crdt text, type text, name text, winner_value text, loser_value text) RETURNS text
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
    element constant text := coalesce(loser_value, winner_value);
BEGIN
    IF crdt = 'lww_map' THEN
        RETURN CASE WHEN loser_value IS NULL
                    THEN format('t.%I - ARRAY(SELECT jsonb_object_keys(%L::jsonb))', name, winner_value)
                    ELSE format('coalesce(t.%I, ''{}'') || %L::jsonb', name, loser_value) END;
    ELSIF crdt NOT IN ('g_set', 'or_set', 'aw_set', 'lww_set') THEN
        RETURN format('(%L)::%s', loser_value, type);
    ELSIF type = 'jsonb' THEN
        RETURN CASE WHEN loser_value IS NULL
                    THEN format('(SELECT coalesce(jsonb_agg(e.v ORDER BY e.o) FILTER (WHERE e.v <> %L::jsonb), ''[]'')'
                                ' FROM jsonb_array_elements(t.%I) WITH ORDINALITY AS e (v, o))', element, name)
                    ELSE format('coalesce(t.%I, ''[]'') || jsonb_build_array(%L::jsonb)', name, element) END;
    END IF;
    RETURN format('%s(t.%I, (%L)::%s)', CASE WHEN loser_value IS NULL THEN 'array_remove' ELSE 'array_append' END,
                  name, element, regexp_replace(type, '(\[\d*\])+$', ''));
END
$function$;

GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA crdt TO PUBLIC;
GRANT SELECT ON crdt.conflicts TO PUBLIC;
