import pytest
import torch
from PIL import Image
from work import done

from sslcut.data.opening import open_dataset
from sslcut.errors import InputError


@pytest.fixture
def table(tmp_path):
    """Writes a CSV beside 24 pictures `0.png` …, and opens it."""
    for row in range(24):
        Image.new("RGB", (8, 8), (row, 0, 0)).save(tmp_path / f"{row}.png")

    def opened(*lines, **options):
        (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
        return done(open_dataset("table", {"root": str(tmp_path), "size": 4, **options}, seed=0))

    return opened


def rows(*columns, count=24):
    """Lines of a table: file names, then what each function of the row number gives."""
    return [",".join([f"{row}.png", *(str(column(row)) for column in columns)]) for row in range(count)]


def test_every_other_column_is_a_task_of_the_kind_its_cells_say(table):
    tasks = table(
        "file,kind,age,grade", *rows(lambda r: "ab"[r % 2], lambda r: r / 2, lambda r: 10 - r % 3)
    ).train.tasks
    assert {name: task.kind for name, task in tasks.items()} == {"kind": "class", "age": "number", "grade": "class"}
    assert tasks["kind"].classes == ("a", "b") and tasks["grade"].classes == ("8", "9", "10")
    assert torch.equal(tasks["age"].values, torch.arange(24) / 2)


def test_kinds_overrule_what_the_cells_say(table):
    kinds = {"grade": "number", "heading": "angle"}
    tasks = table("file,grade,heading", *rows(lambda r: r % 2, lambda r: 90), kinds=kinds).train.tasks
    assert tasks["grade"].values.tolist() == [0.0, 1.0] * 12
    assert torch.allclose(tasks["heading"].values, torch.tensor([1.0, 0.0]), atol=1e-6)


def test_empty_cells_are_unlabelled(table):
    lines = rows(lambda r: "" if r == 3 else "ab"[r % 2], lambda r: "" if r == 4 else r)
    tasks = table("file,kind,age", *lines).train.tasks
    assert tasks["kind"].values[3] == -1 and (tasks["kind"].values >= 0).sum() == 23
    assert tasks["age"].values[4].isnan() and not tasks["age"].values[5].isnan()


def test_a_split_column_divides_and_validation_counts_as_training(table):
    lines = rows(lambda r: "ab"[r % 2], lambda r: ("train", "val", "Test")[r % 3])
    dataset = table("file,kind,part", *lines, split="part")
    assert (len(dataset.train), len(dataset.test)) == (16, 8)
    assert list(dataset.train.tasks) == ["kind"]
    assert dataset.test.read(torch.tensor([0]))[0, 0, 0, 0] == 2


def test_groups_come_along_and_a_held_out_test_split_respects_them(table):
    dataset = table("file,kind,patient", *rows(lambda r: "ab"[r % 2], lambda r: f"p{r // 4}"), group="patient", test=8)
    assert not set(dataset.train.group.tolist()) & set(dataset.test.group.tolist())
    assert len(dataset.train) + len(dataset.test) == 24


def test_a_group_on_both_sides_of_the_split_is_named_with_its_line(table):
    lines = rows(lambda r: "ab"[r % 2], lambda r: f"p{r // 4}", lambda r: "train" if r < 14 else "test")
    with pytest.raises(InputError, match=r"labels\.csv:16: patient `p3` is on both sides"):
        table("file,kind,patient,part", *lines, group="patient", split="part")


def test_a_row_without_a_group_is_named(table):
    with pytest.raises(InputError, match=r"labels\.csv:7: no `patient`"):
        table("file,kind,patient", *rows(lambda r: "ab"[r % 2], lambda r: "" if r == 5 else "p"), group="patient")


def test_a_missing_image_is_named_with_its_line_or_left_out_when_told_to(table):
    lines = [*rows(lambda r: "ab"[r % 2]), "gone.png,a"]
    with pytest.raises(InputError, match=r"labels\.csv:26: no image gone\.png"):
        table("file,kind", *lines)
    dataset = table("file,kind", *lines, skip_bad=True)
    assert len(dataset.train) == 24 and "gone.png" in dataset.warnings[0]


def test_a_small_class_is_named_with_its_task_or_unlabelled_when_told_to(table):
    lines = rows(lambda r: "rare" if r == 0 else "ab"[r % 2], lambda r: "xy"[r % 2])
    with pytest.raises(InputError, match="kind `rare` has 1 of the 5"):
        table("file,kind,other", *lines)
    dataset = table("file,kind,other", *lines, skip_small=True)
    assert len(dataset.train) == 24 and dataset.train.tasks["kind"].values[0] == -1
    assert dataset.train.tasks["kind"].classes == ("a", "b") and dataset.train.tasks["other"].values[0] == 0


def test_a_mistyped_column_is_answered_with_the_nearest(table):
    for option in ({"group": "patiant"}, {"image": "patiant"}, {"tasks": ["patiant"]}, {"kinds": {"patiant": "class"}}):
        with pytest.raises(InputError, match="no column `patiant`") as told:
            table("file,kind,patient", *rows(lambda r: "ab"[r % 2], lambda r: r % 5), **option)
        assert "did you mean `patient`" in told.value.faults[0].hint


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (["file,kind"], "has no rows"),
        (["file,kind", "0.png"], r"labels\.csv:2: 1 cells under 2 columns"),
        (["file,kind,kind", "0.png,a,b"], r"labels\.csv:1: two columns are called `kind`"),
    ],
)
def test_a_broken_table_says_where(table, lines, told):
    with pytest.raises(InputError, match=told):
        table(*lines)


def test_a_word_in_a_column_of_numbers_is_named_with_its_line(table):
    with pytest.raises(InputError, match=r"labels\.csv:9: `old` in column `age` is not a number"):
        table("file,age", *rows(lambda r: "old" if r == 7 else r), kinds={"age": "number"})


def test_a_missing_table_is_named(tmp_path):
    with pytest.raises(InputError, match=r"cannot read .*labels\.csv"):
        done(open_dataset("table", {"root": str(tmp_path)}, seed=0))
