from cli import sslcut, tiny
from PIL import Image

from sslcut.fingerprint import data_fingerprint


def images(folder, shades):
    for name, shade in shades.items():
        for i in range(12):
            path = folder / name / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (16, 16), (shade, 20 * i, 0)).save(path)
    return folder


def test_a_copy_elsewhere_has_the_same_fingerprint_and_another_file_changes_it(tmp_path):
    a, b = (images(tmp_path / name / "images", {"x": 0, "y": 200}) for name in "ab")
    assert data_fingerprint({"root": str(a)}) == data_fingerprint({"root": str(b)})
    (b / "x" / "0.png").rename(b / "y" / "new.png")
    assert data_fingerprint({"root": str(a)}) != data_fingerprint({"root": str(b)})
    assert data_fingerprint({"root": None}) == data_fingerprint({}) == ""


def test_a_folder_that_links_to_itself_ends(tmp_path):
    folder = images(tmp_path / "images", {"x": 0})
    (folder / "x" / "again").symlink_to(folder)
    assert len(data_fingerprint({"root": str(folder)})) == 64


def test_pictures_added_to_a_folder_are_not_taken_for_work_done_already(tmp_path):
    images(tmp_path / "images", {"x": 0, "y": 200})
    sets = tiny("data.size=16", "data.train=null", "data.test=null", "train.epochs=0")
    command = ["pretrain", "folder", "--data", "images", *sets, "-o", "out"]
    assert sslcut(*command, cwd=tmp_path).returncode == 0
    assert "done already" in sslcut(*command, cwd=tmp_path).stderr
    images(tmp_path / "images", {"z": 100})
    changed = sslcut(*command, cwd=tmp_path)
    assert changed.returncode == 2 and "from other data" in changed.stderr
