#!/usr/bin/env bash
#
# Make the environment in which Autopick-BC runs, or bring it up to date; quick when nothing is to do.
#
#   bash build.sh [--cpu | --gpu]   TensorFlow for the CPU or for NVIDIA GPUs (or APBC_TF=cpu, APBC_TF=gpu).
#                                   By default what is there stays, and a new environment is for the GPU
#                                   if nvidia-smi lists one.
#   bash build.sh --launchers DIR   only write the launchers (see below), into DIR
#   bash build.sh --check           only say what is installed and what is missing; exit status 1 if that is needed
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
import cryptography, distributed, h5py, jinja2, matplotlib.pyplot, mrcfile, pandas, PIL, scipy, sklearn, tensorflow, tqdm
print("TensorFlow", tensorflow.__version__, "sees", len(tensorflow.config.list_physical_devices("GPU")), "GPU(s)")' 2>&1) || die "TensorFlow or a library does not start: $said"
    echo "$said" | tail -n 1
}

# A text in single quotes for sh, whatever is in it.
quoted() {
    printf "'%s'" "${1//\'/\'\\\'\'}"
}

# launcher PYTHON SCRIPT: its text. It works whatever PATH, PYTHONPATH, modules or conda the caller has loaded.
launcher() {
    cat <<EOF
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
exec $(quoted "$1") $(quoted "$2") "\$@"
EOF
}

# write_launchers DIR PYTHON
write_launchers() {
    local script
    mkdir -p -- "$1"
    for script in "${scripts[@]}"; do
        launcher "$2" "$here/$script" >"$1/$script.new"
        chmod 755 "$1/$script.new"
        mv -f -- "$1/$script.new" "$1/$script"
    done
}

# A line of --check.
say() {
    printf '%-9s%-17s%s\n' "$1" "$2" "$3"
    [ "$1" != MISSING ] || missing=1
}

# The lines of --check that Python finds out, tabs between their parts; its environment is that of the launchers.
installed() {
    local gpus
    gpus=$(nvidia-smi -L 2>/dev/null | grep '^GPU') || true
    sh -c "$(launcher "$python" -)" sh "$here/requirements.txt" "$gpus" "$again" <<'EOF'
import importlib.metadata, os, re, shlex, sys

requirements, gpus, again = sys.argv[1:]
gpus = gpus.splitlines()


def version(*names):
    for name in names:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            pass


def say(*parts):
    print(*(" ".join(part.split()) for part in parts), sep="\t")


pins = dict(re.findall(r"^(\S+)==(\S+)$", open(requirements).read(), re.M))
found = {name: version(name, f"{name}-cpu") for name in pins}
other = [f"{name} {found[name] or 'missing'} ({pins[name]})" for name in pins if found[name] != pins[name]]
if other:
    some = ", ".join(other[:3]) + ", ..." * (len(other) > 3)
    text = f"{len(other)} of {len(pins)} are not what requirements.txt has: {some}: {again}"
    say("note" if all(found.values()) else "MISSING", "packages", text)
else:
    say("ok", "packages", f"all {len(pins)} as requirements.txt has them")
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
try:
    import tensorflow

    used = len(tensorflow.config.list_physical_devices("GPU"))
except Exception as err:
    say("MISSING", "TensorFlow", f"does not start ({type(err).__name__}: {err}): {again}")
else:
    cuda = tensorflow.test.is_built_with_cuda()
    say("ok", "TensorFlow", f"{tensorflow.__version__}, {'for GPUs' if cuda else 'for CPUs'}")
    model = gpus[0].split(": ")[1].split(" (UUID")[0] if gpus else ""
    text = f"the driver has {len(gpus) or 'none'}{model and f' ({model})'}, TensorFlow uses {used or 'none'}"
    if used < len(gpus):
        say("note", "GPU", f"{text}: {again} --gpu")
    else:
        say("ok", "GPU", text)
tools = version("cryosparc-tools")
only = f"not there; only gen_picks.py --cs needs it: {shlex.quote(sys.executable)} -m pip install cryosparc-tools"
say("ok" if tools else "note", "cryosparc-tools", tools or only)
EOF
}

check_environment() {
    local word=ok text lines script broken=() foreign
    if [ ! -e "$python" ]; then
        say MISSING environment "no $target: bash build.sh"
        return
    elif ! right_version "$python" || { [ "$target" = "$here/.venv" ] && ! venv_usable; }; then
        say MISSING environment "$target is unfinished, moved or of a Python that has gone: bash build.sh"
        return
    fi
    text="$target, Python $("$python" -c 'import sys; print(sys.version.split()[0])')"
    if [ "$state" != "$(checksum)" ]; then word=note text+=', not made by this build.sh: bash build.sh'; fi
    say "$word" environment "$text"
    lines=$(installed 2>/dev/null) || lines=$(printf 'MISSING\tpackages\tPython does not start: %s' "$again")
    while IFS=$'\t' read -r word name text; do say "$word" "$name" "$text"; done <<<"$lines"

    foreign=$(mktemp -d)
    echo 'raise RuntimeError' >"$foreign/argparse.py"
    for script in "${scripts[@]}"; do
        PYTHONPATH=$foreign PYTHONHOME=$foreign "$target/apbc-bin/$script" --help >/dev/null 2>&1 || broken+=("$script")
    done
    rm -r -- "$foreign"
    if [ ${#broken[@]} = 0 ]; then
        say ok launchers "${#scripts[@]} in $target/apbc-bin, which run whatever PYTHONPATH is"
    else
        say MISSING launchers "${broken[*]} in $target/apbc-bin: bash build.sh"
    fi
}

# Says what is there and exits; changes nothing.
check() {
    local PYTHON='' missing=0 word=ok text version commit='' again
    export PYTHONDONTWRITEBYTECODE=1
    again="rm -f $(quoted "$stamp"); bash build.sh"
    version=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' "$here/apbc_common/__init__.py" 2>/dev/null) || version='?'
    [ ! -e "$here/.git" ] || commit=$(git --no-optional-locks -C "$here" describe --always --dirty 2>/dev/null) || true
    say ok Autopick-BC "$version${commit:+ (commit $commit)}, $here"
    check_environment
    if ! text=$(command -v relion_refine); then
        say note RELION 'none on the PATH, which only its own jobs need'
    elif version=$(relion_refine --version 2>/dev/null | sed -n 's/^RELION version: *\([^ ]*\).*/\1/p') && [ -n "$version" ]; then
        say ok RELION "$version, $text"
    else
        say note RELION "$text does not tell its version"
    fi
    text=$(awk '/^MemTotal/ {t = $2} /^MemAvailable/ {a = $2}
        END {printf "%.1f GB of memory, %.1f of it free", t * 1.024e-6, a * 1.024e-6}' /proc/meminfo 2>/dev/null) || text='memory unknown'
    say ok machine "$(getconf _NPROCESSORS_ONLN) cores, $text"
    text=$({ df -Pk -- "$target" 2>/dev/null || df -Pk -- "$here"; } | awk 'NR == 2 {printf "%.1f", $4 * 1.024e-6}')
    if [ ! -e "$python" ] && [ "${text%.*}" -lt 2 ]; then word=note; fi
    say "$word" disk "$text GB free where the environment is; it takes 2, with CUDA more"
    exit "$missing"
}

wanted=${APBC_TF-} launchers='' checking=''
while [ $# -gt 0 ]; do
    case $1 in
    --cpu) wanted=cpu ;;
    --gpu) wanted=gpu ;;
    --check) checking=yes ;;
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
[ -z "$checking" ] || check

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
