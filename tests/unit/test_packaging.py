"""requirements.txt, build.sh, conda, Dockerfile: that they agree, and that what they make works."""

import fnmatch
import hashlib
import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import snapshot

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ["gen_data.py", "gen_model.py", "gen_grid.py", "gen_picks.py", "show_picks.py"]
SHELL_SCRIPTS = [
    "build.sh",
    "tests/run.sh",
    ".ci/run",
    "conda/create-conda-env.sh",
    "conda/docker-conda",
]
TOP_LEVEL = {
    *SCRIPTS,
    "apbc_common",
    "beta-galactosidase",
    "build.sh",
    "conda",
    "Dockerfile",
    "LICENSE",
    "README.md",
    "requirements.txt",
    "tests",
}
BASH = shutil.which("bash")

# Prints what a launcher is to protect a script from.
STUB = """
import os, sys
import numpy
print(numpy.__file__)
print(os.environ.get("LD_LIBRARY_PATH"))
print(os.getcwd())
print(sys.argv[1:])
"""


def tool(name):
    """Path of a program of tests/requirements.txt; skips the test where it is not installed."""
    found = shutil.which(name, path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    return found or pytest.skip(f"{name} is not installed")


def pins(text):
    return dict(re.findall(r"^\s*(?:- )?([A-Za-z0-9._-]+)==([A-Za-z0-9.]+)$", text, re.M))


def executable(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def run(command, cwd, **env):
    """Run without input, in an environment of nothing but `env`."""
    return subprocess.run(
        command, cwd=cwd, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )


def copy_of_checkout(folder):
    """As much of a checkout as build.sh needs."""
    folder.mkdir(parents=True)
    for name in ("build.sh", "requirements.txt"):
        shutil.copy(ROOT / name, folder)
    return folder


# -- pins


@pytest.mark.parametrize("name", ["requirements.txt", "tests/requirements.txt"])
def test_every_requirement_is_a_plain_pin(name):
    lines = (ROOT / name).read_text().splitlines()
    wrong = [line for line in lines if not line.startswith("#") and not pins(line)]
    assert wrong == []


def test_environment_yml_has_the_pins_of_requirements_txt():
    required = pins((ROOT / "requirements.txt").read_text())
    assert len(required) > 5
    assert pins((ROOT / "conda/environment.yml").read_text()) == required


def test_docker_image_has_the_tensorflow_of_requirements_txt():
    required = pins((ROOT / "requirements.txt").read_text())["tensorflow"]
    base = re.findall(r"^FROM (\S+)$", (ROOT / "Dockerfile").read_text(), re.M)
    assert base == [f"tensorflow/tensorflow:{required}-gpu"]


# -- files


@pytest.mark.parametrize("name", SHELL_SCRIPTS)
def test_shell_script_parses(name):
    assert run([BASH, "-n", ROOT / name], ROOT).stderr == ""


@pytest.mark.parametrize("name", SHELL_SCRIPTS)
def test_shell_script_is_shellcheck_clean(name):
    assert run([tool("shellcheck"), ROOT / name], ROOT).stdout == ""


@pytest.mark.parametrize("name", SHELL_SCRIPTS + SCRIPTS)
def test_script_is_executable(name):
    assert (ROOT / name).stat().st_mode & stat.S_IXUSR


def test_dockerfile_is_hadolint_clean():
    assert run([tool("hadolint"), ROOT / "Dockerfile"], ROOT).stdout == ""


def test_docker_copies_only_what_exists_and_is_sent_to_it():
    copies = re.findall(r"^COPY (.+) \S+$", (ROOT / "Dockerfile").read_text(), re.M)
    sources = " ".join(copies).split()
    assert {*SCRIPTS, "build.sh", "requirements.txt", "apbc_common"} <= set(sources)
    sent = re.findall(r"^!(\S+)$", (ROOT / ".dockerignore").read_text(), re.M)
    for source in sources:
        assert (ROOT / source).exists()
        assert any(fnmatch.fnmatch(source, pattern) for pattern in sent), source


def test_top_level_holds_only_what_is_allowed():
    listed = subprocess.run(
        ["git", "-C", ROOT, "ls-files"], capture_output=True, text=True, check=False
    )
    if listed.returncode != 0 or not listed.stdout:
        pytest.skip("not a git checkout, or nothing is tracked")
    names = {line.split("/")[0] for line in listed.stdout.splitlines()}
    assert {name for name in names if not name.startswith(".")} <= TOP_LEVEL


# -- launchers


def launchers(checkout, folder):
    made = run(
        [BASH, checkout / "build.sh", "--launchers", folder],
        checkout,
        PATH=os.environ["PATH"],
        PYTHON=sys.executable,
    )
    assert (made.returncode, made.stderr) == (0, "")
    assert sorted(path.name for path in folder.iterdir()) == sorted(SCRIPTS)


def hostile(folder):
    """Variables as other programs' set-up leaves them: wrong Python, numpy and libraries."""
    executable(folder / "bin/python", "#!/bin/sh\necho wrong python\nexit 3\n")
    shutil.copy(folder / "bin/python", folder / "bin/python3")
    (folder / "modules").mkdir()
    (folder / "modules/numpy.py").write_text("raise RuntimeError('wrong numpy')\n")
    (folder / "modules/argparse.py").write_text("raise RuntimeError('wrong argparse')\n")
    (folder / "driver").mkdir()
    (folder / "driver/libcuda.so.1").touch()
    return {
        "PATH": str(folder / "bin"),
        "PYTHONPATH": str(folder / "modules"),
        "PYTHONHOME": str(folder / "modules"),
        "PYTHONSAFEPATH": "1",
        "LD_LIBRARY_PATH": f"{folder}/modules:{folder}/driver:",
    }


def test_launcher_keeps_the_callers_environment_out(tmp_path):
    checkout = copy_of_checkout(tmp_path / "a user's $HOME")
    (checkout / "gen_data.py").write_text(STUB)
    launchers(checkout, tmp_path / "in any folder")
    env = hostile(tmp_path / "hostile")
    elsewhere = tmp_path / "project"
    elsewhere.mkdir()

    done = run([tmp_path / "in any folder/gen_data.py", "--o", "a b/", "*", ""], elsewhere, **env)

    assert done.stderr == ""
    numpy_file, libraries, folder, arguments = done.stdout.splitlines()
    assert Path(numpy_file).is_relative_to(sys.prefix)
    assert libraries == str(tmp_path / "hostile/driver")
    assert folder == str(elsewhere)
    assert arguments == "['--o', 'a b/', '*', '']"


def test_launcher_takes_no_other_libraries(tmp_path):
    checkout = copy_of_checkout(tmp_path / "checkout")
    (checkout / "gen_data.py").write_text(STUB)
    launchers(checkout, tmp_path / "bin")
    env = hostile(tmp_path / "hostile")
    # The second is not a pattern.
    env["LD_LIBRARY_PATH"] = f"{tmp_path}/hostile/modules:{tmp_path}/hostile/dri*"
    done = run([tmp_path / "bin/gen_data.py"], tmp_path, **env)
    assert done.stdout.splitlines()[1] == "None"


def test_launcher_passes_the_exit_status_on(tmp_path):
    checkout = copy_of_checkout(tmp_path / "checkout")
    (checkout / "gen_grid.py").write_text("raise SystemExit(3)\n")
    launchers(checkout, tmp_path / "bin")
    assert run([tmp_path / "bin/gen_grid.py"], tmp_path).returncode == 3


@pytest.mark.parametrize("script", SCRIPTS)
def test_launcher_of_each_script_prints_help(script, tmp_path):
    launchers(ROOT, tmp_path / "bin")
    done = run([tmp_path / "bin" / script, "--help"], tmp_path, **hostile(tmp_path / "hostile"))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"usage: {script}")


# -- build.sh: the mistakes that are seen before anything is installed


def python_stub(path, version_ok, venv_ok):
    """A Python which answers build.sh's three questions."""
    executable(
        path,
        f"""#!/bin/sh
case $2 in
*ensurepip*) exit {0 if venv_ok else 1} ;;
*-venv*) echo python3.12-venv ;;
*version_info*) exit {0 if version_ok else 1} ;;
esac
""",
    )
    return path


@pytest.mark.parametrize(
    ("version_ok", "venv_ok", "message"),
    [
        (False, True, "Python 3.11, 3.12 or 3.13 is needed, {} has none; say PYTHON="),
        (True, False, "environments; do: sudo apt-get install python3.12-venv\n"),
    ],
)
def test_build_refuses_a_python_that_will_not_do(version_ok, venv_ok, message, tmp_path):
    checkout = copy_of_checkout(tmp_path / "checkout")
    python = python_stub(tmp_path / "python", version_ok, venv_ok)
    done = run([BASH, checkout / "build.sh"], tmp_path, PATH=os.environ["PATH"], PYTHON=str(python))
    assert done.returncode == 1
    assert done.stderr.startswith("build.sh: error: ")
    assert message.format(python) in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (checkout / ".venv").exists()


@pytest.mark.parametrize(
    ("arguments", "env", "message"),
    [
        (["--fpu"], {}, "--fpu: no such option"),
        ([], {"APBC_TF": "tpu"}, "APBC_TF=tpu: cpu or gpu is expected"),
    ],
)
def test_build_refuses_a_wrong_option(arguments, env, message, tmp_path):
    checkout = copy_of_checkout(tmp_path / "checkout")
    done = run([BASH, checkout / "build.sh", *arguments], tmp_path, PATH=os.environ["PATH"], **env)
    assert done.returncode == 1
    assert done.stderr.startswith(f"build.sh: error: {message}")
    assert not (checkout / ".venv").exists()


# -- build.sh --check

COMMANDS = "awk bash cat cut df dirname getconf grep mktemp rm sed sh sha256sum uname"
TENSORFLOW = """
from types import SimpleNamespace as Namespace
__version__ = "2.21.0"
config = Namespace(list_physical_devices=lambda kind: [])
test = Namespace(is_built_with_cuda=lambda: False)
"""


@pytest.fixture
def built(tmp_path):
    """A checkout with an environment, of empty packages, and what else is on the PATH."""
    checkout = copy_of_checkout(tmp_path / "a user's $HOME")
    (checkout / "apbc_common").mkdir()
    (checkout / "apbc_common/__init__.py").write_text('__version__ = "1.2.3"\n')
    for script in SCRIPTS:
        (checkout / script).write_text("import argparse\n")
    target = checkout / ".venv"
    base = getattr(sys, "_base_executable", sys.executable)
    subprocess.run([base, "-m", "venv", "--without-pip", target], check=True)
    for name, version in pins((ROOT / "requirements.txt").read_text()).items():
        package(checkout, name.replace("tensorflow", "tensorflow_cpu"), version)
    (site(checkout) / "tensorflow.py").write_text(TENSORFLOW)
    run(
        [BASH, checkout / "build.sh", "--launchers", target / "apbc-bin"],
        tmp_path,
        PATH=os.environ["PATH"],
    )
    text = (checkout / "requirements.txt").read_text().replace("\ntensorflow=", "\ntensorflow-cpu=")
    text += (checkout / "build.sh").read_text()
    origin = f"{sys.base_prefix} {sys.version.split()[0]}"
    made_from = hashlib.sha256(f"{text}{target}\n{origin}\n".encode()).hexdigest()
    (target / "apbc-stamp").write_text(f"cpu {made_from}\n")
    for name in COMMANDS.split():
        (tmp_path / "bin").mkdir(exist_ok=True)
        (tmp_path / "bin" / name).symlink_to(shutil.which(name))
    executable(tmp_path / "bin/relion_refine", "#!/bin/sh\necho 'RELION version: 4.0.1 '\n")
    return checkout


def site(checkout):
    (found,) = (checkout / ".venv/lib").glob("python3*/site-packages")
    return found


def package(checkout, name, version):
    folder = site(checkout) / f"{name.replace('-', '_')}-{version}.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def checked(checkout):
    """What --check says, as {subject: (word, text)}, and its exit code; nothing has changed."""
    before = snapshot(checkout.parent)
    env = {"PATH": str(checkout.parent / "bin"), "PYTHONPATH": str(ROOT / "tests/unit")}
    done = run([BASH, checkout / "build.sh", "--check"], checkout.parent, **env)
    assert done.stderr == "" and snapshot(checkout.parent) == before
    lines = [line.split(maxsplit=2) for line in done.stdout.splitlines()]
    return {subject: (word, text) for word, subject, text in lines}, done.returncode


def test_check_says_what_is_there(built):
    found, code = checked(built)
    target, python = built / ".venv", sys.version.split()[0]
    assert (code, list(found)) == (0, [
        *("Autopick-BC", "environment", "packages", "TensorFlow", "GPU", "cryosparc-tools"),
        *("launchers", "RELION", "machine", "disk"),
    ])  # fmt: skip
    assert found["cryosparc-tools"] == (
        "note",
        "not there; only gen_picks.py --cs needs it: "
        f"{shlex.quote(str(target / 'bin/python'))} -m pip install cryosparc-tools",
    )
    assert re.fullmatch(
        r"[1-9]\d* cores, [\d.]+ GB of memory, [\d.]+ of it free", found["machine"][1]
    )
    assert re.match(r"\d+\.\d GB free where the environment is; ", found["disk"][1])
    sure = {
        "Autopick-BC": f"1.2.3, {built}",
        "environment": f"{target}, Python {python}",
        "packages": f"all {len(pins((ROOT / 'requirements.txt').read_text()))} as "
        "requirements.txt has them",
        "TensorFlow": "2.21.0, for CPUs",
        "GPU": "the driver has none, TensorFlow uses none",
        "launchers": f"5 in {target}/apbc-bin, which run whatever PYTHONPATH is",
        "RELION": f"4.0.1, {built.parent}/bin/relion_refine",
    }
    assert {subject: found[subject] for subject in sure} == {s: ("ok", t) for s, t in sure.items()}


def packages(name):
    return lambda built: shutil.rmtree(next(site(built).glob(f"{name}-*")))


def other_version(built):
    packages("keras")(built)
    package(built, "keras", "3.0.0")


def edit(path, old, new):
    def change(built):
        found = next(built.glob(path))
        found.write_text(found.read_text().replace(old, new))

    return change


def gpu(built):
    executable(
        built.parent / "bin/nvidia-smi", "#!/bin/sh\necho 'GPU 0: NVIDIA H100 (UUID: GPU-1)'\n"
    )


def gpu_used(built):
    gpu(built)
    edit(MODULE, "[]", "[kind]")(built)


def plain_launcher(built):
    python, script = built / ".venv/bin/python", built / "gen_grid.py"
    executable(built / ".venv/apbc-bin/gen_grid.py", f'#!/bin/sh\nexec "{python}" "{script}"\n')


MODULE = ".venv/lib/*/site-packages/tensorflow.py"
DIFFER = "1 of 14 are not what requirements.txt has: {} (3.15.1): {again}"


@pytest.mark.parametrize("change, code, subject, word, text", [
    (lambda built: shutil.rmtree(built / ".venv"), 1,
     "environment", "MISSING", "no {target}: bash build.sh"),
    (edit(".venv/bin/activate", "VIRTUAL_ENV=", "VIRTUAL_ENV=/elsewhere"), 1,
     "environment", "MISSING",
     "{target} is unfinished, moved or of a Python that has gone: bash build.sh"),
    (lambda built: (built / ".venv/apbc-stamp").write_text("cpu unfinished\n"), 1,
     "environment", "MISSING",
     "{target} is unfinished, moved or of a Python that has gone: bash build.sh"),
    (edit("build.sh", "set -euo", "set -eu -o"), 0, "environment", "note",
     "{target}, Python {python}, not made by this build.sh: bash build.sh"),
    (packages("keras"), 1, "packages", "MISSING", DIFFER.replace("{}", "keras missing")),
    (other_version, 0, "packages", "note", DIFFER.replace("{}", "keras 3.0.0")),
    (edit(MODULE, "from", "raise ImportError('libx:\\n not there')\nfrom"), 1,
     "TensorFlow", "MISSING", "does not start (ImportError: libx: not there): {again}"),
    (gpu, 0, "GPU", "note",
     "the driver has 1 (NVIDIA H100), TensorFlow uses none: {again} --gpu"),
    (gpu_used, 0, "GPU", "ok", "the driver has 1 (NVIDIA H100), TensorFlow uses 1"),
    (lambda built: package(built, "cryosparc-tools", "5.0"), 0, "cryosparc-tools", "ok", "5.0"),
    (lambda built: (built / ".venv/apbc-bin/gen_data.py").unlink(), 1,
     "launchers", "MISSING", "gen_data.py in {target}/apbc-bin: bash build.sh"),
    (plain_launcher, 1,
     "launchers", "MISSING", "gen_grid.py in {target}/apbc-bin: bash build.sh"),
    (lambda built: (built.parent / "bin/relion_refine").unlink(), 0,
     "RELION", "note", "none on the PATH, which only its own jobs need"),
])  # fmt: skip
def test_check_says_what_is_wrong_and_what_to_do(built, change, code, subject, word, text):
    change(built)
    found, ended = checked(built)
    target = built / ".venv"
    quoted = str(target / "apbc-stamp").replace("'", "'\\''")
    known = {"again": f"rm -f '{quoted}'; bash build.sh", "target": target,
             "python": sys.version.split()[0]}  # fmt: skip
    assert (found[subject], ended) == ((word, text.format(**known)), code)


# -- conda


def conda_stub(folder, name, exit_of_file=0):
    """Writes its arguments down; `create --file` ends with `exit_of_file`."""
    executable(
        folder / name,
        f"""#!/bin/sh
echo {name} "$@" >>"{folder}/log"
case "$*" in *--file*) exit {exit_of_file} ;; esac
""",
    )
    return folder


@pytest.mark.parametrize("name", ["conda", "mamba"])
def test_create_conda_env_uses_what_is_there(name, tmp_path):
    folder = conda_stub(tmp_path / "bin", name)
    done = run([BASH, ROOT / "conda/create-conda-env.sh"], tmp_path, PATH=f"{folder}:/usr/bin:/bin")
    assert (done.returncode, done.stderr) == (0, "")
    assert (folder / "log").read_text().splitlines() == [
        f"{name} create --yes --name apbc --channel conda-forge --override-channels python=3.12 pip"
        f" --file {ROOT}/requirements.txt",
        f"{name} run --name apbc bash {ROOT}/build.sh",
    ]


def test_create_conda_env_falls_back_to_pypi(tmp_path):
    folder = conda_stub(tmp_path / "bin", "conda", exit_of_file=1)
    done = run([BASH, ROOT / "conda/create-conda-env.sh"], tmp_path, PATH=f"{folder}:/usr/bin:/bin")
    assert done.returncode == 0
    assert "taking them from PyPI" in done.stderr
    log = (folder / "log").read_text().splitlines()
    assert ["--file" in line for line in log] == [True, False, False]


def test_create_conda_env_without_conda(tmp_path):
    for name in ("bash", "dirname"):
        (tmp_path / name).symlink_to(shutil.which(name))
    done = run([BASH, ROOT / "conda/create-conda-env.sh"], tmp_path, PATH=str(tmp_path))
    assert done.returncode == 1
    assert done.stderr == (
        "create-conda-env.sh: error: neither mamba nor conda is on PATH;"
        " without them: bash build.sh\n"
    )


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("conda activate apbc", 0),
        ("conda activate", 0),
        ("conda deactivate", 0),
        ("conda activate base", 1),
        ("conda install numpy", 1),
        ("conda", 1),
    ],
)
@pytest.mark.parametrize("flags", ["-c", "-ic", "-lc"])
def test_conda_in_the_docker_image(flags, command, code, tmp_path):
    (tmp_path / "conda").symlink_to(ROOT / "conda/docker-conda")
    shell = [BASH, "--noprofile", "--norc", flags]
    done = run([*shell, command], tmp_path, PATH=f"{tmp_path}:/usr/bin:/bin")
    assert done.returncode == code
    assert ("conda: not in this image" in done.stderr) == (code != 0)
