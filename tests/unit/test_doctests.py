"""The examples of the docstrings run."""

import doctest
import importlib
import pkgutil

import pytest

import apbc_common

SCRIPTS = ["gen_data", "gen_model", "gen_grid", "gen_picks", "show_picks"]
MODULES = [f"apbc_common.{module.name}" for module in pkgutil.iter_modules(apbc_common.__path__)]
WITH_EXAMPLES = {"gen_grid"} | {
    f"apbc_common.{name}" for name in ("classbin", "images", "peaks", "relion", "star", "windows")
}


@pytest.mark.parametrize("name", MODULES + SCRIPTS)
def test_examples(name):
    result = doctest.testmod(importlib.import_module(name))
    assert result.failed == 0
    assert result.attempted or name not in WITH_EXAMPLES
