#!/usr/bin/env bash
#
# Create the conda environment apbc, with mamba or conda.
#
#   bash conda/create-conda-env.sh [options for "conda create", such as --dry-run]

set -euo pipefail

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)

for tool in mamba conda; do
    # With its path: an interactive shell has functions of these names.
    if tool=$(type -P "$tool"); then break; fi
done
if [ -z "$tool" ]; then
    echo "create-conda-env.sh: error: neither mamba nor conda is on PATH; without them: bash build.sh" >&2
    exit 1
fi

create=("$tool" create --yes --name apbc --channel conda-forge --override-channels python=3.12 pip)
if ! "${create[@]}" --file "$here/requirements.txt" "$@"; then
    # conda-forge may lag behind PyPI, which has all of these versions.
    echo "create-conda-env.sh: conda-forge cannot give all versions of requirements.txt; taking them from PyPI" >&2
    "${create[@]}" "$@"
fi

# The launchers, and what conda-forge lacks. "run" makes the new environment the active one for build.sh.
case " $* " in *" --dry-run "*) exit ;; esac
"$tool" run --name apbc bash "$here/build.sh"
