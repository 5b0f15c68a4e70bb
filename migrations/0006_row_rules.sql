-- Row rules other than row=lww (@crdt(row=add_wins), @crdt(row=remove_wins)) decide by dots, not by the latest one alone.

-- alive: whether the row is there; NULL in tables with row=lww, where the dots of the latest write and delete tell.
-- row_dots: {node,hlc,...}, at most one per node: the writes (add_wins) or deletes (remove_wins) that no later operation has
-- seen; NULL for the one that the latest write (delete) of a living (dead) row gives.
DO $do$
DECLARE
    name text;
BEGIN
    FOR name IN SELECT c.relname FROM pg_catalog.pg_class AS c
                WHERE c.relnamespace = 'crdt_state'::regnamespace AND c.relkind = 'r' AND c.relname ~ '^row_\d+$'
    LOOP
        EXECUTE format('ALTER TABLE crdt_state.%I ADD COLUMN IF NOT EXISTS alive boolean,'
                       ' ADD COLUMN IF NOT EXISTS row_dots int8[]', name);
    END LOOP;
END
$do$;

-- The dots that an operation of origin, with a context (by node id; NULL covers everything), has not seen; and its own at
-- hlc, unless that is NULL. Genesis (node 0) is seen by everybody.
CREATE FUNCTION crdt_state.dots_after(dots int8[], origin int8, context int8[], hlc int8) RETURNS int8[]
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
AS $$
DECLARE
    kept int8[] := CASE WHEN hlc IS NULL THEN '{}' ELSE ARRAY[origin, hlc] END;
BEGIN
    IF context IS NOT NULL THEN
        FOR i IN 1 .. coalesce(array_length(dots, 1), 0) BY 2 LOOP
            IF dots[i] <> origin AND dots[i + 1] > coalesce(context[dots[i]], 0) THEN
                kept := kept || dots[i : i + 1];
            END IF;
        END LOOP;
    END IF;
    RETURN kept;
END
$$;

-- {node,hlc,...} of everything that a write at (origin, hlc) had seen, itself included.
CREATE FUNCTION crdt_state.seen_by(origin int8, hlc int8, context int8[]) RETURNS int8[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT array_agg(p.e ORDER BY s.n, p.o)
    FROM (
        SELECT c.n, c.h FROM unnest(context) WITH ORDINALITY AS c (h, n) WHERE c.h > 0 AND c.n <> origin
        UNION ALL SELECT origin, hlc
    ) AS s, LATERAL (VALUES (1, s.n), (2, s.h)) AS p (o, e)
$$;
