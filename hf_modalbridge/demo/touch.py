"""A seeded physical model of a fingertip that slides over materials: touch data that anyone may have.

It gives what a BioTac-like sensor records, 400 frames at 100 Hz of 44 channels: temperature (tdc), heat flow (tac),
pressure (pdc), 22 samples a frame of vibration at 2,200 Hz (pac1 to pac22) and 19 electrodes (ele1 to ele19). The model
is coarse and every constant is made up to be of the right size; it is no substitute for a sensor. With a load N(t), a
speed v, and a material's Young's modulus E, texture, friction and thermal effusivity e:

1. Contact (Hertz, a sphere of radius R on a half space): a = (3 N R / (4 E*))^(1/3), 1/E* = 0.75 (1/E + 1/E_finger),
   indentation d = a^2 / R.
2. Friction (one spring and a Coulomb contact): F' = k v while it sticks; when F > mu_s N it slips, the spring relaxes
   to mu_k N within one sample, and the skin rings: r(t) = (F_before - F_after) exp(-t / 8 ms) sin(2 pi 190 t).
3. Texture: h(x) = A [(1 - q) sqrt(2) cos(2 pi x / l) + q n(x)], n a random profile of unit variance whose power
   falls as 1 / (1 + (l k / 4 pi)^2), q the irregularity, and x the place of the skin; where it sticks, x stands still.
   The patch averages over itself: wavelengths below a / 6 fade as 1 / (1 + (a k / 12 pi)^2).
4. Vibration: pac = high pass at 10 Hz of [c1 E* / E_finger h(x(t)) + c2 r(t)] + noise. pdc = c3 N(t) + slow noise.
5. Heat (two half spaces): heat flow q(t) = (T_finger - T_room) e e_f / (e + e_f) / sqrt(pi (t + t0)) is tac;
   tdc is its integral through a leaking capacity, T' = -c4 q + (T_finger - T) / tau.
6. Electrodes: at places p_j on the tip, ele_j = g_j d(t) exp(-|p_j - c(t)|^2 / (2 a(t)^2 s^2)) + drift; the centre
   c moves with the tangential force.

Each recording draws its own load, tremor, speed, approach, room temperature, sensor gains and noise, and in the data of
`load_touch` its own specimen of the material (`TouchMaterial.specimen`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hf_modalbridge.data.recordings import TouchRecordings
from hf_modalbridge.demo.touch_materials import MATERIALS, UNSEEN_MATERIALS, TouchMaterial

__all__ = ["TOUCH_SPLITS", "generate_touch", "load_touch"]

FRAMES, FRAME_RATE, SUBSAMPLES, ELECTRODES = 400, 100, 22, 19
TOUCH_SPLITS = {"train": (MATERIALS, 0, 40), "test": (MATERIALS, 40, 50), "unseen": (UNSEEN_MATERIALS, 0, 50)}
"""For each split its materials and which recordings of each belong to it."""

_RADIUS, _FINGER_KPA, _FINGER_EFFUSIVITY = 7.0, 150.0, 1.2  # mm, kPa, kW s^0.5 / (m^2 K)
_TIP = np.random.default_rng(20).uniform(-1, 1, (ELECTRODES, 2)) * (4.0, 6.0)  # mm


def generate_touch(material: TouchMaterial, seed: int | Sequence[int]) -> np.ndarray:
    """Generate one recording; see the module for the model.

    Args:
        material: What is touched.
        seed: Seed of load, speed, gains and noise; the same gives the same recording.

    Returns:
        `(400, 44)` float32: tdc, tac, pdc, pac1 to pac22, ele1 to ele19, in the sensor's arbitrary units.
    """
    rng = np.random.default_rng(seed)
    fine = FRAMES * SUBSAMPLES
    step = 1 / (FRAME_RATE * SUBSAMPLES)
    time = np.arange(fine) * step
    speed = rng.normal(30, 4)  # mm / s
    load = _load(rng, time)  # N

    plane = 1 / (0.75 * (1 / material.modulus + 1 / _FINGER_KPA))  # E*, kPa = mN / mm^2
    patch = (0.75 * load * 1e3 * _RADIUS / plane) ** (1 / 3)  # a, mm
    depth = patch**2 / _RADIUS  # d, mm

    place, force, ring = _slide(material, load, speed, step)
    height = _texture(material, place, float(patch.mean()), rng)  # mm
    vibration = _high_pass(220 * plane / _FINGER_KPA * height + 14 * ring, 10, step)
    vibration += rng.normal(0, 0.6, fine) + 0.25 * _high_pass(load, 10, step) * 40

    frames = slice(0, fine, SUBSAMPLES)
    t = time[frames]
    finger, room = rng.normal(31, 0.5), rng.normal(22, 0.5)
    pair = material.effusivity * _FINGER_EFFUSIVITY / (material.effusivity + _FINGER_EFFUSIVITY)
    flow = (finger - room) * pair / np.sqrt(np.pi * (t + rng.uniform(0.2, 0.4)))
    temperature = np.empty(FRAMES)
    value = finger
    for i, heat in enumerate(flow):
        value += (-0.09 * heat + (finger - value) / 12.0) / FRAME_RATE
        temperature[i] = value
    tdc = 100 * (temperature - finger) + rng.normal(0, 4) + rng.normal(0, 1.0, FRAMES)
    tac = 20 * flow * rng.normal(1, 0.03) + rng.normal(0, 1.5, FRAMES)
    pdc = 45 * load[frames] + np.cumsum(rng.normal(0, 0.25, FRAMES)) + rng.normal(0, 1.0, FRAMES)

    center = np.stack([0.6 * force[frames], np.full(FRAMES, rng.normal(0, 0.4))], 1)  # mm
    away = ((_TIP[None] - center[:, None] - rng.normal(0, 0.2, 2)) ** 2).sum(-1)  # (frames, electrodes)
    gains = 60 * rng.normal(1, 0.06, ELECTRODES)
    width = 2 * (1.4 * patch[frames, None]) ** 2
    electrodes = gains * depth[frames, None] * np.exp(-away / width)
    electrodes += rng.normal(0, 2.0, ELECTRODES) + rng.normal(0, 0.8, (FRAMES, ELECTRODES))
    pac = vibration.reshape(FRAMES, SUBSAMPLES)
    return np.concatenate([np.stack([tdc, tac, pdc], 1), pac, electrodes], 1).astype(np.float32)


def load_touch(split: str, per_material: int | None = None, seed: int = 0) -> TouchRecordings:
    """Generate a split of the demo's touch data.

    Args:
        split: "train" (20 materials, recordings 0 to 39 of each), "test" (the same materials, recordings 40 to 49) or
            "unseen" (4 materials that no other split has, recordings 0 to 49).
        per_material: Take only so many recordings of each; None for all.
        seed: Seed of the whole set.

    Returns:
        The recordings: about 15 ms each on one core.

    Raises:
        ValueError: If there is no such split.
    """
    if split not in TOUCH_SPLITS:
        raise ValueError(f"got split {split!r}; expected one of {', '.join(TOUCH_SPLITS)}.")
    materials, start, stop = TOUCH_SPLITS[split]
    stop = stop if per_material is None else min(stop, start + per_material)
    ids, values, names, descriptions = [], [], [], []
    for material in materials:
        code = int.from_bytes(material.name.encode(), "big")  # a material's recordings do not depend on the others
        for number in range(start, stop):
            ids.append(f"touch-{material.name.replace(' ', '-')}-{number:02d}")
            values.append(generate_touch(material.specimen([seed, code, number, 1]), [seed, code, number]))
            names.append(material.name)
            descriptions.append(material.description)
    return TouchRecordings(ids, np.stack(values), names, descriptions)


def _load(rng: np.random.Generator, time: np.ndarray) -> np.ndarray:
    """Normal force in newtons: an approach, a hold with drift and tremor."""
    hold = np.clip(rng.normal(1.0, 0.12), 0.5, None)
    rise = 1 - np.exp(-time / rng.uniform(0.05, 0.2))
    drift = 1 + 0.08 * np.sin(2 * np.pi * rng.uniform(0.2, 0.6) * time + rng.uniform(0, 6))
    tremor = 1 + 0.02 * np.sin(2 * np.pi * rng.uniform(7, 11) * time + rng.uniform(0, 6))
    return np.maximum(hold * rise * drift * tremor, 0.02)


def _slide(
    material: TouchMaterial, load: np.ndarray, speed: float, step: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Stick and slip: place of the skin in mm, tangential force in N, and its ringing, at each fine step."""
    stiffness = 1.5  # N / mm, of the skin
    place, force, drops = np.empty(len(load)), np.empty(len(load)), np.zeros(len(load))
    x = pull = base = 0.0
    sticking = True
    for i, normal in enumerate(load.tolist()):
        base += speed * step
        pull = stiffness * (base - x)
        if pull > material.static_friction * normal or not sticking:
            before, pull = pull, min(pull, material.kinetic_friction * normal)
            x = base - pull / stiffness
            drops[i] = before - pull
            # without a gap between the two frictions it slides on, with one it catches again
            sticking = material.static_friction > material.kinetic_friction * 1.02
        place[i], force[i] = x, pull
    t = np.arange(int(0.05 / step)) * step
    ring = np.convolve(drops, np.exp(-t / 0.008) * np.sin(2 * np.pi * 190 * t))[: len(load)]
    return place, force, ring


def _texture(material: TouchMaterial, place: np.ndarray, patch: float, rng: np.random.Generator) -> np.ndarray:
    """Height of the surface under the skin in mm, averaged over the contact patch."""

    def fade(k: np.ndarray | float) -> np.ndarray | float:
        return 1 / (1 + (patch * k / (12 * np.pi)) ** 2)

    period = material.wavelength
    regular = np.sqrt(2) * np.cos(2 * np.pi * place / period + rng.uniform(0, 6)) * fade(2 * np.pi / period)
    grid = 4096
    length = max(float(np.ptp(place)), 1.0) * 1.05
    k = 2 * np.pi * np.fft.rfftfreq(grid, length / grid)
    amplitude = np.sqrt(1 / (1 + (period * k / (4 * np.pi)) ** 2))
    amplitude[0] = 0
    phases = np.exp(2j * np.pi * rng.random(len(k))) * amplitude
    profile = np.fft.irfft(phases, grid)
    seen = np.fft.irfft(phases * fade(k), grid) / profile.std()
    irregular = np.interp(place - place.min(), np.linspace(0, length, grid), seen)
    q = material.irregularity
    return material.amplitude * 1e-3 * ((1 - q) * regular + q * irregular)


def _high_pass(signal: np.ndarray, cutoff: float, step: float) -> np.ndarray:
    """Signal minus its first-order low pass."""
    keep = np.exp(-2 * np.pi * cutoff * step)
    kernel = (1 - keep) * keep ** np.arange(int(5 / (2 * np.pi * cutoff * step)))
    padded = np.concatenate([np.full(len(kernel), signal[0]), signal])
    size = len(padded) + len(kernel)
    low = np.fft.irfft(np.fft.rfft(padded, size) * np.fft.rfft(kernel, size), size)
    return signal - low[len(kernel) : len(kernel) + len(signal)]
