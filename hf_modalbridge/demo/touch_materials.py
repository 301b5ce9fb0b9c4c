"""The 24 made-up materials of the touch demo, each with a sentence made of its parameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

__all__ = ["MATERIALS", "UNSEEN_MATERIALS", "TouchMaterial"]

_SPREAD = {"wavelength": 0.6, "amplitude": 0.6, "modulus": 0.9, "kinetic_friction": 0.3, "effusivity": 0.42}
"""Deviation of the logarithm of a parameter between specimens of one material."""


@dataclass(frozen=True)
class TouchMaterial:
    """Parameters of a material.

    Args:
        name: What it is like.
        wavelength: Typical distance of its texture's elements, mm.
        amplitude: Root mean square height of the texture, micrometres.
        irregularity: 0 for a periodic texture, 1 for a random one.
        modulus: Young's modulus in kPa; a fingertip has about 150.
        static_friction: Coefficient while the skin sticks.
        kinetic_friction: Coefficient while it slides.
        effusivity: Thermal effusivity, kW s^0.5 / (m^2 K); skin has about 1.2.
    """

    name: str
    wavelength: float
    amplitude: float
    irregularity: float
    modulus: float
    static_friction: float
    kinetic_friction: float
    effusivity: float

    def specimen(self, seed: int | Sequence[int]) -> TouchMaterial:
        """Draw one specimen of the material: no two cloths, boards or sponges of a kind are alike.

        Texture and friction vary by a third to almost twofold, stiffness about 2.5-fold either way (density and
        backing), effusivity by half (moisture), so that neighbouring materials overlap.

        Args:
            seed: The same gives the same specimen.

        Returns:
            A material of the same name with parameters of its own.
        """
        rng = np.random.default_rng(seed)
        drawn = {name: getattr(self, name) * float(np.exp(rng.normal(0, s))) for name, s in _SPREAD.items()}
        grip = self.static_friction / self.kinetic_friction * float(np.exp(rng.normal(0, 0.06)))
        uneven = float(np.clip(self.irregularity + rng.normal(0, 0.12), 0, 1))
        static = drawn["kinetic_friction"] * max(1.0, grip)
        return replace(self, **drawn, static_friction=static, irregularity=uneven)

    @property
    def description(self) -> str:
        """A sentence that names every property by a word, and nothing that is not in the parameters."""
        rough = _word(self.amplitude, [(8, "very smooth"), (30, "smooth"), (90, "rough")], "very rough")
        grain = _word(self.wavelength, [(0.5, "fine"), (1.5, "medium"), (4, "coarse")], "very coarse")
        order = _word(self.irregularity, [(0.35, "regular"), (0.7, "uneven")], "random")
        hard = _word(self.modulus, [(60, "very soft"), (300, "soft"), (3000, "firm")], "hard")
        gap = self.static_friction - self.kinetic_friction
        grip = _word(self.kinetic_friction, [(0.35, "slippery"), (0.75, "of medium friction")], "grippy")
        slip = " and it sticks and slips" if gap > 0.15 else " and it slides evenly"
        warm = _word(self.effusivity, [(0.25, "warm"), (0.9, "neutral"), (3, "cool")], "cold")
        return f"{self.name}: {rough}, with a {grain}, {order} texture; {hard}, {grip}{slip}; {warm} to the touch"


def _word(value: float, steps: list[tuple[float, str]], last: str) -> str:
    return next((word for limit, word in steps if value < limit), last)


MATERIALS = (
    TouchMaterial("polished steel", 0.2, 2, 0.9, 50000, 0.25, 0.24, 8.0),
    TouchMaterial("brushed aluminium", 0.3, 12, 0.6, 50000, 0.35, 0.33, 9.0),
    TouchMaterial("window glass", 0.2, 1, 0.9, 50000, 0.95, 0.60, 1.5),
    TouchMaterial("sandpaper", 0.4, 110, 0.95, 20000, 0.85, 0.80, 1.1),
    TouchMaterial("rough stone", 2.5, 140, 0.9, 50000, 0.70, 0.65, 2.2),
    TouchMaterial("planed wood", 1.0, 15, 0.6, 9000, 0.45, 0.42, 0.45),
    TouchMaterial("ribbed plastic", 2.0, 120, 0.05, 5000, 0.40, 0.37, 0.6),
    TouchMaterial("smooth plastic", 0.3, 4, 0.8, 4000, 0.55, 0.38, 0.6),
    TouchMaterial("cork", 1.8, 60, 0.9, 1500, 0.80, 0.74, 0.15),
    TouchMaterial("leather", 0.9, 40, 0.7, 800, 0.65, 0.58, 0.5),
    TouchMaterial("denim", 0.7, 55, 0.15, 400, 0.60, 0.57, 0.2),
    TouchMaterial("silk", 0.15, 6, 0.3, 200, 0.28, 0.26, 0.22),
    TouchMaterial("towel", 3.0, 180, 0.8, 40, 0.75, 0.70, 0.1),
    TouchMaterial("corduroy", 2.8, 160, 0.1, 150, 0.62, 0.58, 0.15),
    TouchMaterial("felt", 0.6, 45, 0.95, 80, 0.70, 0.66, 0.12),
    TouchMaterial("foam sponge", 1.2, 90, 0.85, 20, 0.90, 0.85, 0.08),
    TouchMaterial("rubber sheet", 0.3, 8, 0.7, 500, 1.30, 0.85, 0.7),
    TouchMaterial("silicone gel", 0.5, 3, 0.9, 30, 1.20, 0.80, 0.8),
    TouchMaterial("cardboard", 4.5, 35, 0.2, 2500, 0.50, 0.46, 0.2),
    TouchMaterial("wire mesh", 5.0, 200, 0.02, 30000, 0.45, 0.42, 6.0),
)
"""The materials of training and test."""

UNSEEN_MATERIALS = (
    TouchMaterial("ceramic tile with grooves", 4.2, 100, 0.05, 50000, 0.40, 0.38, 2.0),
    TouchMaterial("velvet", 0.35, 35, 0.6, 50, 0.50, 0.48, 0.12),
    TouchMaterial("rubber mat with knobs", 3.2, 170, 0.1, 700, 1.20, 0.80, 0.7),
    TouchMaterial("fine paper", 0.25, 7, 0.9, 6000, 0.34, 0.32, 0.35),
)
"""Materials that nothing is trained on."""
