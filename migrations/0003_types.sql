-- Column types whose state is more than the shown value and its dot: sets, maps, and registers that keep siblings.
-- Their state stands in the row state as jsonb; these functions are its whole algebra. Clocks and contexts are int8[]
-- by node id; NULL covers everything. A dot of genesis (node 0, hlc 0) is covered by every clock.
--
--   dot set       {"<element>": {"<node>": hlc, ...}, ...}               live elements only
--   stamp set     {"<element>": [hlc, node, present], ...}               removed elements stay
--   map           {"<key>": [hlc, node, value], "<removed>": [hlc, node]}
--   siblings      [[node, hlc, text image or null], ...]                 highest (hlc, node) first
--   change        {"full": hlc, "null": boolean, "add": {"<element>": hlc or [hlc, value]}, "del": {"<element>": hlc}}
--
-- They are plpgsql because it keeps plans between calls and statements; a query that an SQL function cannot be inlined
-- into plans it anew. A malformed change raises an error of class 22, and its row goes to quarantine.

-- Genesis: what a value held when its table was attached.
CREATE FUNCTION crdt_state.genesis_dots(elements text[]) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
AS $$
BEGIN
    RETURN coalesce((SELECT jsonb_object_agg(e.e, '{"0": 0}'::jsonb) FROM unnest(elements) AS e (e) WHERE e.e IS NOT NULL), '{}');
END
$$;

CREATE FUNCTION crdt_state.genesis_stamps(elements text[]) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
AS $$
BEGIN
    RETURN coalesce((SELECT jsonb_object_agg(e.e, '[0, 0, true]'::jsonb) FROM unnest(elements) AS e (e) WHERE e.e IS NOT NULL), '{}');
END
$$;

CREATE FUNCTION crdt_state.genesis_map(value jsonb) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
AS $$
BEGIN
    IF jsonb_typeof(value) IS DISTINCT FROM 'object' THEN
        RETURN '{}';
    END IF;
    RETURN coalesce((SELECT jsonb_object_agg(e.key, jsonb_build_array(0, 0, e.value)) FROM jsonb_each(value) AS e), '{}');
END
$$;

-- A jsonb array as the text images of its elements; anything else holds none.
CREATE FUNCTION crdt_state.json_elements(value jsonb) RETURNS text[]
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
AS $$
BEGIN
    IF jsonb_typeof(value) IS DISTINCT FROM 'array' THEN
        RETURN '{}';
    END IF;
    RETURN ARRAY(SELECT e.value::text FROM jsonb_array_elements(value) AS e);
END
$$;

CREATE FUNCTION crdt_state.json_array(elements text[]) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
AS $$
BEGIN
    RETURN ('[' || array_to_string(elements, ',') || ']')::jsonb;
END
$$;

-- A dot set after a change. full: every covered dot goes; else those of the elements that the change names.
CREATE FUNCTION crdt_state.dots_merge(state jsonb, change jsonb, origin int8, context int8[]) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
AS $$
DECLARE
    everything constant boolean := change ? 'full';
    added      constant jsonb := change -> 'add';
    removed    constant jsonb := change -> 'del';
    kept       jsonb := CASE WHEN everything THEN '{}' ELSE state END;
    changed    jsonb;
BEGIN
    IF context IS NULL THEN
        IF NOT everything AND removed IS NOT NULL THEN
            kept := kept - ARRAY(SELECT jsonb_object_keys(removed));
        END IF;
        changed := (SELECT jsonb_object_agg(a.key, jsonb_build_object(origin, a.value::int8)) FROM jsonb_each(added) AS a);
    ELSE
        IF NOT everything THEN
            kept := kept - ARRAY(SELECT jsonb_object_keys(added) UNION ALL SELECT jsonb_object_keys(removed));
        END IF;
        changed := (
            SELECT jsonb_object_agg(n.element, n.dots)
            FROM (
                SELECT d.element, jsonb_object_agg(d.node, d.hlc) AS dots
                FROM (
                    SELECT e.key AS element, o.key AS node, o.value::int8 AS hlc
                    FROM jsonb_each(state) AS e, jsonb_each(e.value) AS o
                    WHERE (everything OR added ? e.key OR removed ? e.key)
                      AND o.key::int8 <> origin AND o.value::int8 > coalesce(context[o.key::int4], 0)
                    UNION ALL
                    SELECT a.key, origin::text, a.value::int8 FROM jsonb_each(added) AS a
                ) AS d
                GROUP BY d.element
            ) AS n
        );
    END IF;
    RETURN CASE WHEN changed IS NULL THEN kept ELSE kept || changed END;
END
$$;

-- A stamp set or map after a change: per element the higher (hlc, node).
CREATE FUNCTION crdt_state.stamps_merge(state jsonb, change jsonb, origin int8, is_map boolean) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
AS $$
DECLARE
    -- Not toasted: looked into once for every element.
    held    constant jsonb := state || '{}'::jsonb;
    changed jsonb;
BEGIN
    changed := (
        SELECT jsonb_object_agg(n.element, n.entry)
        FROM (
            SELECT d.key AS element, d.value::int8 AS hlc,
                   CASE WHEN is_map THEN jsonb_build_array(d.value::int8, origin)
                        ELSE jsonb_build_array(d.value::int8, origin, false) END AS entry
            FROM jsonb_each(change -> 'del') AS d
            UNION ALL
            SELECT a.key,
                   CASE WHEN is_map THEN (a.value -> 0)::int8 ELSE a.value::int8 END,
                   CASE WHEN is_map THEN jsonb_build_array((a.value -> 0)::int8, origin, a.value -> 1)
                        ELSE jsonb_build_array(a.value::int8, origin, true) END
            FROM jsonb_each(change -> 'add') AS a
        ) AS n
        WHERE NOT held ? n.element
           OR (n.hlc, origin) >= ((held -> n.element -> 0)::int8, (held -> n.element -> 1)::int8)
    );
    RETURN CASE WHEN changed IS NULL THEN state ELSE state || changed END;
END
$$;

-- Shown elements: by the hlc of the oldest live dot (stamp sets: of the add), then by element. numbers: elements that
-- are numbers go by value, before others; they are those of arrays of numbers, and bare ones of jsonb arrays.
CREATE FUNCTION crdt_state.dots_elements(state jsonb, numbers boolean) RETURNS text[]
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
AS $$
BEGIN
    IF numbers THEN
        RETURN ARRAY(
            SELECT e.key FROM jsonb_each(state) AS e
            ORDER BY (SELECT min(d.value::int8) FROM jsonb_each(e.value) AS d),
                     CASE WHEN e.key ~ '^(-?[0-9]|NaN$|-?Infinity$)' THEN e.key::numeric END,
                     e.key COLLATE "C"
        );
    END IF;
    RETURN ARRAY(
        SELECT e.key FROM jsonb_each(state) AS e
        ORDER BY (SELECT min(d.value::int8) FROM jsonb_each(e.value) AS d), e.key COLLATE "C"
    );
END
$$;

CREATE FUNCTION crdt_state.stamps_elements(state jsonb, numbers boolean) RETURNS text[]
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
AS $$
BEGIN
    RETURN ARRAY(
        SELECT e.key FROM jsonb_each(state) AS e WHERE (e.value -> 2)::boolean
        ORDER BY (e.value -> 0)::int8,
                 CASE WHEN numbers AND e.key ~ '^(-?[0-9]|NaN$|-?Infinity$)' THEN e.key::numeric END,
                 e.key COLLATE "C"
    );
END
$$;

CREATE FUNCTION crdt_state.map_value(state jsonb) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
AS $$
BEGIN
    RETURN coalesce((SELECT jsonb_object_agg(e.key, e.value -> 2) FROM jsonb_each(state) AS e WHERE jsonb_array_length(e.value) = 3), '{}');
END
$$;

-- Two whole states. A dot that one side lacks was removed if that side's clock covers it, and is new otherwise.
CREATE FUNCTION crdt_state.dots_join(a jsonb, a_clock int8[], b jsonb, b_clock int8[]) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
AS $$
BEGIN
    RETURN coalesce((
        SELECT jsonb_object_agg(n.element, n.dots)
        FROM (
            SELECT d.element, jsonb_object_agg(d.node, d.hlc) AS dots
            FROM (
                SELECT e.key AS element, o.key AS node, o.value::int8 AS hlc
                FROM jsonb_each(a) AS e, jsonb_each(e.value) AS o
                WHERE b -> e.key -> o.key = o.value
                   OR o.value::int8 > coalesce(b_clock[o.key::int4], 0)
                UNION
                SELECT e.key, o.key, o.value::int8
                FROM jsonb_each(b) AS e, jsonb_each(e.value) AS o
                WHERE a -> e.key -> o.key = o.value
                   OR o.value::int8 > coalesce(a_clock[o.key::int4], 0)
            ) AS d
            GROUP BY d.element
        ) AS n
    ), '{}');
END
$$;

CREATE FUNCTION crdt_state.stamps_join(a jsonb, b jsonb) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
AS $$
BEGIN
    RETURN a || coalesce((
        SELECT jsonb_object_agg(e.key, e.value)
        FROM jsonb_each(b) AS e
        WHERE NOT a ? e.key
           OR ((e.value -> 0)::int8, (e.value -> 1)::int8) >= ((a -> e.key -> 0)::int8, (a -> e.key -> 1)::int8)
    ), '{}');
END
$$;

-- What a change did that its writer had not seen: [[element, its hlc, its value, node here, hlc here, value here, it wins]],
-- NULL when nothing. A removed element's value is null; of maps, a value is the text of {"<key>": value}.
-- Of dot sets: a removal against the highest dot that survives it. The survivor wins.
CREATE FUNCTION crdt_state.dots_conflicts(state jsonb, change jsonb, origin int8, context int8[]) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
AS $$
BEGIN
    IF context IS NULL OR NOT change ? 'del' AND NOT change ? 'full' THEN
        RETURN NULL;
    END IF;
    RETURN (
        SELECT jsonb_agg(jsonb_build_array(r.element, r.hlc, NULL, r.dots[2], r.dots[1], r.element, false))
        FROM (
            SELECT e.key AS element, coalesce(change -> 'del' -> e.key, change -> 'full')::int8 AS hlc,
                   max(ARRAY[o.value::int8, o.key::int8]) FILTER (WHERE o.key::int8 <> origin AND o.value::int8 > coalesce(context[o.key::int4], 0)) AS dots,
                   count(*) AS total
            FROM jsonb_each(state) AS e, jsonb_each(e.value) AS o
            WHERE (change ? 'full' OR change -> 'del' ? e.key) AND NOT coalesce(change -> 'add' ? e.key, false)
            GROUP BY e.key
            -- A whole new value removes only what its writer had seen: an element of which some dot is covered.
            HAVING change -> 'del' ? e.key
                OR bool_or(o.key::int8 = origin OR o.value::int8 <= coalesce(context[o.key::int4], 0))
        ) AS r
        WHERE r.dots IS NOT NULL
    );
END
$$;

CREATE FUNCTION crdt_state.stamps_conflicts(state jsonb, change jsonb, origin int8, context int8[], is_map boolean) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
AS $$
DECLARE
    held constant jsonb := state || '{}'::jsonb;
BEGIN
    IF context IS NULL THEN
        RETURN NULL;
    END IF;
    RETURN (
        SELECT jsonb_agg(jsonb_build_array(c.element, c.hlc, c.value, c.here_node, c.here_hlc, c.here,
                                           (c.hlc, origin) >= (c.here_hlc, c.here_node)))
        FROM (
            SELECT n.element, n.hlc, n.value, (s.entry -> 1)::int8 AS here_node, (s.entry -> 0)::int8 AS here_hlc,
                   CASE WHEN is_map THEN CASE WHEN s.entry -> 2 IS NOT NULL THEN jsonb_build_object(n.element, s.entry -> 2)::text END
                        WHEN (s.entry -> 2)::boolean THEN n.element END AS here
            FROM (
                SELECT d.key AS element, d.value::int8 AS hlc, NULL AS value FROM jsonb_each(change -> 'del') AS d
                UNION ALL
                SELECT a.key, CASE WHEN is_map THEN (a.value -> 0)::int8 ELSE a.value::int8 END,
                       CASE WHEN is_map THEN jsonb_build_object(a.key, a.value -> 1)::text ELSE a.key END
                FROM jsonb_each(change -> 'add') AS a
            ) AS n, LATERAL (SELECT held -> n.element AS entry) AS s
            WHERE s.entry IS NOT NULL
        ) AS c
        WHERE c.value IS DISTINCT FROM c.here
          AND c.here_node <> origin AND c.here_hlc > coalesce(context[c.here_node], 0)
    );
END
$$;

-- Siblings: the writes that no other write had seen. siblings NULL: the one write (node, hlc, value), which the row state
-- and the user row hold. Returns NULL when the incoming write is the only one left.
CREATE FUNCTION crdt_state.siblings_merge(
    siblings jsonb, node int8, hlc int8, value text, origin int8, context int8[], in_hlc int8, in_value text
) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
AS $$
BEGIN
    IF context IS NULL OR siblings IS NULL AND (node = origin OR hlc <= coalesce(context[node], 0)) THEN
        RETURN NULL;
    END IF;
    RETURN (
        SELECT CASE WHEN count(*) > 1 THEN jsonb_agg(w.w ORDER BY w.hlc DESC, w.node DESC) END
        FROM (
            SELECT s.value AS w, (s.value -> 0)::int8 AS node, (s.value -> 1)::int8 AS hlc, false AS incoming
            FROM jsonb_array_elements(coalesce(siblings, jsonb_build_array(jsonb_build_array(node, hlc, value)))) AS s
            UNION ALL
            SELECT jsonb_build_array(origin, in_hlc, in_value), origin, in_hlc, true
        ) AS w
        WHERE w.incoming OR w.node <> origin AND w.hlc > coalesce(context[w.node], 0)
    );
END
$$;

-- Two whole states of siblings, each with at least one write; the same for what one side lacks as for dots.
CREATE FUNCTION crdt_state.siblings_join(a jsonb, a_clock int8[], b jsonb, b_clock int8[]) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
AS $$
BEGIN
    RETURN (
        SELECT jsonb_agg(w.w ORDER BY (w.w -> 1)::int8 DESC, (w.w -> 0)::int8 DESC)
        FROM (
            SELECT s.value AS w FROM jsonb_array_elements(a) AS s
            WHERE s.value IN (SELECT jsonb_array_elements(b)) OR (s.value -> 1)::int8 > coalesce(b_clock[(s.value -> 0)::int4], 0)
            UNION
            SELECT s.value FROM jsonb_array_elements(b) AS s
            WHERE s.value IN (SELECT jsonb_array_elements(a)) OR (s.value -> 1)::int8 > coalesce(a_clock[(s.value -> 0)::int4], 0)
        ) AS w
    );
END
$$;

-- The function of a merge(fn) column by its quoted name, NULL when there is none: fn(type, type) returns type. The name is
-- the annotation's, with or without schema (then home's); only what the catalogue holds is ever called.
CREATE FUNCTION crdt_state.merge_function(fn text, home text, type text) RETURNS text
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    parts  constant text[] := parse_ident(fn);
    wanted constant oid := to_regtype(type);
BEGIN
    RETURN (
        SELECT format('%I.%I', n.nspname, p.proname)
        FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace
        WHERE n.nspname = CASE cardinality(parts) WHEN 1 THEN home WHEN 2 THEN parts[1] END
          AND p.proname = parts[cardinality(parts)] AND p.prokind = 'f' AND NOT p.proretset
          AND p.pronargs = 2 AND p.proargtypes[0] = wanted AND p.proargtypes[1] = wanted AND p.prorettype = wanted
    );
END
$$;

-- A merge(fn) column's value: {value, reason}. The function is folded over the siblings from the highest (hlc, node) down.
-- When it is missing, raises an error, returns NULL or what the column cannot hold, the highest sibling is the value and
-- reason says why (a cast would cut a text that is too long). Errors
-- that would be gone at the next try (locks, memory, shutdown) are raised: nodes must not differ by them.
-- A function that is interrupted after crdt.merge_function_ms_max milliseconds names itself and what it was given in the
-- DETAIL, "<function>.<siblings>"; what crdt.slow_folds lists (that, or the function alone) is not given to it.
CREATE FUNCTION crdt_state.fold_siblings(siblings jsonb, fn text, home text, type text) RETURNS text[]
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    highest  constant text := siblings -> 0 ->> 2;
    started  constant timestamptz := clock_timestamp();
    limit_ms constant int8 := nullif(current_setting('crdt.merge_function_ms_max', true), '');
    slow     constant text := nullif(current_setting('crdt.slow_folds', true), '');
    folded   text := highest;
    fitted   text;
    called   text;
BEGIN
    IF slow IS NOT NULL THEN
        called := md5(concat_ws(' ', fn, home, type));
        IF string_to_array(slow, ',') && ARRAY[called, concat(called, '.', md5(siblings::text))] THEN
            RETURN ARRAY[highest, format('function %s ran longer than %s ms', fn, limit_ms)];
        END IF;
    END IF;
    called := crdt_state.merge_function(fn, home, type);
    IF called IS NULL THEN
        RETURN ARRAY[highest, format('there is no function %s(%s, %s) returns %s', fn, type, type, type)];
    END IF;
    FOR i IN 1 .. jsonb_array_length(siblings) - 1 LOOP
        EXECUTE format('SELECT %s($1::%s, $2::%s)::text', called, type, type) INTO folded USING folded, siblings -> i ->> 2;
        IF folded IS NULL THEN
            RETURN ARRAY[highest, format('function %s returned NULL', fn)];
        END IF;
    END LOOP;
    EXECUTE format('SELECT ($1::%s)::text', type) INTO fitted USING folded;
    IF rtrim(fitted) IS DISTINCT FROM rtrim(folded)
       AND (SELECT t.typcategory IN ('S', 'V') FROM pg_type AS t WHERE t.oid = to_regtype(type)) THEN
        RETURN ARRAY[highest, format('function %s returned a value that does not fit %s', fn, type)];
    END IF;
    RETURN ARRAY[folded, NULL];
EXCEPTION
    WHEN query_canceled THEN
        IF limit_ms IS NULL OR clock_timestamp() - started < make_interval(secs => limit_ms / 1000.0) THEN
            RAISE;
        END IF;
        RAISE EXCEPTION 'function % ran longer than % ms', fn, limit_ms
            USING ERRCODE = 'query_canceled', DETAIL = concat(md5(concat_ws(' ', fn, home, type)), '.', md5(siblings::text));
    WHEN OTHERS OR assert_failure THEN
        IF SQLSTATE ~ '^(40|53|57|58|XX)' OR SQLSTATE = '55P03' THEN
            RAISE;
        END IF;
        RETURN ARRAY[highest, left(format('function %s raised %s: %s', fn, SQLSTATE, SQLERRM), 500)];
END
$$;

-- Conflicts say what kind they are, which element or key of the column they are about (NULL: the whole column), and what
-- more there is to know; vectors are {node, hlc, ...} of what each side had seen.
ALTER TABLE crdt_state.conflict
    ADD COLUMN element text,
    ADD COLUMN kind text NOT NULL DEFAULT 'overwrite'
        CHECK (kind IN ('overwrite', 'undone', 'saturated', 'revived', 'lost_delete', 'merge_failed')),
    ADD COLUMN note text,
    ADD COLUMN winner_vector int8[],
    ADD COLUMN loser_vector int8[];

-- crdt.annotate('posts', 'likes', 'pn_counter'): sets the annotation in the column's comment; column NULL or '': the
-- table's. Annotation NULL removes it, '' gives a bare @crdt. A word that is not known is refused before it is set. Runs with
-- the caller's rights; returns the new comment.
CREATE OR REPLACE FUNCTION crdt.annotate("table" regclass, "column" name, annotation text) RETURNS text
LANGUAGE plpgsql VOLATILE
AS $function$
DECLARE
    words  constant text[] := '{lww_register,mv_register,g_counter,pn_counter,g_set,or_set,aw_set,lww_set,lww_map,'
                              'max_register,min_register,merge}';
    rules  constant text[] := '{lww,add_wins,remove_wins}';
    number int2 := 0;
    result text;
    span   int4[];
    word   text;
BEGIN
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_class AS c WHERE c.oid = "table" AND c.relkind IN ('r', 'p')) THEN
        RAISE EXCEPTION '% is not a table', "table" USING ERRCODE = 'wrong_object_type';
    END IF;
    IF "column" <> '' THEN
        SELECT a.attnum INTO number FROM pg_catalog.pg_attribute AS a
        WHERE a.attrelid = "table" AND a.attname = "column" AND a.attnum > 0 AND NOT a.attisdropped;
        IF number IS NULL THEN
            RAISE EXCEPTION 'table % has no column %', "table", pg_catalog.quote_ident("column")
                USING ERRCODE = 'undefined_column';
        END IF;
        result := crdt.comment_with_annotation(pg_catalog.col_description("table", number), annotation);
    ELSE
        result := crdt.comment_with_annotation(pg_catalog.obj_description("table", 'pg_class'), annotation);
    END IF;
    span := crdt.annotation_span(result);
    word := pg_catalog.btrim(pg_catalog.substring(pg_catalog.substr(result, span[1], span[2]), '\((.*)\)$'), E' \t\r\n');
    IF annotation IS NOT NULL AND number > 0
       AND NOT pg_catalog.lower(pg_catalog.substring(word, '^[^\s(]*')) OPERATOR(pg_catalog.=) ANY (words) THEN
        RAISE EXCEPTION 'unknown annotation @crdt(%) for column % of table %',
            word, pg_catalog.quote_ident("column"), "table"
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Known words: ' || pg_catalog.array_to_string(words, ', ') || '.';
    ELSIF annotation IS NOT NULL AND number = 0
          AND NOT coalesce(pg_catalog.lower(pg_catalog.substring(word, '^[Rr][Oo][Ww]\s*=\s*(.*)$'))
                           OPERATOR(pg_catalog.=) ANY (rules), false)
          AND word IS NOT NULL THEN
        RAISE EXCEPTION 'unknown annotation @crdt(%) for table %', word, "table"
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'A table takes @crdt, or row= with ' || pg_catalog.array_to_string(rules, ', ') || '.';
    END IF;
    IF number > 0 THEN
        EXECUTE pg_catalog.format('COMMENT ON COLUMN %s.%I IS %L', "table", "column", result);
    ELSE
        EXECUTE pg_catalog.format('COMMENT ON TABLE %s IS %L', "table", result);
    END IF;
    RETURN result;
END
$function$;

-- What a column was called before it was renamed, the latest name last: changes made before carry that name.
ALTER TABLE crdt_state.replicated_column ADD COLUMN former_names text[] NOT NULL DEFAULT '{}';

-- The image of a deleted row by the present names. One that lacks a column's present name was made before it.
CREATE FUNCTION crdt_state.present_image(table_id int4, image jsonb) RETURNS jsonb
LANGUAGE plpgsql STABLE
AS $$
BEGIN
    RETURN CASE WHEN image IS NOT NULL THEN (
        SELECT coalesce(jsonb_object_agg(coalesce(c.column_name::text, e.key), e.value), '{}')
        FROM jsonb_each(image) AS e
        LEFT JOIN crdt_state.replicated_column AS c
          ON c.table_id = $1 AND e.key = ANY (c.former_names) AND NOT image ? c.column_name::text
    ) END;
END
$$;
