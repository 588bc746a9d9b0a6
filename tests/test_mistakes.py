from pathlib import Path

import pytest

from workers.errors import DataError
from workers.mistakes import MAX_SHOWN, Mistakes

FILE = Path("/data/hearts.csv")


def test_the_same_mistake_in_many_rows_is_one_line_and_each_row_counts():
    mistakes = Mistakes(name="heart", file=FILE)
    for row in (1, 4, 7):
        mistakes.add("one of F, M", "'1'", row=row, column="sex", here="sexe")
    mistakes.add("one of F, M", "'0'", row=9, column="sex", here="sexe")
    assert [str(mistake) for mistake in mistakes.first] == [
        f"{FILE}, row 1, column sex (sexe here): expected one of F, M, found '1', and so in 2 more rows",
        f"{FILE}, row 9, column sex (sexe here): expected one of F, M, found '0'",
    ]
    assert mistakes.total == 4


def test_mistakes_of_no_row_or_of_another_file_are_apart():
    mistakes = Mistakes(name=None, file=FILE)
    mistakes.add("a column of that name", column="sex")
    mistakes.add("a number", "'x'", row=1, column="age")
    mistakes.add("a number", "'x'", row=1, column="age", file=Path("/data/other.csv"))
    assert [mistake.others for mistake in mistakes.first] == [0, 0, 0]


def test_the_first_kinds_are_kept_and_all_are_counted():
    mistakes = Mistakes(name="heart", file=FILE)
    for row in range(1, 101):
        mistakes.add("a number", f"'{row}x'", row=row, column="age")
    assert (len(mistakes.first), mistakes.total) == (MAX_SHOWN, 100)
    with pytest.raises(DataError) as raised:
        mistakes.refuse()
    assert str(raised.value).startswith("data set heart: row 1, column age: expected a number (and 99 more)")
    assert "1x" not in str(raised.value)
