import math

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sslcut.yamltext import read, scalar, write

TRICKY = [
    "", " ", "1e-3", "1.e3", "no", "on", "null", "~", "0o17", "0x1F", "010", "1_000", "12:30", "2024-01-01", ".inf",
    "=", "<<", "- a", "a: b", "a #b", "'", '"', "\n", "a\n\n b\n", "\t", "é", "日本", "🙂", "\x85", "\u2028", "\x07",
    "\ufeff", "!!int 3", "*a", "&a", "{", "%", "@", "true", "Yes", "x" * 300,
]  # fmt: skip

plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
trees = st.recursive(
    plain | st.sampled_from(TRICKY), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=12
)


def problem(text):
    """The one thing that is wrong with a text."""
    (found,) = read(text, "r.yaml").problems
    return f"{found.place}: {found.what}"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *((text, None) for text in ("", "~", "null", "Null", "NULL")),
        *((text, True) for text in ("true", "True", "TRUE")),
        *(
            (text, text)
            for text in ("no", "yes", "on", "off", "y", "nULL", "12:30", "1_000", "0b1", "2024-01-01", "=", "<<")
        ),
        *(("1e-3", 1e-3), ("1.0e-3", 1e-3), ("-.5", -0.5), ("1.", 1.0), ("+1E5", 1e5)),
        *(("0o17", 15), ("0x1F", 31), ("010", 10), ("-7", -7), ("+7", 7), ("0o18", "0o18"), ("-0o7", "-0o7")),
        *((".inf", math.inf), ("-.INF", -math.inf), ("1e400", math.inf), ("٣", "٣"), ("1 2", "1 2"), (".", ".")),
    ],
)
def test_a_plain_scalar_means_what_yaml_1_2_says(text, value):
    assert scalar(text) == value
    assert type(scalar(text)) is type(value)


def test_not_a_number_is_a_float():
    assert math.isnan(scalar(".nan"))


def test_quotes_and_blocks_make_strings():
    assert read("{a: '1', b: \"no\", c: ~}", "r").data == {"a": "1", "b": "no", "c": None}
    assert read("a: |\n  1\nb: >\n  null\n", "r").data == {"a": "1\n", "b": "null\n"}


@settings(deadline=None)
@given(trees)
@example({text: text for text in TRICKY})
@example([1e22, 1e-7, 5e-324, 0.1, -0.0, 10**30])
def test_what_is_written_reads_back_as_the_same(data):
    found = read(write(data), "r.yaml")
    assert found.problems == ()
    assert found.data == data
    assert repr(found.data) == repr(data)


def assert_read_or_refused(text):
    """The text is read without a word, or every problem says where it is and what is wrong."""
    problems = read(text, "r.yaml").problems
    assert all(problem.place.source == "r.yaml" and problem.what for problem in problems)


@settings(deadline=None)
@given(st.text())
def test_no_text_brings_the_reader_down(text):
    assert_read_or_refused(text)


@settings(deadline=None)
@given(st.text(alphabet="ab:-[]{},&*!#|>%@`'\"?~ \n\t", max_size=40))
def test_nothing_that_looks_like_yaml_brings_the_reader_down(text):
    assert_read_or_refused(text)


def test_every_key_and_item_has_its_line():
    found = read("a: 1\nb:\n  c: [x,\n    y]\n", "r.yaml")
    lines = {keys: place.line for keys, place in found.places.items() if keys}
    assert lines == {("a",): 1, ("b",): 2, ("b", "c"): 3, ("b", "c", 0): 3, ("b", "c", 1): 4}


def test_a_place_that_is_not_written_is_that_of_its_nearest_parent():
    assert str(read("a:\n  b: 1\n", "r.yaml").place(("a", "b", "c", 3))) == "r.yaml:2"


def test_an_alias_stands_for_its_value():
    assert read("a: &x {b: 1}\nc: [*x, *x]\n", "r").data == {"a": {"b": 1}, "c": [{"b": 1}, {"b": 1}]}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: 1\na: 2\n", "r.yaml:2: holds the key `a` a second time"),
        ("a: 1\nb: !!int 2\n", "r.yaml:2: holds the tag `!!int`"),
        ("a: !!str 2\n", "r.yaml:1: holds the tag `!!str`"),
        ("a: !!python/object:os.system x\n", "r.yaml:1: holds the tag `!!python/object:os.system`"),
        ("a: 1\nb: *c\n", "r.yaml:2: holds the alias `*c`, which names nothing"),
        ("a: &a\n  b: *a\n", "r.yaml:2: holds the alias `*a` inside what it names"),
        ("? [a]\n: 1\n", "r.yaml:1: holds a key that is not a word"),
        ("a: 1\n---\na: 2\n", "r.yaml:2: holds a second document"),
        ("a: " + "[" * 100_000, "r.yaml:1: holds values nested more than 40 deep"),
    ],
)
def test_what_no_recipe_needs_is_refused(text, expected):
    assert problem(text) == expected


def test_an_alias_bomb_is_refused_before_it_goes_off():
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 30)]
    assert "more than 20000 values" in problem("\n".join(lines))


def test_a_tab_is_named_with_its_line_and_the_way_out():
    (found,) = read("a:\n\tb: 1\n", "r.yaml").problems
    assert str(found.place) == "r.yaml:2"
    assert found.hint == "indent with spaces: YAML takes no tabs"


@pytest.mark.parametrize("text", ["a: b: c", "[1, 2", "a: 'x", "%", "a: @b", "\x00", "a: \x1b", "\udcff"])
def test_what_is_not_yaml_is_said_so(text):
    found = read(text, "r.yaml")
    assert found.data is None
    assert len(found.problems) == 1
