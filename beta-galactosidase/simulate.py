#!/usr/bin/env python3
"""Make cryo-EM micrographs with known particles, and the RELION 3.1 project round them.

Example: simulate.py Demo --preset standard --micrographs 8 --seed 1

PROJECT/Micrographs/sim_0001.mrc   float32, electrons per pixel, 1.77 A/pixel, protein dark
PROJECT/micrographs_ctf.star       optics and micrographs tables with the true defocus
PROJECT/truth/sim_0001.csv         x,y,kind,rot,tilt,psi: see Truth below
PROJECT/simulation.json            every setting, and the box and diameter that suit the particle

The picture is a weak-phase one. Pseudo-atoms, ice contamination, carbon and the unevenness of the
ice add up to one map of phase shifts; the map goes through the CTF and a B-factor envelope, and the
electrons are counted (Poisson). Micrograph i depends on the seed and on i alone, not on how many
micrographs are made.

Truth: x, y are pixels of the MRC, first pixel 0,0: the centre of mass of the particle's projection.
good       a whole particle, alone, in the ice; with its view (RELION's rot, tilt, psi in degrees)
edge       a whole particle that may be picked or left: less than half a box from the border, or
           on the carbon or less than half a diameter from it (some people keep such particles,
           some do not; one picked there is neither right nor wrong)
aggregate  one particle of a clump, neither right nor wrong either
broken     a monomer, dimer or fragment: not to be picked
ice        contamination: not to be picked
"""

from __future__ import annotations

import argparse
import collections
import csv
import dataclasses
import json
import math
import pathlib
import sys

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from apbc_common import ApbcError, cli, files  # noqa: E402

APIX = 1.77  # A per pixel, as EMPIAR-10017
VOLTAGE_KV = 300.0
CS_MM = 2.0
AMPLITUDE_CONTRAST = 0.1
WAVELENGTH = 0.0196875  # A, electrons of 300 kV

PAD = 112  # pixels round the frame: as far as the CTF of 3.4 um carries at 3.5 A
FULL_SIZE = 4096  # counts in the presets are for a micrograph of this edge

ICE_PHASE = 3.3e-3  # rad per A of ice on the surface: mean inner potential of 5 V at 300 kV
CARBON_PHASE = 0.7  # rad, mean: about 140 A of amorphous carbon
CARBON_GRAIN = 3.0  # phase noise of carbon, in units of that of ice
HOLE_RADIUS = 6000.0  # A: the holes of a 1.2 um foil
ICE_DIAMETER = (90.0, 420.0)  # A, smallest and largest contamination

HEADER = f"""
# version 30001

data_optics

loop_
_rlnOpticsGroupName #1
_rlnOpticsGroup #2
_rlnMicrographOriginalPixelSize #3
_rlnVoltage #4
_rlnSphericalAberration #5
_rlnAmplitudeContrast #6
_rlnMicrographPixelSize #7
opticsGroup1 1 {APIX:.6f} {VOLTAGE_KV:.6f} {CS_MM:.6f} {AMPLITUDE_CONTRAST:.6f} {APIX:.6f}


# version 30001

data_micrographs

loop_
_rlnMicrographName #1
_rlnOpticsGroup #2
_rlnDefocusU #3
_rlnDefocusV #4
_rlnDefocusAngle #5
_rlnCtfImage #6
_rlnCtfMaxResolution #7
_rlnCtfFigureOfMerit #8
"""


@dataclasses.dataclass(frozen=True)
class Settings:
    """Everything that decides the pixels; counts are per micrograph unless said otherwise."""

    preset: str
    seed: int
    micrographs: int
    size: int  # px
    particle: str  # tetramer or globule
    particles: int  # whole, single particles (good and edge)
    contrast: float  # mrad of phase per A of protein, less that of the ice it displaces
    contamination: float  # pieces of ice per 4096 x 4096 px
    carbon: float  # share of the micrographs that show the foil
    broken: float  # broken particles per whole one
    aggregates: float  # clumps per 4096 x 4096 px
    dose: float  # electrons per A^2
    defocus_min: float  # um
    defocus_max: float  # um
    bfactor: float  # A^2
    noise: float  # mrad per pixel: the atoms of the ice (white)
    mottle: float  # mrad: uneven ice, 50 to 1000 A
    labels: int  # particles a user would label; a suggestion, nothing here depends on it


# The contrast of standard gives a signal-to-noise ratio of 0.1: variance of the particle within its
# diameter over that of everything else, per pixel, at 2.2 um. It is 3 V of mean inner potential
# above the ice.
# Best F1 over all cuts of RELION 3.1.3's LoG picker, 4 micrographs each (few: 8), seeds 1 and 2:
# relion_autopick --i micrographs_ctf.star --odir AutoPick/ --pickname autopick --LoG
#   --LoG_diam_min 120 --LoG_diam_max 200 (few: 220 and 320) --shrink 0 --lowpass 20
#   --LoG_adjust_threshold -1.5 (so low that the cuts cover the whole curve)
# standard 0.65 and 0.68, hard 0.52 and 0.56, few 0.63 and 0.63. It hardly depends on the contrast:
# what LoG can't tell apart are whole and broken particles, and ice. (standard 0.63 at 1.2, 0.68 at
# 3.0). With 140 to 220 A, standard has 0.76, hard 0.63.
PRESETS = {
    "standard": {
        "particle": "tetramer",
        "micrographs": 12,
        "particles": 350,
        "contrast": 2.0,
        "contamination": 70.0,
        "carbon": 0.3,
        "broken": 0.95,
        "aggregates": 8.0,
        "dose": 40.0,
        "defocus_min": 0.9,
        "defocus_max": 3.4,
        "bfactor": 200.0,
        "noise": 30.0,
        "mottle": 10.0,
        "labels": 2000,
    },
}
PRESETS["hard"] = PRESETS["standard"] | {
    "contrast": 1.5,
    "contamination": 140.0,
    "carbon": 0.5,
    "broken": 1.9,
}
PRESETS["few"] = PRESETS["standard"] | {
    "particle": "globule",
    "particles": 110,
    "broken": 0.7,
    "contrast": 0.37,
    "contamination": 60.0,
    "labels": 600,
}


# --- the particles -------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Particle:
    """Pseudo-atoms of a particle, its centre of mass at the origin."""

    atoms: np.ndarray  # (subunits, N, 3) A
    volume: float  # A^3 of protein in the whole particle
    diameter: float  # A, what a user would type
    box: int  # px, the extraction box that suits it

    @property
    def diameter_px(self) -> float:
        """Diameter in micrograph pixels."""
        return self.diameter / APIX

    @property
    def atom_area(self) -> float:
        """Protein of one pseudo-atom spread over one pixel: A of thickness."""
        return self.volume / (self.atoms.shape[0] * self.atoms.shape[1]) / APIX**2


# x, y, z, radius (A) of the five domains of one subunit and of the two arms that tie it to its
# neighbours; no copy of a real structure, only its size and lumpiness
DOMAINS = (
    (12, 16, -6, 26),
    (44, 27, 10, 27),
    (58, 16, -14, 21),
    (34, 44, 6, 21),
    (56, 42, -8, 20),
    (10, 38, 16, 19),
    (30, 9, 12, 20),
)
# the four rotations of D2 with its axes on x, y and z
D2 = np.array([(1, 1, 1), (-1, -1, 1), (-1, 1, -1), (1, -1, -1)], float)


def tetramer() -> Particle:
    """Beta-galactosidase-like particle: D2, 175 x 135 x 90 A along x, y, z, 465 kDa."""
    rng = np.random.default_rng(10017)  # fixed: the particle is the same whatever the seed
    xyz = points_in_balls(rng, np.array(DOMAINS, float), spacing=6.0)
    xyz = xyz[(xyz[:, 0] > 1) & (xyz[:, 1] > 1)]  # within its own quarter
    xyz *= np.array([87.5, 67.5, 45.0]) / np.abs(xyz).max(axis=0)
    return Particle(D2[:, None, :] * xyz, volume=563e3, diameter=180.0, box=216)


def globule() -> Particle:
    """Compact lumpy particle without symmetry, 270 A across, 2.1 MDa."""
    rng = np.random.default_rng(270)
    centres = rng.normal(size=(60, 3))
    centres *= (105 * rng.random((60, 1)) ** (1 / 3)) / np.linalg.norm(centres, axis=1)[:, None]
    xyz = points_in_balls(rng, np.c_[centres, rng.uniform(22, 34, 60)], spacing=9.0)
    xyz -= xyz.mean(axis=0)
    xyz *= 135 / np.linalg.norm(xyz, axis=1).max()
    return Particle(xyz[None], volume=2.6e6, diameter=270.0, box=324)


def points_in_balls(rng, balls, spacing):
    """Points (N, 3) about `spacing` A apart that fill the union of balls (N, 4: x, y, z, radius).

    A shaken lattice, not random points: those would bunch and give the particle a grain of its own.
    """
    low = (balls[:, :3] - balls[:, 3:]).min(axis=0)
    high = (balls[:, :3] + balls[:, 3:]).max(axis=0)
    axes = [np.arange(a, b, spacing) for a, b in zip(low, high, strict=True)]
    xyz = np.stack(np.meshgrid(*axes), axis=-1).reshape(-1, 3)
    xyz = xyz + rng.uniform(-0.5, 0.5, xyz.shape) * spacing
    apart = np.linalg.norm(xyz[:, None] - balls[None, :, :3], axis=2)
    return xyz[(apart < balls[:, 3]).any(axis=1)]


def euler_matrix(rot, tilt, psi):
    """Rotation (3, 3) from the particle to its view, RELION's ZYZ angles in degrees."""
    a, b, g = np.radians([rot, tilt, psi])
    about = np.array([[math.cos(a), math.sin(a), 0], [-math.sin(a), math.cos(a), 0], [0, 0, 1]])
    tip = np.array([[math.cos(b), 0, -math.sin(b)], [0, 1, 0], [math.sin(b), 0, math.cos(b)]])
    spin = np.array([[math.cos(g), math.sin(g), 0], [-math.sin(g), math.cos(g), 0], [0, 0, 1]])
    return spin @ tip @ about


def random_view(rng):
    """One of the uniformly distributed orientations: rot, tilt, psi in degrees."""
    rot, psi = rng.uniform(-180, 180, 2)
    return float(rot), math.degrees(math.acos(rng.uniform(-1, 1))), float(psi)


def break_off(rng, particle: Particle):
    """Atoms (N, 3) of a monomer, a dimer or a fragment, centred on its own centre of mass."""
    subunits = len(particle.atoms)
    if subunits > 1 and rng.random() < 0.85:
        kept = rng.choice(subunits, size=1 if rng.random() < 0.6 else 2, replace=False)
        xyz = particle.atoms[kept].reshape(-1, 3)
    else:  # what lies on one side of a random plane: 20 to 45 % of the particle
        xyz = particle.atoms.reshape(-1, 3)
        direction = euler_matrix(*random_view(rng))[2]
        height = xyz @ direction
        xyz = xyz[height > np.quantile(height, rng.uniform(0.55, 0.80))]
    return xyz - xyz.mean(axis=0)


# --- where things lie ----------------------------------------------------------------------------


@dataclasses.dataclass
class Item:
    """One thing in a micrograph; x, y in pixels of the frame."""

    kind: str
    x: float
    y: float
    view: tuple[float, float, float] = (0.0, 0.0, 0.0)
    atoms: np.ndarray | None = None  # (N, 3) A; None for ice
    radius: float = 0.0  # px, ice only


class Ground:
    """The frame and the discs already taken on it."""

    def __init__(self, rng, size):
        self.rng, self.size = rng, size
        self.discs = np.empty((0, 3))

    def place(self, radius, allowed=lambda x, y: True, tries=300):
        """Free x, y for a disc of radius px, then taken; None if none was found."""
        for _ in range(tries):
            x, y = self.rng.uniform(0, self.size - 1, 2)
            apart = np.hypot(self.discs[:, 0] - x, self.discs[:, 1] - y)
            if (apart >= self.discs[:, 2] + radius).all() and allowed(x, y):
                self.discs = np.vstack([self.discs, (x, y, radius)])
                return float(x), float(y)
        return None


def lay_out(rng, settings: Settings, particle: Particle, carbon) -> list[Item]:
    """Items of one micrograph: ice, clumps, whole particles and broken ones, in that order.

    Whole particles keep 0.9 diameters between centres, broken ones 0.75 from whole ones, and none
    lies under ice. `carbon` is None or a function giving the depth into the carbon in pixels.
    """
    ground = Ground(rng, settings.size)
    area = (settings.size / FULL_SIZE) ** 2
    items = place_ice(ground, rng.poisson(settings.contamination * area))
    for _ in range(rng.poisson(settings.aggregates * area)):
        items += place_clump(ground, particle)

    def allowed(x, y):  # fewer particles go to the carbon than into the ice
        return carbon is None or carbon(x, y) < 0 or rng.random() < 0.3

    for _ in range(settings.particles):
        xy = ground.place(0.45 * particle.diameter_px, allowed)
        if xy:
            kind = "edge" if beside(*xy, settings.size, particle, carbon) else "good"
            items.append(Item(kind, *xy, random_view(rng), particle.atoms.reshape(-1, 3)))
    for _ in range(round(settings.broken * settings.particles)):
        xy = ground.place(0.30 * particle.diameter_px, allowed)
        if xy:
            items.append(Item("broken", *xy, random_view(rng), break_off(rng, particle)))
    return items


def beside(x, y, size, particle, carbon) -> bool:
    """Whether a centre is within half a box of the border or half a diameter of the carbon."""
    border = min(x, y, size - 1 - x, size - 1 - y)
    return border < particle.box / 2 or (
        carbon is not None and carbon(x, y) > -particle.diameter_px / 2
    )


def place_ice(ground, count):
    """Pieces of ice; small ones are the more frequent."""
    low, high = ICE_DIAMETER
    items = []
    for radius in low * (high / low) ** ground.rng.random(count) ** 1.6 / 2 / APIX:
        xy = ground.place(radius)
        if xy:
            items.append(Item("ice", *xy, radius=float(radius)))
    return items


def place_clump(ground, particle):
    """Four to twelve touching particles, each put against one already there."""
    rng, step = ground.rng, particle.diameter_px
    members = np.zeros((1, 2))
    for _ in range(rng.integers(3, 12)):
        angle, reach = rng.uniform(0, 2 * math.pi), rng.uniform(0.55, 0.8) * step
        new = members[rng.integers(len(members))] + reach * np.array(
            [math.cos(angle), math.sin(angle)]
        )
        if (np.linalg.norm(members - new, axis=1) > 0.5 * step).all():
            members = np.vstack([members, new])
    members -= members.mean(axis=0)
    xy = ground.place(np.linalg.norm(members, axis=1).max() + 0.5 * step)
    if xy is None:
        return []
    members += xy
    inside = ((members >= 0) & (members <= ground.size - 1)).all(axis=1)
    whole = particle.atoms.reshape(-1, 3)
    return [
        Item("aggregate", float(x), float(y), random_view(rng), whole) for x, y in members[inside]
    ]


def carbon_depth(rng, size):
    """Depth into the carbon (px, negative in the hole) as a function of x, y in the frame.

    The edge is an arc of a round hole that takes 10 to 40 % off one side of the frame.
    """
    radius = HOLE_RADIUS / APIX
    angle = rng.uniform(0, 2 * math.pi)
    reach = size * (0.5 - rng.uniform(0.1, 0.4))  # from the middle of the frame to the edge
    cx = size / 2 - (radius - reach) * math.cos(angle)
    cy = size / 2 - (radius - reach) * math.sin(angle)
    waves, phases = rng.uniform(1, 4, 3), rng.uniform(0, 2 * math.pi, 3)

    def depth(x, y):
        turn = np.arctan2(y - cy, x - cx)
        rough = sum(
            w * np.sin(n * turn + p) for n, w, p in zip((20, 47, 90), waves, phases, strict=True)
        )
        return np.hypot(x - cx, y - cy) - radius + rough

    return depth


# --- the picture ---------------------------------------------------------------------------------


def splat(shape, xy, weight):
    """Map float32 of `shape` with points xy (N, 2) shared among their four nearest pixels.

    Bilinear shares keep each point's centre of mass exactly. Points outside are left out.
    """
    corner = np.floor(xy).astype(np.int64)
    part = (xy - corner).astype(np.float32)
    inside = ((corner >= 0) & (corner < np.array(shape[::-1]) - 1)).all(axis=1)
    (x, y), (fx, fy), weight = corner[inside].T, part[inside].T, weight[inside]
    place = y * shape[1] + x
    index = np.concatenate([place, place + 1, place + shape[1], place + shape[1] + 1])
    share = np.concatenate([(1 - fx) * (1 - fy), fx * (1 - fy), (1 - fx) * fy, fx * fy])
    total = np.bincount(index, np.tile(weight, 4) * share, minlength=shape[0] * shape[1])
    return total.astype(np.float32).reshape(shape)


def protein_map(items, particle, edge, pad):
    """Thickness of protein (A): float32 (edge, edge), the frame starting at pixel pad, pad."""
    points = [np.empty((0, 2))]
    for item in items:
        if item.atoms is not None:
            view = euler_matrix(*item.view)[:2]  # the projection keeps x and y of the view
            points.append(item.atoms @ view.T / APIX + (item.x + pad, item.y + pad))
    xy = np.concatenate(points)
    return splat((edge, edge), xy, np.full(len(xy), particle.atom_area, np.float32))


def add_ice(phase, rng, items, pad):
    """Add the phase (rad) of each piece of ice: a lumpy flat-topped disc with grains in it."""
    for item in items:
        if item.kind != "ice":
            continue
        reach = math.ceil(1.5 * item.radius)
        x0, y0 = round(item.x) + pad - reach, round(item.y) + pad - reach
        left, top = max(x0, 0), max(y0, 0)
        window = phase[top : y0 + 2 * reach + 1, left : x0 + 2 * reach + 1]
        y, x = np.mgrid[: window.shape[0], : window.shape[1]]
        dx, dy = x + left - pad - item.x, y + top - pad - item.y
        window += ice_piece(rng, dx, dy, item.radius)


def ice_piece(rng, dx, dy, radius):
    """Phase (rad, float32) of a piece of ice at offsets dx, dy (px) from its centre."""
    turn = np.arctan2(dy, dx)
    amount, start = rng.normal(0, 1, 5) * (0.12, 0.06, 0.03, 0.02, 0.02), rng.uniform(0, 6.28, 5)
    outline = 1 + sum(
        a * np.cos(n * turn + s) for n, a, s in zip((2, 3, 4, 5, 6), amount, start, strict=True)
    )
    depth = np.clip(1 - (np.hypot(dx, dy) / (radius * outline)) ** 2, 0, 1)
    thickness = 2 * radius * APIX * rng.uniform(0.15, 0.40)  # A: ice lies flat on the film
    grain = 1 + 0.15 * rng.standard_normal(dx.shape)
    return (ICE_PHASE * thickness * depth ** rng.uniform(0.4, 0.9) * grain).astype(np.float32)


def mottle_map(rng, edge, rms):
    """Smooth random map (edge, edge) float32 of given rms: 1/k amplitude from 50 to 1000 A."""
    from scipy import fft

    step = 8  # made on a coarse grid: its finest feature is over 3 of these pixels
    coarse = edge // step + 2
    k = np.hypot(fft.fftfreq(coarse)[:, None], fft.rfftfreq(coarse)[None]) / (step * APIX)
    shape = np.exp(-((k * 50) ** 2) / 2) / np.hypot(k, 1 / 1000)
    shape[0, 0] = 0
    white = rng.standard_normal((coarse, coarse))
    field = fft.irfft2(fft.rfft2(white) * shape, s=white.shape)
    field = (field * (rms / max(field.std(), 1e-12))).astype(np.float32)
    whole, part = np.divmod(np.arange(edge, dtype=np.float32) / step, 1)
    low = whole.astype(int)
    field = field[low] * (1 - part[:, None]) + field[low + 1] * part[:, None]
    return field[:, low] * (1 - part) + field[:, low + 1] * part


def transfer(edge, defocus_u, defocus_v, angle, bfactor):
    """CTF with its envelope, float32 (edge, edge // 2 + 1), for numpy's rfft2 order.

    Defocus in A (positive: underfocus), angle of defocus_u from x in degrees, B-factor in A^2. The
    sign is that of a micrograph: negative at low frequencies, so protein is dark. It is minus the
    CTF of RELION (ctf.h of 3.1), which takes particles as white.
    """
    from scipy import fft

    kx = fft.rfftfreq(edge, APIX).astype(np.float32)[None]
    ky = fft.fftfreq(edge, APIX).astype(np.float32)[:, None]
    k2 = kx**2 + ky**2
    mean, half = (defocus_u + defocus_v) / 2, (defocus_u - defocus_v) / 2
    a = math.radians(2 * angle)
    # half k^2 cos(2 (theta - angle)) without dividing by k^2
    focus = mean * k2 + half * (math.cos(a) * (kx**2 - ky**2) + math.sin(a) * 2 * kx * ky)
    chi = math.pi * WAVELENGTH * focus
    chi -= np.float32(math.pi / 2 * CS_MM * 1e7 * WAVELENGTH**3) * k2**2
    chi += math.asin(AMPLITUDE_CONTRAST)
    return -np.sin(chi) * np.exp(np.float32(-bfactor / 4) * k2)


def foil(edge, pad, carbon):
    """Share of carbon (0 to 1, float32, (edge, edge)) of each pixel; the edge is 15 A wide."""
    y, x = np.ogrid[:edge, :edge]
    depth = carbon(x.astype(np.float32) - pad, y.astype(np.float32) - pad)
    return np.clip(depth * (APIX / 15) + 0.5, 0, 1).astype(np.float32)


def picture(rng, settings, particle, items, carbon, defocus):
    """Electrons counted in each pixel: float32 (size, size).

    `defocus` is U, V (A) and the angle of U (degrees). The picture is made with PAD pixels more on
    each side, for what lies there reaches into the frame, and the FFT joins opposite borders.
    """
    from scipy import fft

    edge = fft.next_fast_len(settings.size + 2 * PAD, real=True)
    uneven = rng.uniform(0.85, 1.15)  # thick ice takes contrast, thin ice gives it
    phase = protein_map(items, particle, edge, PAD) * np.float32(1e-3 * settings.contrast * uneven)
    add_ice(phase, rng, items, PAD)
    phase += mottle_map(rng, edge, 1e-3 * settings.mottle)
    grain = rng.standard_normal((edge, edge), dtype=np.float32) * np.float32(1e-3 * settings.noise)
    if carbon:
        share = foil(edge, PAD, carbon)
        phase += CARBON_PHASE * share
        grain *= 1 + (CARBON_GRAIN - 1) * share
    spectrum = fft.rfft2(phase + grain, overwrite_x=True)
    spectrum *= transfer(edge, *defocus, settings.bfactor)
    image = fft.irfft2(spectrum, s=(edge, edge), overwrite_x=True)
    image = image[PAD : PAD + settings.size, PAD : PAD + settings.size]
    expected = settings.dose * APIX**2 * (1 + 2 * image) * beam(rng, settings.size)
    return rng.poisson(np.maximum(expected, 0)).astype(np.float32)


def beam(rng, size):
    """Uneven illumination (size, size) float32, a few per cent round 1."""
    across = np.linspace(-1, 1, size, dtype=np.float32)
    a, b, c = rng.normal(0, 0.01, 3).astype(np.float32)
    return 1 + a * across + (b * across + c * across**2)[:, None]


# --- one micrograph, and the project -------------------------------------------------------------


def spread(index, seed, step):
    """Return a number in 0 to 1 for micrograph `index`, evenly spread whatever the count.

    An additive recurrence with an irrational step, started anywhere by the seed.
    """
    return (np.random.default_rng([seed, round(step * 1e6)]).random() + index * step) % 1


def defocus_of(settings, index):
    """Defocus U, V (A) and the angle of U (degrees) of micrograph `index`."""
    rng = np.random.default_rng([settings.seed, index, 1])
    share = spread(index, settings.seed, (math.sqrt(5) - 1) / 2)
    mean = settings.defocus_min + share * (settings.defocus_max - settings.defocus_min)
    half = rng.uniform(0, 0.02) * mean  # astigmatism up to 4 %
    angle = rng.uniform(0, 180)
    return tuple(round(v, 6) for v in (1e4 * (mean + half), 1e4 * (mean - half), angle))


def make_micrograph(settings, particle, index):
    """Picture (size, size) float32 and items of micrograph `index` (from 0)."""
    rng = np.random.default_rng([settings.seed, index, 2])
    shown = spread(index, settings.seed, math.sqrt(2) - 1) < settings.carbon
    carbon = carbon_depth(rng, settings.size) if shown else None
    items = lay_out(rng, settings, particle, carbon)
    defocus = defocus_of(settings, index)
    return picture(rng, settings, particle, items, carbon, defocus), items


def stem_of(index):
    """Name of micrograph `index` (from 0), counted from 1 as people do."""
    return f"sim_{index + 1:04d}"


def write_truth(path, items):
    """Write the CSV of one micrograph; views stand beside whole particles."""
    lines = ["x,y,kind,rot,tilt,psi"]
    for item in items:
        whole = item.kind in ("good", "edge", "aggregate")
        view = ",".join(f"{angle:.3f}" for angle in item.view) if whole else ",,"
        lines.append(f"{item.x:.3f},{item.y:.3f},{item.kind},{view}")
    files.write_text(path, "\n".join(lines) + "\n")


def micrographs_star(settings):
    """Text of micrographs_ctf.star."""
    rows = []
    for index in range(settings.micrographs):
        u, v, angle = defocus_of(settings, index)
        name = f"Micrographs/{stem_of(index)}.mrc"
        rows.append(f"{name} 1 {u:.6f} {v:.6f} {angle:.6f} None 4.000000 0.100000\n")
    return HEADER + "".join(rows) + "\n"


def record_of(settings, particle):
    """Return what simulation.json holds: the settings, and what goes with the particle."""
    return dataclasses.asdict(settings) | {
        "apix": APIX,
        "voltage_kv": VOLTAGE_KV,
        "cs_mm": CS_MM,
        "amplitude_contrast": AMPLITUDE_CONTRAST,
        "diameter": particle.diameter,
        "box": particle.box,
    }


def claim(project, record):
    """Make sure the folder is new or holds the same simulation, and leave the record in it."""
    path = project / "simulation.json"
    if path.exists():
        try:
            old = json.loads(path.read_text())
        except ValueError as err:
            raise ApbcError(f"{path}: {err}") from err
        differing = [key for key in record if old.get(key) != record[key]]
        if differing:
            told = ", ".join(f"{k} {old.get(k)}, not {record[k]}" for k in differing[:3])
            raise ApbcError(f"{project} was made with other options ({told}); name a new one")
        return
    taken = [n for n in ("Micrographs", "truth", "micrographs_ctf.star") if (project / n).exists()]
    if taken:
        told = f"{taken[0]} there is not of a simulation; name a new folder"
        raise ApbcError(f"{project}: {told}")
    text = json.dumps(record, indent=2) + "\n"
    files.write_text(path, text)


def simulate(project, settings):
    """Make the project, or what is missing of it."""
    from apbc_common import mrc

    particle = tetramer() if settings.particle == "tetramer" else globule()
    claim(project, record_of(settings, particle))
    made, kinds = 0, collections.Counter()
    for index in cli.progress(range(settings.micrographs), "micrographs"):
        stem = stem_of(index)
        image_path = project / "Micrographs" / f"{stem}.mrc"
        truth_path = project / "truth" / f"{stem}.csv"
        if not (image_path.exists() and truth_path.exists()):
            image, items = make_micrograph(settings, particle, index)
            write_truth(truth_path, items)
            mrc.write(image_path, image, APIX)
            made += 1
        with truth_path.open() as handle:
            kinds.update(row["kind"] for row in csv.DictReader(handle))
    star = project / "micrographs_ctf.star"
    if not star.exists():
        files.write_text(star, micrographs_star(settings))
    told = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    wanted = settings.micrographs * settings.particles
    missing = wanted - kinds["good"] - kinds["edge"]
    if missing:
        told += f" ({missing} particles of {wanted} found no room)"
    print(f"{settings.micrographs} micrographs ({made} made now): {told} -> {project}")


# --- the command line ----------------------------------------------------------------------------


def number(low, high, kind=float):
    """Return an argparse type: a number from low to high."""

    def parse(text):
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text}: expected {low} to {high}")
        return value

    return parse


def build_parser():
    """Return the parser; an option left out takes the preset's value."""
    description, _, epilog = __doc__.partition("\n\n")
    parser = argparse.ArgumentParser(
        prog="simulate.py",
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("project", type=pathlib.Path, help="folder to make (or to finish)")
    add("--preset", choices=sorted(PRESETS), default="standard", help="default: standard")
    add("--seed", type=number(0, 2**31, int), default=1, help="default: 1")
    add("--micrographs", type=number(1, 9999, int), metavar="N", help="how many")
    add("--size", type=number(256, 16384, int), default=FULL_SIZE, help="edge (px; default: 4096)")
    add("--particles", type=number(0, 100000, int), metavar="N", help="whole ones a micrograph")
    group = parser.add_argument_group("instead of the preset's value")
    add = group.add_argument
    add("--particle", choices=("tetramer", "globule"), help="180 A with D2, or 270 A with none")
    add("--contrast", type=number(0, 10), help="of protein to ice (mrad of phase per A)")
    add("--contamination", type=number(0, 1000), help="pieces of ice (per 4096 x 4096 px)")
    add("--carbon", type=number(0, 1), help="share of micrographs that show the carbon")
    add("--broken", type=number(0, 10), help="broken particles per whole one")
    add("--aggregates", type=number(0, 1000), help="clumps (per 4096 x 4096 px)")
    add("--dose", type=number(1, 1000), help="electrons per A^2")
    add("--defocus-min", type=number(0, 10), help="least underfocus (um)")
    add("--defocus-max", type=number(0, 10), help="greatest underfocus (um)")
    add("--bfactor", type=number(0, 2000), help="of the envelope (A^2)")
    add("--noise", type=number(0, 1000), help="of the ice's atoms (mrad per pixel)")
    add("--mottle", type=number(0, 1000), help="of uneven ice, 50 to 1000 A (mrad)")
    return parser


def settings_from(parser, args) -> Settings:
    """Fill in from the preset what the command line leaves open; counts go with the area."""
    values = PRESETS[args.preset] | {"preset": args.preset, "seed": args.seed, "size": args.size}
    values["particles"] = round(values["particles"] * (args.size / FULL_SIZE) ** 2)
    given = {k: v for k, v in vars(args).items() if k != "project" and v is not None}
    values |= given
    if values["defocus_min"] > values["defocus_max"]:
        parser.error("argument --defocus-min: greater than --defocus-max")
    return Settings(**values)


def main(argv=None) -> int:
    """Run the command line; return the exit code."""
    parser = build_parser()
    args = parser.parse_args(argv)
    return cli.run(parser.prog, simulate, args.project, settings_from(parser, args))


if __name__ == "__main__":
    sys.exit(main())
