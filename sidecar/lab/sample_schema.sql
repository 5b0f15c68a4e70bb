-- The sample application of `sidecar demo`: plain tables. The comments are all that replication needs to know.
-- crdt.uuidv7() is there after `sidecar init`; it makes keys that never collide and sort by time.

CREATE TABLE profiles (
    id     uuid PRIMARY KEY DEFAULT crdt.uuidv7(),
    handle text NOT NULL,
    name   text NOT NULL,
    city   text NOT NULL,
    motto  text NOT NULL DEFAULT ''
);
COMMENT ON TABLE profiles IS 'People; each column is a last-writer-wins register. @crdt';

CREATE TABLE posts (
    id     uuid PRIMARY KEY DEFAULT crdt.uuidv7(),
    region text NOT NULL,
    title  text NOT NULL,
    likes  bigint NOT NULL DEFAULT 0,
    views  bigint NOT NULL DEFAULT 0,
    tags   text[] NOT NULL DEFAULT '{}'
);
COMMENT ON TABLE posts IS 'Posts with counters that every region raises. @crdt';
COMMENT ON COLUMN posts.likes IS 'Likes, also taken back. @crdt(pn_counter)';
COMMENT ON COLUMN posts.views IS 'Views, which only grow. @crdt(g_counter)';
COMMENT ON COLUMN posts.tags IS 'Tags from everywhere. @crdt(or_set)';

CREATE TABLE stock (
    sku      text PRIMARY KEY,
    price    numeric(10, 2) NOT NULL,
    quantity integer NOT NULL
);
COMMENT ON TABLE stock IS 'Goods, sold and restocked in all regions. @crdt';
COMMENT ON COLUMN stock.quantity IS 'Pieces on hand. @crdt(pn_counter)';

-- Of carts that two regions filled at the same time: every item of both, the larger quantity of each.
CREATE FUNCTION merge_carts(winner jsonb, other jsonb) RETURNS jsonb IMMUTABLE LANGUAGE sql AS $$
    SELECT coalesce(jsonb_object_agg(k.item, greatest((winner -> k.item)::int, (other -> k.item)::int)), '{}')
    FROM (SELECT jsonb_object_keys(winner) UNION SELECT jsonb_object_keys(other)) AS k (item)
$$;

CREATE TABLE carts (
    customer text PRIMARY KEY,
    items    jsonb NOT NULL DEFAULT '{}'
);
COMMENT ON TABLE carts IS 'Shopping carts: item to quantity. @crdt';
COMMENT ON COLUMN carts.items IS 'Merged by a function of the application. @crdt(merge(public.merge_carts))';

CREATE TABLE beats (
    region text PRIMARY KEY,
    beat   bigint NOT NULL
);
COMMENT ON TABLE beats IS 'One row per region, raised several times a second: when do the others see it? @crdt';
