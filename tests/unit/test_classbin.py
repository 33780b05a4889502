"""ClassBin: its paths, its records, and the one rule for running again."""

import contextlib
import json
from pathlib import Path

import pytest

from apbc_common import ApbcError, __version__, classbin
from apbc_common.classbin import ClassBin, Run

OPTIONS = {"size": 64, "seed": 0, "share": 0.2, "kinds": ("a", "b")}


def error(function, *args):
    with pytest.raises(ApbcError) as caught:
        function(*args)
    return str(caught.value)


@pytest.mark.parametrize(
    "out, folder, grid, picks",
    [
        (None, "ClassBin", "ClassBin/grid", "ClassBin/picks"),
        ("External/job010", *["External/job010"] * 3),
    ],
)
def test_paths(tmp_path, out, folder, grid, picks):
    paths = ClassBin(tmp_path, tmp_path / out if out else None)
    expected = {
        paths.windows("train", "good"): f"{folder}/train/good",
        paths.dataset: f"{folder}/dataset.json",
        paths.model: f"{folder}/model.h5",
        classbin.model_record(paths.model): f"{folder}/model.json",
        paths.training_log: f"{folder}/training_log.txt",
        paths.testing_results: f"{folder}/testing_results.txt",
        paths.training_picture: f"{folder}/train_and_test_results.png",
        paths.grid_file("Movies/a.b"): f"{grid}/Movies/a.b_grid.star",
        paths.grid_list: f"{grid}/grid.star",
        paths.grid_suffix: f"{grid}/coords_suffix_grid.star",
        paths.picks_file("Movies/a.b"): f"{picks}/Movies/a.b_autopick.star",
        paths.candidates_file("Movies/a.b"): f"{picks}/.candidates/Movies/a.b.star",
        paths.picks_list: f"{picks}/autopick.star",
        paths.picks_suffix: f"{picks}/coords_suffix_autopick.star",
        paths.all_picks("candidates"): f"{picks}/candidates.star",
        paths.picks_record: f"{picks}/run_gen_picks.json",
        paths.samples("train"): f"{folder}/train.star",
        paths.particles("true"): f"{folder}/particles_true.star",
        paths.picture("Movies/a.b", "true"): f"{folder}/pngs/Movies/a.b_true.png",
        paths.record("gen_data"): f"{folder}/run_gen_data.json",
    }
    assert {str(path.relative_to(tmp_path)) for path in expected} == set(expected.values())
    assert all(path == tmp_path / name for path, name in expected.items())


def test_the_name_of_a_picture_says_where_it_is_from_and_is_one_window_s():
    names = {
        ClassBin.picture_name(part, kind, stem, number, derived)
        for part in classbin.PARTS
        for kind, derived in (("good", ""), ("bad", ""), ("bad", "empty"), ("bad", "beside"))
        for stem in ("Movies__a", "a_000001_bad", "x.1")
        for number in (1, 1234567)
    }
    assert len(names) == 2 * 4 * 3 * 2
    assert "test/bad/x.1_1234567_bad_empty.png" in names


@pytest.mark.parametrize(
    "content, message",
    [
        (None, "not there; run gen_data.py first"),
        (b"", "damaged; remove it and run gen_data.py again"),
        (b'{"a": 1', "damaged; remove it and run gen_data.py again"),
        (b'"\xff"', "damaged; remove it and run gen_data.py again"),
    ],
)
def test_read_json_refuses(tmp_path, content, message):
    path = tmp_path / "dataset.json"
    if content is not None:
        path.write_bytes(content)
    assert error(classbin.read_json, path, "gen_data.py") == f"{path}: {message}"


@pytest.mark.parametrize("content", ["[]", "{}", '{"window_px": 64}', "3"])
def test_a_record_without_what_it_must_hold_is_damaged(tmp_path, content):
    for name, read in (
        ("dataset.json", classbin.read_dataset_record),
        ("model.json", lambda path: classbin.read_model_record(path.with_suffix(".h5"))),
    ):
        (tmp_path / name).write_text(content)
        with pytest.raises(ApbcError, match=f"{name}: damaged"):
            read(tmp_path / name)


def test_json_written_and_read(tmp_path):
    path = tmp_path / "new" / "a.json"
    classbin.write_json(path, {"name": "Ångström", "list": [1, 2.5, None]})
    assert "Ångström" in path.read_text(encoding="utf-8")
    assert classbin.read_json(path, "") == {"name": "Ångström", "list": [1, 2.5, None]}


class Script:
    """A script that writes two files and a record, as the real ones do."""

    def __init__(self, folder):
        self.folder = folder
        self.good, self.bad = folder / "good.star", folder / "bad.star"
        self.good.write_text("good")
        self.bad.write_text("bad")
        self.record = folder / "bin" / "run_x.json"
        self.outputs = [folder / "bin" / name for name in ("sub/deep/one.txt", "two.txt")]

    def run(self, options=OPTIONS, clear=False, outputs=None, recut=None, **inputs):
        inputs = {"good": self.good, "bad": self.bad, **inputs}
        return Run(self.record, self.folder, inputs, options, clear, recut=recut)

    def write(self, finish=True, outputs=None, folders=(), fail=None, **kwargs):
        """Do what is missing; return the names of the files written."""
        outputs = outputs or self.outputs
        run = self.run(**kwargs)
        if run.finished(outputs):
            return None
        with run.writing(outputs, folders):
            missing = [path for path in outputs if not path.exists()]
            for path in missing:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text("made")
            if fail:
                raise fail
            if finish:
                run.finish({"files": len(outputs)})
        return [path.name for path in missing]

    def there(self):
        return sorted(
            str(path.relative_to(self.folder)) for path in self.folder.rglob("*") if path.is_file()
        )


@pytest.fixture
def script(tmp_path):
    return Script(tmp_path)


def test_the_record_of_a_run(script):
    script.write(finish=False)
    record = json.loads(script.record.read_text())
    assert (record["state"], record["counts"]) == ("unfinished", {})
    script.write()
    record = json.loads(script.record.read_text())
    assert (record["script"], record["version"]) == ("x", __version__)
    assert (record["state"], record["counts"]) == ("finished", {"files": 2})
    assert record["options"] == {**OPTIONS, "kinds": ["a", "b"]}
    assert record["outputs"] == ["sub/deep/one.txt", "two.txt"]
    assert record["inputs"]["good"]["path"] == "good.star"
    assert record["written"].endswith("+00:00") and record["seconds"] >= 0


def test_the_same_again_does_nothing(script):
    assert script.write() == ["one.txt", "two.txt"]
    before = script.record.read_bytes()
    assert script.write() is None
    assert script.record.read_bytes() == before


def test_what_is_missing_is_done_and_the_rest_kept(script):
    script.write(finish=False)
    script.outputs[0].write_text("kept")
    assert script.write() == []
    script.outputs[1].unlink()
    assert script.write() == ["two.txt"]
    assert script.outputs[0].read_text() == "kept"


def test_a_longer_list_goes_on(script):
    script.write()
    more = [*script.outputs, script.folder / "bin" / "three.txt"]
    assert script.write(outputs=more) == ["three.txt"]
    assert json.loads(script.record.read_text())["outputs"][-1] == "three.txt"


@pytest.mark.parametrize("unused", [None, False])
def test_an_option_of_a_later_version_that_is_not_in_use_changes_nothing(script, unused):
    script.write(options=OPTIONS)
    assert script.write(options={**OPTIONS, "later": unused}) is None


def test_the_same_content_under_another_path_is_the_same(script):
    script.write()
    copy = script.folder / "copy.star"
    copy.write_text("good")
    assert script.write(good=copy) is None


def different(script, what):
    return (
        f"{script.record}: an earlier run had {what}; "
        "-c clears what it wrote and starts anew, --o DIR writes elsewhere"
    )


@pytest.mark.parametrize("finish", [True, False])
@pytest.mark.parametrize(
    "options, difference",
    [
        ({**OPTIONS, "size": 48}, "size 64, this one has 48"),
        ({**OPTIONS, "more": "x"}, "more none given, this one has x"),
        ({"size": 64, "seed": 0, "share": 0.2}, "kinds ['a', 'b'], this one has none given"),
    ],
)
def test_other_options_are_refused(script, finish, options, difference):
    script.write(finish)
    before = script.there(), script.record.read_bytes()
    assert error(script.run, options) == different(script, difference)
    assert (script.there(), script.record.read_bytes()) == before


def test_another_input_is_refused(script):
    script.write()
    with pytest.raises(ApbcError) as caught:
        script.run(good=script.bad)
    assert str(caught.value) == different(script, "good good.star, this one has bad.star")
    with pytest.raises(ApbcError) as caught:
        script.run(bad=None)
    assert str(caught.value) == different(script, "bad bad.star, this one has none")
    with pytest.raises(ApbcError) as caught:
        script.run(more=script.bad)
    assert str(caught.value) == different(script, "more none, this one has bad.star")


def test_another_content_is_refused(script):
    script.write()
    script.good.write_text("other")
    assert error(script.run) == different(script, "another content of good.star")


def test_clear_removes_what_is_in_the_record_and_nothing_else(script):
    script.write()
    for name in ("bin/mine.txt", "bin/sub/mine.txt"):
        (script.folder / name).write_text("mine")
    other = [script.folder / "bin" / "other.txt"]
    assert script.write(options={"size": 48}, clear=True, outputs=other) == ["other.txt"]
    mine = ["bin/mine.txt", "bin/other.txt", "bin/run_x.json", "bin/sub/mine.txt"]
    assert script.there() == ["bad.star", *mine, "good.star"]
    assert not (script.folder / "bin/sub/deep").exists()


@pytest.mark.parametrize("way, left", [("clear", [False, False]), ("recut", [True, False])])
def test_until_files_have_gone_the_record_is_of_the_run_that_wrote_them(
    script, monkeypatch, way, left
):
    old, new = {**OPTIONS, "threshold": 0.2}, {**OPTIONS, "threshold": 0.3}
    script.write(options=old)

    def stopped(*_, **__):
        raise KeyboardInterrupt

    for stop in (True, False):
        run = script.run(new, **{way: True})
        assert run.was["threshold"] == 0.2 and not run.finished(script.outputs)
        with monkeypatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
            if stop:
                patch.setattr(Path, "unlink", stopped)
            with run.writing(script.outputs, is_cut=lambda name: name == "two.txt"):
                assert not stop
                assert [path.exists() for path in script.outputs] == left
        record = json.loads(script.record.read_text())
        assert record["state"] == "unfinished" and record["options"]["threshold"] == (
            0.2 if stop else 0.3
        )


@pytest.mark.parametrize("recut, more, what", [
    (None, {}, "threshold 0.2, this one has 0.3; -c"),
    (False, {}, "threshold 0.2, this one has 0.3; --recut cuts its picks anew, -c"),
    (False, {"size": 48}, "size 64, this one has 48; threshold 0.2, this one has 0.3; -c"),
    (True, {"size": 48}, "size 64, this one has 48; -c"),
])  # fmt: skip
def test_no_other_options_than_those_of_the_cut_may_differ(script, recut, more, what):
    script.write(options={**OPTIONS, "threshold": 0.2})
    with pytest.raises(ApbcError) as caught:
        script.run({**OPTIONS, "threshold": 0.3, **more}, recut=recut)
    assert str(caught.value) == (
        f"{script.record}: an earlier run had {what} clears what it wrote and starts anew, "
        "--o DIR writes elsewhere"
    )


def test_clear_waits_until_the_writing_begins(script):
    script.write()
    before = script.there()
    assert not script.run({"size": 48}, clear=True).finished(script.outputs)
    assert script.there() == before


def test_clear_of_nothing_is_no_fault(script):
    assert script.write(clear=True) == ["one.txt", "two.txt"]


def test_a_foreign_file_is_refused(script):
    foreign = script.outputs[1]
    foreign.parent.mkdir(parents=True)
    foreign.write_text("mine")
    assert error(script.write) == (
        f"{foreign}: already there, and not written by the run in run_x.json; "
        "move it away, or use --o DIR to write elsewhere"
    )
    assert script.there() == ["bad.star", "bin/two.txt", "good.star"]


@pytest.mark.parametrize("clear", [True, False])
def test_a_foreign_file_in_a_folder_is_refused_and_nothing_cleared(script, clear):
    script.write()
    foreign = script.folder / "bin/sub/deep/mine.txt"
    foreign.write_text("mine")
    before = script.there()
    three = [*script.outputs, script.folder / "bin/three.txt"]
    with pytest.raises(ApbcError, match="mine.txt: already there"):
        script.write(outputs=three, clear=clear, folders=[foreign.parent])
    assert script.there() == before


def test_a_run_that_another_has_overtaken_is_refused(script):
    late = script.run({"size": 48})
    script.write()
    before = script.there()
    with pytest.raises(ApbcError, match="another run has just written it"):
        with late.writing([script.folder / "bin/late.txt"]):
            raise AssertionError("the block must not run")
    assert script.there() == before


@pytest.mark.parametrize("fault", [ApbcError("NaN"), OSError("full")])
def test_a_failed_run_takes_back_what_it_wrote(script, fault):
    with pytest.raises(type(fault)):
        script.write(fail=fault)
    assert [path.name for path in sorted(script.folder.iterdir())] == ["bad.star", "good.star"]


def test_a_failed_run_keeps_what_an_earlier_one_wrote(script):
    script.write()
    before = script.there(), script.record.read_bytes()
    with pytest.raises(OSError):
        script.write(outputs=[*script.outputs, script.folder / "bin/3.txt"], fail=OSError("full"))
    assert script.there() == before[0]
    record = json.loads(script.record.read_text())
    assert record["outputs"] == ["sub/deep/one.txt", "two.txt"] and record["state"] == "finished"


def test_a_run_that_goes_on_keeps_what_it_has_when_it_fails(script):
    run = script.run()
    with pytest.raises(ApbcError), run.writing(script.outputs, keep=True):
        script.outputs[1].write_text("made")
        raise ApbcError("too many")
    assert script.there() == ["bad.star", "bin/run_x.json", "bin/two.txt", "good.star"]
    assert json.loads(script.record.read_text())["state"] == "unfinished"
    assert script.write() == ["one.txt"]


def test_a_growing_list_is_no_other_input(script):
    def run(text, options=OPTIONS):
        script.good.write_text(text)
        inputs, growing = {"bad": script.bad}, {"list": script.good}
        return Run(script.record, script.folder, inputs, options, growing=growing)

    def write(text, names):
        outputs = [script.folder / "bin" / name for name in names]
        current = run(text)
        assert not current.finished(outputs)
        with current.writing(outputs, keep=True):
            for path in outputs:
                path.write_text("made")
            current.finish({})
        return outputs

    one = write("1", ["a"])
    assert run("1").finished(one)
    assert json.loads(script.record.read_text())["growing"]["list"]["path"] == "good.star"
    two = write("1 2", ["a", "b"])
    assert run("1 2").finished(two)
    assert json.loads(script.record.read_text())["outputs"] == ["a", "b"]
    assert not run("1").finished(one)  # the lists of all must be written anew
    assert error(run, "1 2 3", {**OPTIONS, "size": 48}) == different(
        script, "size 64, this one has 48"
    )


def test_an_interrupted_run_leaves_what_it_has(script):
    with pytest.raises(KeyboardInterrupt):
        script.write(fail=KeyboardInterrupt())
    assert script.write() == []
    assert json.loads(script.record.read_text())["state"] == "finished"


@pytest.mark.parametrize("clear", [True, False])
@pytest.mark.parametrize(
    "content, message",
    [
        ("{", "damaged; move it away with what the run wrote, or use --o DIR"),
        ("{}", "damaged; move it away with what the run wrote, or use --o DIR"),
        ("[1]", "damaged; move it away with what the run wrote, or use --o DIR"),
        (
            '{"inputs": {}, "options": {}, "outputs": null, "state": "finished"}',
            "not the record of a run; move it away with what the run wrote, or use --o DIR",
        ),
    ],
)
def test_a_damaged_record_is_refused(script, clear, content, message):
    script.record.parent.mkdir()
    script.record.write_text(content)
    assert error(script.run, OPTIONS, clear) == f"{script.record}: {message}"
    assert script.record.read_text() == content
