-- The sample application of compose.yaml: plain tables, annotated in their comments.
CREATE TABLE profiles (
    id    uuid PRIMARY KEY DEFAULT uuidv7(),
    name  text NOT NULL,
    email text
);
COMMENT ON TABLE profiles IS '@crdt';

CREATE TABLE posts (
    id    uuid PRIMARY KEY DEFAULT uuidv7(),
    title text NOT NULL,
    likes bigint NOT NULL DEFAULT 0
);
COMMENT ON COLUMN posts.likes IS 'Number of likes. @crdt(pn_counter)';

CREATE TABLE stock (
    item      text PRIMARY KEY,
    available integer NOT NULL DEFAULT 0
);
COMMENT ON COLUMN stock.available IS 'Pieces in stock. @crdt(pn_counter)';
