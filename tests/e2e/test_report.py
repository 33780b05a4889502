"""show_picks.py --report: what stands on the page, and what one can do with it in a browser."""

import base64
import io
import itertools
import json
import re
import shutil

import markupsafe
import numpy as np
import pytest
from conftest import APIX, Project, micrographs_star
from PIL import Image

from apbc_common import classbin, mrc, relion, star, tally

SIZE = 320
NAMES = [f"Micrographs/m{i}.mrc" for i in range(5)]
ODD = """Micrographs/a"<b>&'</script>.mrc"""
DIAMETER = 120.0


def make_run(folder, names=NAMES, count=30, threshold=0.4, calibrated=True, seed=0, **options):
    """Write micrographs, and what a run of direct picking and a training leave, without either."""
    rng, project = np.random.default_rng(seed), Project(folder)
    (folder / "listed").mkdir(parents=True)
    star_file, text = "listed/some mics.star", micrographs_star(names)
    for number in range(len(names)):
        text = text.replace(" 15000.0", f" {10000 + number}.0", 1)
    (folder / star_file).write_text(text)
    bins = classbin.ClassBin(folder)
    for name in names:
        mrc.write(folder / name, rng.normal(size=(SIZE, SIZE)).astype(np.float32), APIX)
        xy = rng.uniform(10, SIZE - 10, (count, 2)).round(2)
        score = np.sort(rng.uniform(0.01, 1, count).round(4))[::-1]
        relion.write_coordinates(bins.candidates_file(relion.rest(name)), xy, score)
        kept = score >= threshold
        relion.write_coordinates(bins.picks_file(relion.rest(name)), xy[kept], score[kept])
    done = {name: bins.picks_file(relion.rest(name)) for name in names}
    relion.gather_coordinates(bins.all_picks("picks"), done.items())
    record = {
        "script": "gen_picks", "version": "1.0.0", "state": "finished", "seconds": 5.5,
        "written": "2026-01-02T03:04:05+00:00", "counts": {"micrographs": len(names)},
        "inputs": {"model": {"path": "ClassBin/model.h5", "sha256": ""}},
        "growing": {"list": {"path": star_file, "sha256": ""}},
        "options": {"threshold": threshold, "min_distance": 60.0, "max_picks": None, **options},
        "outputs": ["picks.star"],
    }  # fmt: skip
    classbin.write_json(bins.picks_record, record)
    counts = {part: dict.fromkeys(classbin.KINDS, 1) for part in classbin.PARTS}
    dataset = {
        "window_px": 64, "image_px": 96, "window_angst": 180.0, "box_angst": 240.0,
        "diameter_angst": DIAMETER, "counts": counts, "source": "micrograph", "contrast": 1,
        "good": "Select/good.star", "bad": "bad <i>.star",
        "files": {name: [0, 0] for name in names},
        "micrographs": {name: {"apix": APIX, "part": "test"} for name in names},
    }  # fmt: skip
    expected = {"from": [0.5], "picks": [3], "false": [0.1]}
    line = {"slope": 1.0, "offset": 0.0, "missed": 0.05, "false": 0.06, "expected": expected}
    model = {"options": {"seed": 0, "members": 1}, "threshold": threshold, "sha256": ""}
    model |= {"dataset": dataset, "calibration": line if calibrated else None}
    classbin.write_json(folder / "ClassBin/model.json", model)
    tested = [(40, 1, 0.1), (60, 1, 0.2), (80, 0, 0.9), (99, 0, 0.2), (99, 1, 0.8)]
    rows = [
        {"file": f"{x}.0,50.0@{names[0]}", "label": label, "probability": p, "prediction": p > 0.5}
        for x, label, p in tested
    ]
    classbin.write_json(folder / "ClassBin/testing_results.txt", rows)
    Image.new("L", (20, 10)).save(folder / "ClassBin/train_and_test_results.png")
    return project


def report(project, *args, code=0):
    assert project.call("show_picks", "--report", *args) == code
    return (project / "ClassBin/report.html").read_text() if not code else ""


def data_of(page):
    return json.loads(re.search(r'id="data">(.*?)</script>', page, re.S)[1])


def scores_of(project):
    """The scores of all candidates of the run, by micrograph."""
    bins = classbin.ClassBin(project.path)
    files = sorted((bins.picks_dir / ".candidates").rglob("*.star"))
    return {path.stem: relion.read_coordinates(path) for path in files}


def test_the_page_needs_nothing_else(tmp_path, capsys):
    page = report(make_run(tmp_path))
    assert re.search(
        r"5 of 5 micrographs shown, [\d.]+ MB -> .*ClassBin/report.html", capsys.readouterr().out
    )
    links = re.findall(r'(?:src|href|action)="([^"]*)"', page)
    assert links and all(link.startswith(("data:", "#")) for link in links)
    assert re.findall(r"\w+://[\w./]*", page) == ["http://www.w3.org/2000/svg"]
    assert "default-src 'none'" in page


def test_the_candidates_are_those_of_the_files(tmp_path):
    project = make_run(tmp_path)
    data = data_of(report(project))
    for one in data["micrographs"]:
        xy, score = scores_of(project)[one["name"].split("/")[1].removesuffix(".mrc")]
        assert one["score"] == score.tolist()
        assert np.array([one["x"], one["y"]]).T.tolist() == xy.tolist()
        assert (one["width"], one["height"], one["diameter"]) == (SIZE, SIZE, DIAMETER / APIX)
    assert data["command"] == "gen_picks.py -i 'listed/some mics.star' --threshold {} --recut"


def test_micrographs_are_shown_as_they_lie(tmp_path):
    """A dark spot at x, y is dark at x, y of the page's picture, and in the middle of its box."""
    project = make_run(tmp_path, NAMES[:1])
    (x, y), *_ = scores_of(project)["m0"][0].tolist()
    picture = np.random.default_rng(1).normal(size=(SIZE, SIZE))
    rows, columns = np.mgrid[:SIZE, :SIZE]
    picture -= 8 * (np.hypot(columns - x, rows - y) < 8)
    mrc.write(project / NAMES[0], picture.astype(np.float32), APIX)
    page = report(project)
    image = decoded(re.search(r'<image href="(.*?)"', page)[1])
    at = np.array(image.shape[::-1]) / SIZE * (x, y)
    assert patch(image, *at).mean() < image.mean() - 60
    best = decoded(
        re.search(r"The best.*?alt=\"Score.*?", page, re.S) and gallery(page, "The best")[0]
    )
    assert patch(best, 32, 32).mean() < image.mean() - 60


def decoded(uri):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))).astype(int)


def patch(image, x, y, reach=2):
    x, y = round(float(x)), round(float(y))
    return image[max(0, y - reach) : y + reach + 1, max(0, x - reach) : x + reach + 1]


def gallery(page, title):
    """The pictures of a gallery but for the average."""
    part = page.split(f"<h3>{title}</h3>")[1].split("<h3>")[0].split("</section>")[0]
    return re.findall(r'<img src="(data:[^"]*)" alt="Score', part)


def test_mistakes_are_shown_with_their_places(tmp_path):
    page = report(make_run(tmp_path))
    for title, files in (
        ("Good ones taken for bad", [f"40.0,50.0@{NAMES[0]}", f"60.0,50.0@{NAMES[0]}"]),
        ("Bad ones taken for good", [f"80.0,50.0@{NAMES[0]}"]),
    ):
        part = page.split(f"<h3>{title}</h3>")[1].split("<h3>")[0].split("</section>")[0]
        assert re.findall(r'<img src="data:image/jpeg[^"]*" alt="([^"]*)"', part) == files
    assert "accuracy 0.400" in page


@pytest.mark.parametrize("made", ["training", "calibration", "picture", "model.json"])
def test_what_is_not_there_any_longer_is_said(tmp_path, made):
    project = make_run(tmp_path, calibrated=made != "calibration")
    gone = {"training": "testing_results.txt", "picture": "train_and_test_results.png"}.get(
        made, made
    )
    if made != "calibration":
        (project / "ClassBin" / gone).unlink()
        assert f"Not there any longer: {gone}, of" in report(project)
    else:
        assert data_of(report(project))["calibrated"] is False


def test_a_missing_micrograph_is_a_grey_tile(tmp_path, capsys):
    project = make_run(tmp_path)
    (project / NAMES[2]).unlink()
    page = report(project)
    assert page.count('class="missing"') == 2 and page.count("<image href") == 4
    assert f"{NAMES[2]}: No such file or directory" in page
    assert "a grey tile stands for it" in capsys.readouterr().err


def test_names_are_escaped(tmp_path):
    page = report(make_run(tmp_path, [ODD, *NAMES[:2]]))
    assert ODD not in page and markupsafe.escape(ODD) in page
    assert page.count("</script>") == 2  # ours
    names = [one["name"] for one in data_of(page)["micrographs"]]
    assert names == [ODD, *NAMES[:2]]
    assert "bad &lt;i&gt;.star" in page and "bad <i>.star" not in page


def test_one_micrograph_without_a_candidate(tmp_path):
    page = report(make_run(tmp_path, NAMES[:1], count=0))
    assert "0 picks on 1 micrographs" in page.replace("\n", "") and "no candidates on these" in page
    assert "; 1 without" in page


def test_a_model_taught_anew_is_said(tmp_path):
    project = make_run(tmp_path)
    assert "trained anew" not in report(project)
    model = json.loads((project / "ClassBin/model.json").read_text())
    classbin.write_json(project / "ClassBin/model.json", {**model, "sha256": "another"})
    page = report(project)
    assert "The model was trained anew since" in page
    assert data_of(page)["command"] == "gen_picks.py -i 'listed/some mics.star' -c"


def test_a_run_that_has_not_ended_is_told_of(tmp_path, capsys):
    project = make_run(tmp_path)
    (project / "ClassBin/picks/picks.star").unlink()
    record = json.loads((project / "ClassBin/picks/run_gen_picks.json").read_text())
    record |= {"state": "unfinished", "counts": {}}
    classbin.write_json(project / "ClassBin/picks/run_gen_picks.json", record)
    assert "The run has not ended yet" in report(project)
    assert "5 of 5 micrographs shown" in capsys.readouterr().out


def test_the_lines_that_teach_corrections_are_those_of_the_records(taught):
    assert taught.call("gen_picks", "-i", taught.micrographs) == 0
    page = report(taught)
    lines = re.search(r"<pre><code>(.*?)</code></pre>", page, re.S)[1].splitlines()
    assert lines[:3] == [
        f"gen_data.py -g {taught.good} -b {taught.bad} -m {taught.micrographs} --from-micrographs "
        "--corrections corrections.star -c",
        "gen_model.py --continue",
        f"gen_picks.py -i {taught.micrographs} -c",
    ]


@pytest.mark.parametrize("threshold", [0.001, 1.0])
def test_all_or_no_candidates_are_picks(tmp_path, threshold):
    project = make_run(tmp_path, threshold=threshold)
    data = data_of(report(project))
    level = data["levels"]["at"].index(threshold)
    assert data["levels"]["picks"][level] == (5 * 30 if threshold < 0.5 else 0)


def test_many_micrographs_are_sampled_and_that_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(tally, "MOST", 3)
    monkeypatch.setattr("apbc_common.report.MICROGRAPHS", 2)
    page = report(make_run(tmp_path))
    assert "on 5 micrographs, 3 of which this page tells of, spread over defocus" in page
    assert "2 of 3 that differ most" in page
    assert data_of(page)["read"] == 3


def test_no_more_picks_count_than_the_run_may_have(tmp_path):
    data = data_of(report(make_run(tmp_path, max_picks=4)))
    assert {len(one["score"]) for one in data["micrographs"]} == {4}


def test_what_was_compared_is_counted(tmp_path):
    project = make_run(tmp_path)
    record = json.loads((project / "ClassBin/picks/run_gen_picks.json").read_text())
    record["growing"]["compare"] = {"path": "AutoPick/job006/autopick.star", "sha256": ""}
    classbin.write_json(project / "ClassBin/picks/run_gen_picks.json", record)
    rows = [(name, str(i), "2", "10") for i, name in enumerate(NAMES)]
    labels = [relion.MICROGRAPH, "apbcKept", "apbcNew", "apbcDropped"]
    star.write_rows(project / "ClassBin/picks/compared.star", "compared", labels, rows)
    page = re.sub(r"\s+", " ", report(project))
    assert (
        "AutoPick/job006/autopick.star</code>: 10 picks were kept, 10 are new, 50 were dropped"
        in page
    )


def test_drawn_micrographs_have_a_link(tmp_path):
    name = "Micrographs/m#1%.mrc"
    project = make_run(tmp_path, [name, *NAMES[:2]])
    picture = classbin.ClassBin(project.path).picture(relion.rest(name), "picks")
    picture.parent.mkdir(parents=True)
    picture.touch()
    page = report(project)
    assert re.findall(r'<a href="(pngs/.*?)">(.*?)</a>', page) == [
        ("pngs/Micrographs/m%231%25_picks.png", name)
    ]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda picks: shutil.rmtree(picks), "pick with gen_picks.py first"),
        (lambda picks: shutil.rmtree(picks / ".candidates"), "no micrograph was picked yet"),
        (lambda picks: (picks / "run_gen_picks.json").unlink(), "not of a run of gen_picks.py"),
        (
            lambda picks: shutil.rmtree(picks / "../../listed"),
            "list of micrographs that were picked",
        ),
        (lambda picks: unscored(picks), "no column rlnAutopickFigureOfMerit; pick again"),
    ],
)
def test_without_a_run_there_is_no_report(tmp_path, capsys, spoil, message):
    project = make_run(tmp_path)
    spoil(project / "ClassBin/picks")
    report(project, code=1)
    assert message in capsys.readouterr().err
    assert not (project / "ClassBin/report.html").exists()


def unscored(picks):
    path = picks / ".candidates/Micrographs/m3.star"
    path.write_text(path.read_text().replace("rlnAutopickFigureOfMerit", "rlnOther"))


@pytest.fixture
def seen(browser, tmp_path):
    """Open a page, moved away from all files; fail on whatever the browser complains of."""
    said, pages = [], []

    def open_page(project, width=1400):
        page = browser.new_page(viewport={"width": width, "height": 900})
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(shutil.copy(project / "ClassBin/report.html", tmp_path / "moved.html").as_uri())
        pages.append(page)
        return page

    yield open_page
    for page in pages:
        page.close()
    assert not said


def circles(page):
    """How many circles each micrograph shows."""
    return page.evaluate(
        "() => { const seen = (e) => getComputedStyle(e).display !== 'none';"
        " return [...document.querySelectorAll('.picks')].map("
        "(picks) => seen(picks) ? [...picks.children].filter(seen).length : 0); }"
    )


def slide(page, level):
    page.locator("#threshold").evaluate(
        "(e, v) => { e.value = v; e.dispatchEvent(new Event('input')); }", str(level)
    )


def test_the_slider_shows_what_python_counts(tmp_path, seen):
    project = make_run(tmp_path, [ODD, *NAMES])
    at = data_of(report(project))["levels"]["at"]
    page = seen(project)
    scores = [score for _, score in scores_of(project).values()]
    assert page.locator("#at").inner_text() == "0.4"
    for level in (0, 17, 39, 40, 77, len(at) - 1):
        slide(page, level)
        wanted = sorted(int((score >= at[level]).sum()) for score in scores)
        assert sorted(circles(page)) == wanted
        said, picked = page.locator("#said").inner_text(), np.concatenate(scores)
        picked = picked[picked >= at[level]]
        false = f"expected false: {100 * (1 - picked.mean()):.1f} %" if len(picked) else "none"
        assert said.startswith(f"{sum(wanted)} picks on 6 micrographs,") and false in said
        assert f"--threshold {at[level]} --recut" in page.locator("#command").inner_text()
    page.locator("#reset").click()
    assert page.locator("#at").inner_text() == "0.4"


def test_keys_turn_the_micrographs_and_zoom(tmp_path, seen):
    project = make_run(tmp_path)
    report(project)
    page = seen(project)

    def name():
        return page.locator(".micrograph.current .name").inner_text()

    first = name()
    page.keyboard.press("n")
    assert name() == NAMES[1] != first
    page.keyboard.press("p")
    page.keyboard.press("p")
    assert name() == NAMES[-1]
    box = "document.querySelector('.micrograph.current svg').getAttribute('viewBox')"
    assert page.evaluate(box) == f"0 0 {SIZE} {SIZE}"
    page.keyboard.press("+")
    x, y, w, h = map(float, page.evaluate(box).split())
    assert (w, h) == pytest.approx((SIZE / 1.5,) * 2) and (x, y) == pytest.approx((SIZE / 6,) * 2)
    page.keyboard.press("0")
    assert page.evaluate(box) == f"0 0 {SIZE} {SIZE}"
    assert sum(circles(page)) > 0
    page.keyboard.press("h")
    assert sum(circles(page)) == 0


def test_corrections_come_out_as_a_list(tmp_path, seen):
    project = make_run(tmp_path, [ODD, *NAMES[:2]], count=6)
    report(project)
    page = seen(project)
    xy, score = scores_of(project)["m0"]
    page.select_option("#which", "1")
    wrong = xy[0]  # the best
    free = next(
        (x, y)
        for x in range(20, SIZE, 10)
        for y in range(20, SIZE, 10)
        if np.hypot(*(xy - (x, y)).T).min() > DIAMETER / APIX
    )
    click(page, wrong)
    assert page.locator("#save").is_disabled()  # not correcting
    page.keyboard.press("c")
    click(page, wrong)
    click(page, free)
    hidden = xy[score < 0.4]
    apart = [
        place for place in hidden if np.hypot(*(xy[score >= 0.4] - place).T).min() > DIAMETER / APIX
    ]
    assert apart
    click(page, apart[0] + 3)  # taken for the candidate that is there
    with page.expect_download() as download:
        page.locator("#save").click()
    path = tmp_path / "corrections.star"
    download.value.save_as(path)
    block = relion.table(path, "apbcKind", "correction")
    rows = block.read().to_numpy().tolist()
    assert [row[0] for row in rows] == [NAMES[0]] * 3
    assert [row[3] for row in rows] == ["bad", "good", "good"]
    places = block.numbers(relion.X, relion.Y)
    assert places[0].tolist() == wrong.tolist() and places[2].tolist() == apart[0].tolist()
    assert places[1] == pytest.approx(free, abs=0.5)
    click(page, wrong)  # takes it back
    assert page.locator("#corrected").inner_text() == "2 particles, 0 that are none."


def click(page, at):
    """Click at a place of the current micrograph, in its pixels."""
    x, y = page.evaluate(
        "([x, y]) => { const svg = document.querySelector('.micrograph.current svg');"
        " svg.scrollIntoView({block: 'center'});"
        " const p = new DOMPoint(x, y).matrixTransform(svg.getScreenCTM()); return [p.x, p.y]; }",
        [float(n) for n in at],
    )
    page.mouse.click(x, y)


def test_boxes_are_told_by_keys(tmp_path, seen):
    project = make_run(tmp_path, [ODD, *NAMES[:1]], count=8)
    data = data_of(report(project))
    page = seen(project)
    box = page.locator(".box").first
    m, i = (int(box.get_attribute(f"data-{name}")) for name in ("micrograph", "pick"))
    scores = np.concatenate([one["score"] for one in data["micrographs"]])
    odds = np.abs(np.log(scores / (1 - scores)) - np.log(0.4 / 0.6))
    assert data["micrographs"][m]["score"][i] == scores[odds.argmin()]
    box.focus()
    page.keyboard.press("b")  # and the next has the focus
    page.keyboard.press("g")
    assert page.locator("#corrected").inner_text() == "1 particles, 1 that are none."
    assert box.get_attribute("aria-label").endswith("none")
    with page.expect_download() as download:
        page.locator("#save").click()
    path = tmp_path / "c.star"
    download.value.save_as(path)
    rows = relion.table(path, "apbcKind", "correction").read().to_numpy().tolist()
    one = data["micrographs"][m]
    assert rows[0] == [one["name"], f"{one['x'][i]:.2f}", f"{one['y'][i]:.2f}", "bad"]


@pytest.mark.parametrize("width", [1400, 420])
def test_nothing_is_wider_than_the_screen(tmp_path, seen, width):
    project = make_run(tmp_path, ["Micrographs/" + "long" * 30 + ".mrc", *NAMES])
    report(project)
    page = seen(project, width)
    assert page.evaluate("document.documentElement.scrollWidth") == width


def test_what_is_corrected_in_the_page_is_taught(taught, seen, capsys):
    lists = "-g", taught.good, "-b", taught.bad, "--from-micrographs"
    assert taught.call("gen_picks", "-i", taught.micrographs) == 0
    report(taught)
    page = seen(taught)
    box = page.locator(".box").first
    box.focus()
    for kind in "gbbg":  # each goes on to the next
        page.keyboard.press(kind)
    with page.expect_download() as download:
        page.locator("#save").click()
    path = taught / "corrections.star"
    download.value.save_as(path)
    capsys.readouterr()
    assert taught.call("gen_data", *lists, "--corrections", path.name, "-c") == 0
    assert "corrections: 2 good, 2 bad, in place of" in capsys.readouterr().out
    rows = relion.table(taught / "ClassBin/train.star", "apbcKind", "window").read()
    dataset = json.loads((taught / "ClassBin/dataset.json").read_text())
    assert "corrections.star" in dataset["corrections"] and len(rows)
    # What is corrected next is another file, and both are taught.
    line = re.search(r"<pre><code>(.*)", report(taught))[1].split()
    fixes = [path for option, path in itertools.pairwise(line) if option == "--corrections"]
    assert fixes == ["corrections.star", "corrections_2.star"]
    page = seen(taught)
    page.locator(".box").first.focus()
    page.keyboard.press("g")
    with page.expect_download() as download:
        page.locator("#save").click()
    assert download.value.suggested_filename == "corrections_2.star"
