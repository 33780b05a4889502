#!/usr/bin/env bash
#
# All checks, as in CI: formatting, lint, tests. Makes the environment first, on a fresh clone.
#
#   bash tests/run.sh [--slow] [options for pytest]      --slow: also the tests marked slow

set -euo pipefail

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
marks=(-m "not slow")
if [ "${1-}" = --slow ]; then
    marks=()
    shift
fi

bash "$here/build.sh"

# As in build.sh.
target=$here/.venv
[ "${CONDA_DEFAULT_ENV-}" != apbc ] || target=$CONDA_PREFIX
python=$target/bin/python
unset PYTHONPATH PYTHONHOME PYTHONSAFEPATH
export PYTHONNOUSERSITE=1 PIP_USER=0 PIP_DISABLE_PIP_VERSION_CHECK=1

# A copy of what is installed serves as the stamp.
stamp=$target/apbc-tests-stamp
if ! cat "$target/apbc-stamp" "$here/tests/requirements.txt" | cmp --silent - "$stamp"; then
    rm -f "$stamp"
    "$python" -m pip install --requirement "$here/tests/requirements.txt"
    cat "$target/apbc-stamp" "$here/tests/requirements.txt" >"$stamp"
fi

cd -- "$here"
# There are the linters that some tests run.
export PATH="$target/bin:$PATH"
echo "ruff"
"$python" -m ruff format --check .
"$python" -m ruff check .
echo "pytest"
exec "$python" -m pytest "${marks[@]}" "$@"
