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
    views  bigint NOT NULL DEFAULT 0
);
COMMENT ON TABLE posts IS 'Posts with counters that every region raises. @crdt';
COMMENT ON COLUMN posts.likes IS 'Likes, also taken back. @crdt(pn_counter)';
COMMENT ON COLUMN posts.views IS 'Views, which only grow. @crdt(g_counter)';

CREATE TABLE stock (
    sku      text PRIMARY KEY,
    price    numeric(10, 2) NOT NULL,
    quantity integer NOT NULL
);
COMMENT ON TABLE stock IS 'Goods, sold and restocked in all regions. @crdt';
COMMENT ON COLUMN stock.quantity IS 'Pieces on hand. @crdt(pn_counter)';

CREATE TABLE beats (
    region text PRIMARY KEY,
    beat   bigint NOT NULL
);
COMMENT ON TABLE beats IS 'One row per region, raised several times a second: when do the others see it? @crdt';
