"""The README names every option, and its commands parse."""

import re
import shlex

import pytest
from conftest import ROOT

SCRIPTS = ["gen_data", "gen_model", "gen_grid", "gen_picks", "show_picks"]
README = (ROOT / "README.md").read_text()


def section(script):
    """The README's table of a script's options, with the part on those of all scripts."""
    options = README.split("## Options")[1].split("\n## ")[0]
    common, *tables = re.split(r"^`(\w+)\.py`$", options, flags=re.M)
    return common + dict(zip(tables[::2], tables[1::2], strict=True))[script]


def commands():
    """Every command line of the README that calls one of the scripts."""
    for block in re.findall(r"^```\w*\n(.*?)^```$", README, flags=re.M | re.S):
        for line in block.replace("\\\n", " ").splitlines():
            words = line.removeprefix("$ ").split("#")[0]
            if re.match(r"(gen_\w+|show_picks)\.py ", words):
                yield words


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_option_is_in_the_readme(script):
    text = section(script)
    for action in __import__(script).build_parser()._actions:
        for option in action.option_strings:
            assert re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", text), option


@pytest.mark.parametrize("script", SCRIPTS)
def test_no_option_of_the_readme_is_unknown(script):
    known = {o for a in __import__(script).build_parser()._actions for o in a.option_strings}
    table = section(script).split("| option |")[1]
    for row in re.findall(r"^\| (`.*?) \|", table, flags=re.M):
        for option in re.findall(r"(?<![\w-])-{1,2}[a-z][a-z_-]*", row):
            assert option in known


@pytest.mark.parametrize("line", sorted(set(commands())))
def test_commands_of_the_readme_parse(line):
    script, *words = shlex.split(line)
    __import__(script.removesuffix(".py")).build_parser().parse_args(words)


def test_the_readme_has_commands_of_most_scripts():
    assert len({line.split()[0] for line in commands()}) == 3  # gen_model.py stands alone


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_option_has_help(script):
    assert all(action.help for action in __import__(script).build_parser()._actions)


def test_every_picture_of_the_readme_is_made_by_the_example():
    shown = re.findall(r"!\[.+?\]\((.+?)\)", README)
    made = re.findall(r'IMG / "(.+?)"', (ROOT / "beta-galactosidase/pictures.py").read_text())
    assert sorted(shown) == sorted(f"beta-galactosidase/img/{name}" for name in made)
    sizes = [path.stat().st_size for path in (ROOT / "beta-galactosidase/img").iterdir()]
    assert len(sizes) == len(made) and sum(sizes) <= 600 * 1024
