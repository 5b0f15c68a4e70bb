"""Annotations in DDL files: whose a comment is, under every layout people write, and what is refused where."""

from __future__ import annotations

import textwrap

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.core.ddl import CommentStatement, read_annotations, render
from sidecar.errors import AnnotationError


def found(sql: str) -> dict[str, str]:
    """``schema.table.column`` -> comment."""
    statements = read_annotations(textwrap.dedent(sql))
    names = [".".join(p for p in (s.schema, s.table, s.column) if p is not None) for s in statements]
    assert len(set(names)) == len(names)
    return dict(zip(names, (s.comment for s in statements), strict=True))


def refused(sql: str) -> AnnotationError:
    with pytest.raises(AnnotationError) as caught:
        read_annotations(textwrap.dedent(sql), file="schema.sql")
    assert "\n" not in caught.value.line()
    return caught.value


PN = "@crdt(pn_counter)"
G = "@crdt(g_counter)"

LAYOUTS = {
    "behind the comma": """
        CREATE TABLE posts (
            id uuid PRIMARY KEY,
            likes bigint, -- @crdt(pn_counter)
            title text
        );""",
    "before the comma": """
        CREATE TABLE posts (
            id uuid PRIMARY KEY,
            likes bigint -- @crdt(pn_counter)
            ,
            title text
        );""",
    "last column, no comma": """
        CREATE TABLE posts (
            id uuid PRIMARY KEY,
            title text,
            likes bigint -- @crdt(pn_counter)
        );""",
    "last column, parenthesis on the same line": """
        CREATE TABLE posts (id uuid PRIMARY KEY,
            title text,
            likes bigint /* @crdt(pn_counter) */);""",
    "followed by a constraint": """
        CREATE TABLE posts (
            id uuid,
            likes bigint, -- @crdt(pn_counter)
            PRIMARY KEY (id),
            CHECK (likes > 0)
        );""",
    "first column": """
        CREATE TABLE posts (
            likes bigint, -- @crdt(pn_counter)
            id uuid PRIMARY KEY
        );""",
    "on the line above": """
        CREATE TABLE posts (
            id uuid PRIMARY KEY,
            -- @crdt(pn_counter)
            likes bigint,
            title text
        );""",
    "above the first column": """
        CREATE TABLE posts (
            -- @crdt(pn_counter)
            likes bigint,
            id uuid PRIMARY KEY
        );""",
    "on the line below the last column": """
        CREATE TABLE posts (
            id uuid PRIMARY KEY,
            likes bigint
            -- @crdt(pn_counter)
        );""",
    "leading commas": """
        CREATE TABLE posts (
              id uuid PRIMARY KEY -- the key
            , likes bigint -- @crdt(pn_counter)
            , title text
        );""",
    "leading commas, line above": """
        CREATE TABLE posts (
              id uuid PRIMARY KEY
            -- @crdt(pn_counter)
            , likes bigint
            , title text
        );""",
    "behind a leading comma": """
        CREATE TABLE posts (
              id uuid PRIMARY KEY
            , -- @crdt(pn_counter)
              likes bigint
            , title text
        );""",
    "block comment inside the column": """
        CREATE TABLE posts (id uuid PRIMARY KEY, likes /* @crdt(pn_counter) */ bigint, title text);""",
    "block comment in front of the column": """
        CREATE TABLE posts (id uuid PRIMARY KEY, /* @crdt(pn_counter) */ likes bigint, title text);""",
    "block comment in front of the first column": """
        CREATE TABLE posts (/* @crdt(pn_counter) */ likes bigint, title text);""",
    "block comment at the beginning of the line": """
        CREATE TABLE posts (
            id uuid PRIMARY KEY,
            /* @crdt(pn_counter) */ likes bigint,
            title text
        );""",
    "block comment behind the comma": """
        CREATE TABLE posts (
            id uuid PRIMARY KEY,
            likes bigint, /* @crdt(pn_counter) */
            title text
        );""",
    "block comment over several lines": """
        CREATE TABLE posts (
            id uuid PRIMARY KEY,
            /*
             * @crdt(pn_counter)
             */
            likes bigint
        );""",
    "aligned below a trailing comment": """
        CREATE TABLE posts (
            id uuid PRIMARY KEY,
            likes bigint, -- as counted
                          -- by the reader
                          -- @crdt(pn_counter)
            title text
        );""",
    "aligned with tabs": """
        CREATE TABLE posts (
        \tid uuid PRIMARY KEY,
        \tlikes bigint,\t-- as counted
        \t\t\t-- @crdt(pn_counter)
        \ttitle text
        );""",
    "definition over several lines": """
        CREATE TABLE posts (
            id uuid PRIMARY KEY,
            likes bigint
                DEFAULT 0
                CHECK (likes > 0), -- @crdt(pn_counter)
            title text
        );""",
    "in the middle of a definition": """
        CREATE TABLE posts (
            id uuid PRIMARY KEY,
            likes bigint
                -- @crdt(pn_counter)
                DEFAULT 0,
            title text
        );""",
    "type with commas and a string with --": """
        CREATE TABLE posts (
            id uuid PRIMARY KEY,
            likes numeric(10, 2) DEFAULT coalesce(1, length('-- @crdt(g_counter), it''s')), -- @crdt(pn_counter)
            title text DEFAULT '/* @crdt(g_counter)'
        );""",
    "several columns on the line": """
        CREATE TABLE posts (
            id uuid PRIMARY KEY, likes bigint, -- @crdt(pn_counter)
            title text
        );""",
    "other comments all around": """
        -- posts of users -- and more
        CREATE TABLE posts ( -- begins
            id uuid PRIMARY KEY, -- the key
            -- this is
            likes bigint, -- likes: @crdt(pn_counter)
            /* title */ title text -- 'quoted
            -- done
        ); -- end""",
    "no semicolon": "CREATE TABLE posts (id uuid,\nlikes bigint -- @crdt(pn_counter)\n)",
    "windows line ends": "CREATE TABLE posts (\r\n  likes bigint, -- @crdt(pn_counter)\r\n  t text\r\n);\r\n",
    "byte order mark": "\ufeffCREATE TABLE posts (\n  likes bigint, -- @crdt(pn_counter)\n  t text\n);\n",
    "no spaces": "create table posts(id uuid,likes bigint,--@crdt(pn_counter)\ntitle text);",
    "type of many words": """
        CREATE TABLE posts (
            likes bigint, -- @crdt(pn_counter)
            at timestamp with time zone, d double precision, c character varying(3)
        );""",
    "add column": "ALTER TABLE posts ADD COLUMN likes bigint DEFAULT 0; -- @crdt(pn_counter)",
    "above add column": "-- @crdt(pn_counter)\nALTER TABLE IF EXISTS ONLY posts ADD IF NOT EXISTS likes bigint;",
    "add several columns": """
        ALTER TABLE posts
            ADD title text, -- the title
            ADD COLUMN likes numeric(10, 2), -- @crdt(pn_counter)
            ADD CONSTRAINT positive CHECK (likes > 0);""",
    "alter column": "ALTER TABLE posts ALTER COLUMN likes TYPE bigint; -- @crdt(pn_counter)",
}


@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_column_layout(layout: str) -> None:
    comments = found(LAYOUTS[layout])
    assert list(comments) == ["posts.likes"]
    assert comments["posts.likes"] in (PN, f"likes: {PN}")


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE TABLE posts ( -- @crdt\n id uuid, likes bigint\n);",
        "CREATE TABLE posts -- @crdt\n( id uuid, likes bigint\n);",
        "CREATE TABLE posts /* @crdt */ ( id uuid, likes bigint\n);",
        "CREATE /* @crdt */ TABLE posts ( id uuid, likes bigint\n);",
        "-- @crdt\nCREATE TABLE posts (id uuid);",
        "-- @crdt\n-- The posts.\nCREATE TABLE IF NOT EXISTS posts (id uuid);",
        "select 1; -- one\n-- The posts.\n-- @crdt\nCREATE TABLE posts (id uuid);",
        "select 1; /* @crdt */ CREATE TABLE posts (id uuid);",
        "/*\n * @crdt\n */\nCREATE UNLOGGED TABLE posts (id uuid);",
        "CREATE TABLE posts (\n id uuid\n); -- @crdt",
        "CREATE TABLE posts (\n id uuid\n) -- @crdt\n;",
        "CREATE TABLE posts (\n id uuid\n)\n-- @crdt\n;",
        "CREATE TABLE posts (\n id uuid\n) WITH (fillfactor = 50) -- @crdt\n",
        "CREATE TABLE posts AS -- @crdt\nSELECT (1), 2;",
        "CREATE TABLE posts PARTITION OF parent (id DEFAULT 3) -- @crdt\nFOR VALUES FROM (1) TO (2);",
        "-- @crdt\nALTER TABLE posts OWNER TO me;",
    ],
)
def test_table_layout(sql: str) -> None:
    assert found(sql) == {"posts": "@crdt"}


@pytest.mark.parametrize(
    ("name", "rendered"),
    [
        ("posts", '"posts"'),
        ("POSTS", '"posts"'),
        ('"Posts"', '"Posts"'),
        ('public."Po""sts"', '"public"."Po""sts"'),
        ('"my.app" . posts', '"my.app"."posts"'),
        ("app.public.posts", '"public"."posts"'),
        ("größe$1_x", '"größe$1_x"'),
    ],
)
def test_names(name: str, rendered: str) -> None:
    sql = f'CREATE TABLE {name} ( -- @crdt\n "a -- b, (c" int, -- @crdt(pn_counter)\n Likes int -- @crdt(g_counter)\n);'
    assert render(read_annotations(sql)) == (
        f"COMMENT ON TABLE {rendered} IS '@crdt';\n"
        f"COMMENT ON COLUMN {rendered}.\"a -- b, (c\" IS '@crdt(pn_counter)';\n"
        f"COMMENT ON COLUMN {rendered}.\"likes\" IS '@crdt(g_counter)';\n"
    )


@pytest.mark.parametrize("name", ["exclude", "key", "date", "cluster", "rename", "show", "value", "text", "position"])
def test_columns_named_like_keywords(name: str) -> None:
    assert found(f"CREATE TABLE t (\n a int,\n {name} bigint, -- @crdt(pn_counter)\n b int);") == {f"t.{name}": PN}


def test_human_text_and_quotes_are_kept() -> None:
    sql = """
        CREATE TABLE posts (
            likes bigint, -- The post's likes. @crdt(pn_counter)
            /* Number
             * of views.
             * @crdt(g_counter) */
            views bigint
        );"""
    statements = read_annotations(textwrap.dedent(sql))
    assert [s.words for s in statements] == ["pn_counter", "g_counter"]
    assert [s.line for s in statements] == [3, 6]
    assert statements[0].sql() == """COMMENT ON COLUMN "posts"."likes" IS 'The post''s likes. @crdt(pn_counter)';"""
    assert statements[1].comment == "Number\nof views.\n@crdt(g_counter)"


def test_comment_on_statements() -> None:
    sql = r"""
        CREATE TABLE public.posts (id uuid, likes bigint, views bigint, shares bigint, title text);
        COMMENT ON TABLE public.posts IS 'Posts. @crdt(row=lww)';
        COMMENT ON COLUMN public.posts.likes IS 'It''s likes. @crdt(pn_counter)';
        COMMENT ON COLUMN public."posts".views IS $c$Views @crdt(g_counter)$c$;
        comment on column public.posts.shares is 'Shares '
            '@crdt(pn_counter)';
        COMMENT ON COLUMN public.posts.title IS 'The title';
        COMMENT ON COLUMN public.posts.id IS E'The\nkey @crdt';
        COMMENT ON FUNCTION f(int) IS '@crdt(no)';
        COMMENT ON COLUMN public.posts.likes IS NULL;
        COMMENT ON COLUMN public.posts.likes IS 'Likes @crdt(pn_counter)';
        """
    assert found(sql) == {
        "public.posts": "Posts. @crdt(row=lww)",
        "public.posts.views": f"Views {G}",
        "public.posts.shares": f"Shares {PN}",
        "public.posts.id": "The\nkey @crdt",
        "public.posts.likes": f"Likes {PN}",
    }


def test_sql_comment_joins_the_human_text_of_comment_on() -> None:
    sql = """
        CREATE TABLE posts ( -- @crdt
            likes bigint, -- counted: @crdt(pn_counter)
            views bigint, -- counted: @crdt(g_counter)
            shares bigint -- counted: @crdt(g_counter)
        );
        COMMENT ON TABLE posts IS 'The posts';
        COMMENT ON COLUMN posts.likes IS 'Number of likes';
        COMMENT ON COLUMN posts.views IS 'Views. @crdt(g_counter) Yes.';
        COMMENT ON COLUMN posts.shares IS NULL;
        """
    assert found(sql) == {
        "posts": "The posts @crdt",
        "posts.likes": f"Number of likes {PN}",
        "posts.views": f"Views. {G} Yes.",
        "posts.shares": f"counted: {G}",
    }


def test_rendered_statements_read_back_the_same() -> None:
    statements = read_annotations(
        LAYOUTS["other comments all around"] + "\nCREATE TABLE \"a'b\" ( -- it's @crdt\n x int);"
    )
    again = read_annotations(render(statements))
    assert [(s.schema, s.table, s.column, s.comment, s.words) for s in again] == [
        (s.schema, s.table, s.column, s.comment, s.words) for s in statements
    ]


def test_unrelated_statements_are_passed_over() -> None:
    sql = r"""
        \restrict it's
        \set x 'unclosed
        SET search_path = '';
        CREATE EXTENSION IF NOT EXISTS "pgcrypto" WITH SCHEMA public;
        CREATE TYPE mood AS ENUM ('sad -- @crdt', 'ok');
        CREATE FUNCTION f(a int[]) RETURNS trigger LANGUAGE plpgsql AS $body$
        BEGIN -- @crdt(nonsense)
            IF a <@ '{1}' THEN PERFORM 1; END IF; -- it's
            CREATE TABLE inner_one (x int -- @crdt(g_counter)
            );
            RETURN $$ nested $$;
        END $body$;
        CREATE FUNCTION g() RETURNS int BEGIN ATOMIC SELECT 1; SELECT 2; END;
        FETCH NEXT FROM c; SHOW work_mem;
        CREATE POLICY p ON posts USING (a #>> '{b}' ~* 'c' AND d !~~ 'e' OR f ^@ 'g' AND h @? '$.i');
        GRANT SELECT (a, b), UPDATE ON posts TO me; -- mail dba@crdt.org
        COPY public.posts (id, likes) FROM stdin;
        it's	5 -- @crdt(pn_counter)
        $a$	6
        \.
        CREATE INDEX CONCURRENTLY ON posts (lower(title) varchar_pattern_ops) WHERE x IS NOT DISTINCT FROM 'y';
        CREATE TABLE posts (id uuid, likes bigint /* a /* nested */ one */, -- @crdt(pn_counter)
            EXCLUDE USING gist (id WITH =));
        SELECT pg_catalog.setval('public.x', 1, false), E'a\'b -- @crdt', U&'d\0061t', 'C:\';
        \unrestrict it's
        """
    assert found(sql) == {"posts.likes": PN}


def test_nothing_annotated() -> None:
    assert read_annotations("") == []
    assert read_annotations("-- nothing here\n") == []
    assert read_annotations("CREATE TABLE t (a int); -- mail ops@crdt.org") == []
    assert render([]) == ""


@pytest.mark.parametrize(
    ("sql", "where", "message"),
    [
        ("CREATE TABLE posts (\n  likes bigint, -- @crdt(pn_conter)\n  x int);", "2:26", "unknown annotation"),
        ("CREATE TABLE posts (\n  likes bigint -- x @crdt(pn_counter\n);", "2:26", "not closed"),
        ("CREATE TABLE posts (\n  a int, -- @crdt(pn_counter) @crdt\n  x int);", "2:31", "more than one"),
        ("CREATE TABLE posts (a int, -- @crdt(merge)\n x int);", "1:37", "needs an argument"),
        ("-- @crdt(pn_counter)\nCREATE TABLE posts (a int);", "1:10", "is for a column"),
        ("CREATE TABLE posts (\n a int, -- @crdt(row=lww)\n b int);", "2:18", "is for a table"),
        ("CREATE TABLE posts (\n a int,\n PRIMARY KEY (a) -- @crdt\n);", "3:21", "constraint of table posts"),
        ("CREATE TABLE posts (\n a int,\n LIKE b, -- @crdt\n c int);", "3:13", "constraint of table posts"),
        ("-- @crdt\n\nCREATE TABLE posts (a int);", "1:4", "belongs to no table"),
        ("-- @crdt\nCREATE INDEX ON posts (a);", "1:4", "belongs to no table"),
        ("select 1; -- @crdt", "1:14", "belongs to no table"),
        ("-- only @crdt", "1:9", "belongs to no table"),
        ("CREATE TABLE t (a int);\n-- @crdt", "2:4", "belongs to no table"),
        ("CREATE TABLE t (a int -- @crdt(pn_counter)\n);\nALTER TABLE t ALTER a DROP DEFAULT; -- @crdt(g_counter)",
         "3:40", "t.a has another annotation on line 1"),
        ("CREATE TABLE t (a int -- @crdt(pn_counter)\n);\nCOMMENT ON COLUMN t.a IS 'it''s @crdt(g_counter)';",
         "3:33", "t.a has another annotation on line 1"),
        ("COMMENT ON COLUMN t.a IS 'it''s @crdt(pn_conter)';", "1:39", "unknown annotation"),
        ("COMMENT ON TABLE t IS\n  $$it's @crdt(row=lvw)$$;", "2:20", "unknown row rule"),
        ("SELECT 1;\nSELECT 'it", "2:8", "never closed"),
        ("SELECT 1;\nSELECT $x$ it $y$", "2:8", "never closed"),
        ("SELECT 1;\nSELECT \"it", "2:8", "never closed"),
        ("SELECT 1;\n  /* it", "2:3", "never closed"),
    ],
)  # fmt: skip
def test_refused_with_the_place(sql: str, where: str, message: str) -> None:
    error = refused(sql)
    assert error.message.startswith(f"schema.sql:{where}: ")
    assert message in error.message
    assert error.mend
    line, column = map(int, where.split(":"))
    assert sql[: error.position].count("\n") + 1 == line
    assert error.position - sql.rfind("\n", 0, error.position) == column


# A table in a random layout: the columns are known, so is what each comment must do.

NAMES = ["likes", '"a, b"', "Views", '"--"', "c$1"]
TYPES = [
    "bigint",
    "numeric(10, 2)",
    "bigint DEFAULT length('--, it''s /*')",
    "bigint\n        NOT NULL",
    "int CHECK (1 > 0)",
]
WORDS = [None, "pn_counter", "g_counter", "lww_register", ""]


@st.composite
def tables(draw: st.DrawFn) -> tuple[str, list[tuple[str, str]]]:
    """A CREATE TABLE text and the (column, words) it annotates, in order."""
    names = draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=5, unique=True))
    leading = draw(st.booleans())
    text = draw(st.sampled_from(["", "-- head\n", "SELECT 1; -- x\n"])) + "CREATE TABLE t ("
    text += draw(st.sampled_from(["\n", " -- opened\n", " /* opened */\n"]))
    expected = []
    for i, name in enumerate(names):
        words = draw(st.sampled_from(WORDS))
        human = draw(st.sampled_from(["", "it's, ", "(x) "]))
        note = None if words is None else human + (f"@crdt({words})" if words else "@crdt")
        if words is not None:
            expected.append((name.strip('"') if name.startswith('"') else name.lower(), words))
        above, first, trailing = _placed(note, draw(st.sampled_from(["above", "first", "trailing"])))
        if draw(st.booleans()):
            above = "    -- about it\n" + above
        style = draw(st.sampled_from(["-- {}", "/* {} */"]))
        comma = "," if i < len(names) - 1 and not leading else ""
        begin = "  , " if leading and i else "    "
        end = f" {style.format(trailing)}" if trailing else ""
        text += f"{above}{begin}{first}{name} {draw(st.sampled_from(TYPES))}{comma}{end}\n"
    constraint = draw(st.sampled_from(["", "  , CHECK (1 > 0) -- fine\n"]))
    return text + constraint + ");\n", expected


def _placed(note: str | None, place: str) -> tuple[str, str, str]:
    if note is None:
        return "", "", ""
    return {
        "above": (f"    -- {note}\n", "", ""),
        "first": ("", f"/* {note} */ ", ""),
        "trailing": ("", "", note),
    }[place]


@settings(max_examples=300)
@given(tables())
def test_random_layouts(table: tuple[str, list[tuple[str, str]]]) -> None:
    sql, expected = table
    assert [(s.column, s.words) for s in read_annotations(sql)] == expected


FRAGMENTS = [*"(),;'\"-/*\n ", "$$", "CREATE TABLE", "t", "a", "int", "--", "@crdt", "ALTER TABLE", "ADD"]
FRAGMENTS += ["COMMENT ON COLUMN", "t.a", "IS", "'x'", "\\", "COPY t FROM stdin;"]


@settings(max_examples=300)
@given(st.lists(st.sampled_from(FRAGMENTS), max_size=30))
def test_any_text_is_read_or_refused_with_a_place(parts: list[str]) -> None:
    sql = " ".join(parts)
    error = _refusal(sql)
    assert error is None or (error.message.startswith("schema.sql:") and 0 <= error.position <= len(sql))


def _refusal(sql: str) -> AnnotationError | None:
    try:
        statements = read_annotations(sql)
    except AnnotationError as error:
        return error
    assert all(isinstance(statement, CommentStatement) for statement in statements)
    return None
