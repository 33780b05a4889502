#!/usr/bin/env bash
#
# Make the environment in which Autopick-BC runs, or bring it up to date; quick when nothing is to do.
#
#   bash build.sh [--cpu | --gpu]   TensorFlow for the CPU or for NVIDIA GPUs (or APBC_TF=cpu, APBC_TF=gpu).
#                                   By default what is there stays, and a new environment is for the GPU
#                                   if nvidia-smi lists one.
#   bash build.sh --launchers DIR   only write the launchers (see below), into DIR
#
# The environment is the folder .venv here, made with Python 3.11, 3.12 or 3.13 (which one: PYTHON=/path/to/python);
# or the conda environment apbc, if that is active. In its folder apbc-bin are launchers, commands named like the
# scripts, for any shell and for RELION's External jobs.

set -euo pipefail

# Often set for other programs (RELION, CCP4); they would mix foreign packages into the environment.
unset PYTHONPATH PYTHONHOME PYTHONSAFEPATH
export PYTHONNOUSERSITE=1 PIP_USER=0 PIP_DISABLE_PIP_VERSION_CHECK=1

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)
scripts=(gen_data.py gen_model.py gen_grid.py gen_picks.py show_picks.py)

die() {
    echo "build.sh: error: $*" >&2
    exit 1
}

right_version() {
    "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null
}

# Which Python an environment was made with.
origin() {
    "$1" -c 'import sys; print(sys.base_prefix, sys.version.split()[0])'
}

# A Python that can make .venv.
find_python() {
    local name path package='' names=(python3.12 python3.11 python3.13 python3 python)
    [ -z "${PYTHON-}" ] || names=("$PYTHON")
    for name in "${names[@]}"; do
        # To be on PATH is not enough: pyenv has commands there that only print a message.
        path=$(command -v -- "$name") || continue
        right_version "$path" || continue
        if "$path" -c 'import ensurepip, venv' 2>/dev/null; then
            echo "$path"
            return
        fi
        package=${package:-$("$path" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')}
    done
    [ -z "$package" ] || die "this Python cannot make environments; do: sudo apt-get install $package"
    die "Python 3.11, 3.12 or 3.13 is needed, ${PYTHON:-PATH} has none; say PYTHON=/path/to/python bash build.sh"
}

# Is .venv whole, was it made for this place, and with the Python that was asked for?
venv_usable() {
    right_version "$python" || return 1
    # A killed pip can leave half a package that it later takes for a whole one.
    [ "$state" != unfinished ] || return 1
    # A moved or copied environment would still use the first one's packages here and there.
    grep -qF -e "VIRTUAL_ENV=$target" -e "VIRTUAL_ENV=\"$target" -e "VIRTUAL_ENV='$target" \
        "$target/bin/activate" 2>/dev/null || return 1
    [ -z "${PYTHON-}" ] || [ "$(origin "$PYTHON")" = "$(origin "$python")" ]
}

# requirements.txt with the TensorFlow package of the variant.
requirements() {
    case $variant in
    cpu) sed 's/^tensorflow==/tensorflow-cpu==/' "$here/requirements.txt" ;;
    gpu) sed 's/^tensorflow==/tensorflow[and-cuda]==/' "$here/requirements.txt" ;;
    plain) cat "$here/requirements.txt" ;;
    esac
}

# All that the environment is made from, in one word.
checksum() {
    { requirements && cat "$here/build.sh" && echo "$target" && origin "$python"; } | sha256sum | cut -c 1-64
}

# TensorFlow 2.21 looks for pip's CUDA libraries in most of the nvidia/*/lib, but not in these, and without cusolver
# it does without the GPU. Links in a folder in which it does look are enough.
link_cuda_libraries() {
    local nvidia name
    nvidia=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/nvidia
    for name in cusolver curand cuda_nvrtc nvjitlink; do
        ln -sf "$nvidia/$name"/lib/lib*.so.* "$nvidia/cusparse/lib/"
    done
}

install() {
    local other=tensorflow-cpu
    [ "$variant" != cpu ] || other=tensorflow
    # Both packages own the same files: taking one away leaves the other broken.
    if "$python" -m pip show --quiet "$other" 2>/dev/null; then
        "$python" -m pip uninstall --quiet --yes tensorflow tensorflow-cpu
    fi
    "$python" -m pip install --requirement <(requirements)
    [ "$variant" != gpu ] || link_cuda_libraries
    local said  # TensorFlow is talkative when it starts
    said=$("$python" -c '
import h5py, jinja2, matplotlib.pyplot, mrcfile, pandas, PIL, scipy, sklearn, tensorflow, tqdm
print("TensorFlow", tensorflow.__version__, "sees", len(tensorflow.config.list_physical_devices("GPU")), "GPU(s)")' 2>&1) || die "TensorFlow or a library does not start: $said"
    echo "$said" | tail -n 1
}

# A text in single quotes for sh, whatever is in it.
quoted() {
    printf "'%s'" "${1//\'/\'\\\'\'}"
}

# write_launchers DIR PYTHON: they work whatever PATH, PYTHONPATH, modules or conda the caller has loaded.
write_launchers() {
    local script
    mkdir -p -- "$1"
    for script in "${scripts[@]}"; do
        cat >"$1/$script.new" <<EOF
#!/bin/sh
# Written by build.sh.
unset PYTHONPATH PYTHONHOME PYTHONSAFEPATH
export PYTHONNOUSERSITE=1
# CUDA libraries of other programs would be taken before TensorFlow's own; only the NVIDIA driver's folder stays
# (containers have it in LD_LIBRARY_PATH).
driver=
set -f
IFS=:
for dir in \${LD_LIBRARY_PATH-}; do
    if [ -e "\$dir/libcuda.so.1" ]; then driver=\$driver:\$dir; fi
done
unset IFS LD_LIBRARY_PATH
if [ -n "\$driver" ]; then export LD_LIBRARY_PATH="\${driver#:}"; fi
exec $(quoted "$2") $(quoted "$here/$script") "\$@"
EOF
        chmod 755 "$1/$script.new"
        mv -f -- "$1/$script.new" "$1/$script"
    done
}

wanted=${APBC_TF-} launchers=''
while [ $# -gt 0 ]; do
    case $1 in
    --cpu) wanted=cpu ;;
    --gpu) wanted=gpu ;;
    --launchers) [ -n "${2-}" ] || die "--launchers: a folder is expected"; launchers=$2 && shift ;;
    -h | --help) sed -n '3,/^$/ s/^# \{0,1\}//p' "$here/build.sh" && exit ;;
    *) die "$1: no such option; see bash build.sh --help" ;;
    esac
    shift
done
case $wanted in '' | cpu | gpu) ;; *) die "APBC_TF=$wanted: cpu or gpu is expected" ;; esac

target=$here/.venv
[ "${CONDA_DEFAULT_ENV-}" != apbc ] || target=$CONDA_PREFIX
python=$target/bin/python

if [ -n "$launchers" ]; then
    right_version "${PYTHON:-$python}" || die "no Python at ${PYTHON:-$python}; run bash build.sh first"
    write_launchers "$launchers" "$("${PYTHON:-$python}" -c 'import sys; print(sys.executable)')"
    exit
fi

# The stamp of an earlier run: the variant, and the checksum or the word unfinished.
stamp=$target/apbc-stamp variant='' state=''
[ ! -e "$stamp" ] || read -r variant state <"$stamp"

if [ "$target" != "$here/.venv" ]; then
    right_version "$python" || die "the conda environment apbc has no Python 3.11, 3.12 or 3.13"
    "$python" -m pip --version >/dev/null 2>&1 || die "no pip; do: conda install --name apbc pip"
    # TensorFlow that came with conda stays.
    [ -n "$variant" ] || ! ls "$target"/conda-meta/tensorflow-[0-9]* >/dev/null 2>&1 || variant=plain
elif ! venv_usable; then
    base=$(find_python)
    echo "Making $target with $base"
    "$base" -m venv --clear "$target"
    state=''
fi

if [ -n "$wanted" ]; then
    variant=$wanted
elif [ -z "$variant" ]; then
    variant=cpu
    if nvidia-smi -L 2>/dev/null | grep -q '^GPU'; then variant=gpu; fi
fi
# Elsewhere there is but one TensorFlow.
[ "$(uname -sm)" = 'Linux x86_64' ] || variant=plain

if [ "$state" != "$(checksum)" ]; then
    echo "$variant unfinished" >"$stamp"
    install
    echo "$variant $(checksum)" >"$stamp"
fi
write_launchers "$target/apbc-bin" "$python"
for script in "${scripts[@]}"; do
    ln -sf ../apbc-bin/"$script" "$target/bin/$script"
done

if [ "$target" = "$here/.venv" ]; then activate=". $(quoted "$target/bin/activate")"; else activate='conda activate apbc'; fi
echo "Autopick-BC is ready (TensorFlow: $variant). To use it in a shell:"
echo "    $activate"
echo "Without that, and for RELION's External jobs, its commands are in $target/apbc-bin"
