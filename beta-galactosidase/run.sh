#!/usr/bin/env bash
#
# The worked example: from micrographs to picks, with a table of what each way brought.
#
#   bash beta-galactosidase/run.sh           simulated micrographs, whose truth is known
#   bash beta-galactosidase/run.sh PATH      your copy of EMPIAR-10017 with its .box labels
#
# The project goes to beta-galactosidase/project, or project-real with PATH (APBC_PROJECT=DIR: to DIR). What is there is kept: a run that
# was stopped goes on. APBC_RELION=no does without RELION where it is installed.

set -euo pipefail

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)
source=${1:+$(realpath -- "$1")}
project=${APBC_PROJECT:-$here/project${source:+-real}}
[ -z "$source" ] || [ -d "$source" ] || { echo "run.sh: error: $1: no such folder" >&2; exit 2; }

bash "$here/../build.sh"
export PATH="$here/../.venv/bin:$PATH"
[ "${CONDA_DEFAULT_ENV-}" != apbc ] || export PATH="$CONDA_PREFIX/bin:$PATH"
unset PYTHONPATH PYTHONHOME

box=216 scale=64 apix=1.77 diameter=180
mkdir -p "$project"
cd "$project"

has_relion() { [ "${APBC_RELION-}" != no ] && command -v relion_preprocess >/dev/null; }
step() { echo "== $*"; }
ours() { python "$here/../$1.py" "${@:2}"; }
example() { python "$here/$1.py" "${@:2}"; }

# extract MICROGRAPHS COORD_DIR/ SUFFIX JOB/: boxes of 216 px, scaled to 64, normalised, inverted.
extract() {
    if [ -s "$4particles.star" ]; then return; fi
    if has_relion; then
        relion_preprocess --i "$1" --coord_dir "$2" --coord_suffix "$3" --part_dir "$4" \
            --part_star "$4particles.part" --extract --extract_size $box --scale $scale --norm \
            --bg_radius $((scale * 3 / 8)) --invert_contrast >"${4%/}.log" 2>&1 ||
            { tail "${4%/}.log" >&2; exit 1; }
        mv "$4particles.part" "$4particles.star"
    else
        example extract -i "$1" --coord-dir "$2" --coord-suffix "$3" --o "$4" --box $box --scale $scale
    fi
}

# autopick MICROGRAPHS DIR/: candidates by a Laplacian of Gaussian.
autopick() {
    if has_relion; then
        relion_autopick --i "$1" --odir "$2" --pickname autopick --LoG --LoG_diam_min 120 --LoG_diam_max 200 \
            --shrink 0 --lowpass 20 --LoG_upper_threshold 5 --only_do_unfinished >"${2%/}.log" 2>&1 ||
            { tail "${2%/}.log" >&2; exit 1; }
    else
        example pick_log -i "$1" --diameter 200 --min-diameter 120 --lower 0.2 --upper 1.5 --o "$2"
    fi
}

if [ -z "$source" ]; then
    step "simulate: 12 micrographs, half of them to learn from, half to pick"
    example simulate . --preset standard --micrographs 12
    awk '!/^ *Micrographs\// || ++n % 2 == 1' micrographs_ctf.star >train.star
    awk '!/^ *Micrographs\// || ++n % 2 == 0' micrographs_ctf.star >test.star
    step "candidates: $(has_relion && echo relion_autopick || echo pick_log.py), then extraction"
    mkdir -p Extract AutoPick
    autopick train.star AutoPick/train/
    autopick test.star AutoPick/test/
    extract train.star AutoPick/train/ _autopick.star Extract/job005/
    step "stand-in for the selection of 2D classes: the truth, 5 % of the labels wrong, 5 A off the centre"
    example label -i Extract/job005/particles.star --truth truth --diameter $diameter --apix $apix --centring 5
    good=Select/good/particles.star bad=Select/bad/particles.star learn=train.star pick=test.star
else
    step "labels from .box files"
    example box_to_star --from "$source" --apix $apix
    mkdir -p Extract
    for kind in good bad; do
        extract micrographs_ctf.star "Labels/$kind/" _manual.star "Extract/$kind/"
    done
    good=Extract/good/particles.star bad=Extract/bad/particles.star
    learn=micrographs_ctf.star pick=micrographs_ctf.star
fi

step "the direct way: gen_data.py, gen_model.py, gen_picks.py"
ours gen_data -g $good -b $bad -m $learn --from-micrographs
ours gen_model
ours gen_picks -i $pick
first=$(awk '/^ *Micrographs\// { print $1; exit }' $pick)
ours show_picks -m "$first" -s ClassBin/picks/picks.star
ours show_picks --report

step "the classic way: gen_data.py, gen_model.py, gen_grid.py, extraction, gen_picks.py, into Classic"
ours gen_data -g $good -b $bad -m $learn --o Classic
ours gen_model --data Classic --o Classic
ours gen_grid -i $pick -x $box
extract $pick ClassBin/grid/ _grid.star Extract/job014/
ours gen_picks -i Extract/job014/particles.star -m $pick --min-distance 280 --model Classic/model.h5 --o Classic
for list in true false unique; do
    ours show_picks -m "$first" -s Classic/particles_$list.star -x $box
done

if [ -z "$source" ]; then
    step "against the truth, on the half that was not learnt from (labels: the truth with 5 % wrong)"
    mkdir -p truth_test
    awk '/^ *Micrographs\// { print $1 }' test.star | while read -r name; do
        name=$(basename "$name" .mrc)
        cp "truth/$name.csv" truth_test/
    done
    example score --truth truth_test --diameter $diameter --apix $apix direct=ClassBin/picks/picks.star \
        autopick=AutoPick/test/ grid=Classic/particles_true.star grid-unique=Classic/particles_unique.star |
        tee table.txt
fi
echo "done: report in $project/ClassBin/report.html, pictures in $project/ClassBin/pngs"
