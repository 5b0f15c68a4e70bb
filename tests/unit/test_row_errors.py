"""Which errors are about a row, and what is said of those that are not."""

from __future__ import annotations

import asyncpg
import pytest

from sidecar.postgres.row_errors import is_row_error, waiting_line


def error_of(sqlstate: str, message: str = "no", context: str | None = None) -> asyncpg.PostgresError:
    fields = {"S": "ERROR", "C": sqlstate, "M": message}
    return asyncpg.PostgresError.new(fields if context is None else {**fields, "W": context})  # type: ignore[no-any-return]


@pytest.mark.parametrize("sqlstate", ["22003", "23505", "P0001", "45000", "LIM01", "20000", "38001"])
def test_errors_of_a_row(sqlstate: str) -> None:
    assert is_row_error(error_of(sqlstate))


@pytest.mark.parametrize("sqlstate", ["40001", "55P03", "57014", "57P01", "42P01", "42501", "53100", "08006", "XX000"])
def test_errors_of_something_else(sqlstate: str) -> None:
    assert not is_row_error(error_of(sqlstate))


def test_a_function_that_finds_nothing_is_told_with_its_mend() -> None:
    context = "PL/pgSQL function public.ok(integer) line 1 at RETURN\nSQL statement"
    line = waiting_line(error_of("42P01", 'relation "lim" does not exist', context))
    assert 'relation "lim" does not exist (SQLSTATE 42P01), in PL/pgSQL function public.ok(integer)' in line
    assert "ALTER FUNCTION ... SET search_path" in line
    assert waiting_line(error_of("42P01", "x")) == "the merge waits: x (SQLSTATE 42P01)"
