"""Cortex with a dark deep layer as a 7T gradient echo shows it, and a fold of known distance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bids_alsmri.phantom.records import check_ranges

Floats = NDArray[np.float64]

# between 10 and 20 ms, the echoes of Cosottini 2016: contrasts below hold for this echo time
CONTRAST_ECHO_MS = 15.0


@dataclass(frozen=True)
class LayeredCortex:
    """Thickness and signal of the layers of the cortex and of what lies beside them.

    Parameters
    ----------
    cortex_mm, deep_mm : float
        Thickness of the whole cortex and of its dark deep layer, in mm.
    deep_contrast : float
        How much darker the deep than the superficial layer is at `CONTRAST_ECHO_MS`, as a share of
        the superficial layer.
    white_contrast : float
        How much brighter white matter than the deep layer is, likewise.
    line_contrast, line_from_mm, line_to_mm : float
        Dark line of the U-fibres: how much darker than white matter, and how far beneath the
        cortex it begins and ends, in mm.
    superficial_r2s, fluid_r2s : float
        Rate of decay of the superficial layer and of fluid, in 1/s.
    white_density, fluid_density : float
        Signal without decay over that of the cortex.

    Raises
    ------
    SettingsError
        If a value is out of its range.

    Notes
    -----
    Deep layer 2.0 mm in controls and 1.5 mm in patients: Cosottini 2016
    (doi:10.3174/ajnr.A4562). Rates at 7T of 25 to 45 per second in the motor cortex, rising with
    depth: Cohen-Adad 2012 (doi:10.1016/j.neuroimage.2012.01.053).
    """

    cortex_mm: float = 3.6
    deep_mm: float = 2.0
    deep_contrast: float = 0.10
    white_contrast: float = 0.04
    line_contrast: float = 0.03
    line_from_mm: float = 0.8
    line_to_mm: float = 1.3
    superficial_r2s: float = 28.0
    fluid_r2s: float = 5.0
    white_density: float = 0.97
    fluid_density: float = 1.1

    def __post_init__(self) -> None:
        check_ranges(
            self,
            (
                ("cortex_mm", 1.0, 6.0),
                ("deep_mm", 0.0, self.cortex_mm),
                ("deep_contrast", 0.0, 0.5),
                ("white_contrast", -0.5, 0.5),
                ("line_contrast", 0.0, 0.5),
                ("line_from_mm", 0.0, 5.0),
                ("line_to_mm", self.line_from_mm, 5.0),
                ("superficial_r2s", 1.0, 200.0),
                ("fluid_r2s", 0.0, 50.0),
                ("white_density", 0.1, 2.0),
                ("fluid_density", 0.1, 3.0),
            ),
        )

    @property
    def rates_s(self) -> dict[str, float]:
        """Rates of decay of superficial and deep layer, white matter, its line and fluid, in 1/s.

        Returns
        -------
        dict of float
            By name.
        """
        deep = 1.0 - self.deep_contrast
        white = deep * (1.0 + self.white_contrast)
        line = white * (1.0 - self.line_contrast)

        def rate(ratio: float, density: float) -> float:
            return self.superficial_r2s - float(np.log(ratio / density)) * 1e3 / CONTRAST_ECHO_MS

        return {
            "superficial": self.superficial_r2s,
            "deep": rate(deep, 1.0),
            "white": rate(white, self.white_density),
            "line": rate(line, self.white_density),
            "fluid": self.fluid_r2s,
        }

    def signal(self, distance_mm: Floats, echo_ms: float) -> NDArray[np.float32]:
        """Signal at points by their distance from white matter.

        Parameters
        ----------
        distance_mm : (...) array
            Signed distance from the border of white matter, positive in the cortex, in mm.
        echo_ms : float
            Echo time in ms.

        Returns
        -------
        (...) array of float32
            Over the superficial layer's without decay.

        Examples
        --------
        >>> cortex = LayeredCortex()
        >>> s = cortex.signal(np.array([3.0, 1.0, -0.2]), CONTRAST_ECHO_MS)
        >>> (s / s[0]).round(3)
        array([1.   , 0.9  , 0.936], dtype=float32)
        """
        rates = self.rates_s
        densities = {"white": self.white_density, "line": self.white_density}
        densities["fluid"] = self.fluid_density
        level = {
            name: np.float32(densities.get(name, 1.0) * np.exp(-1e-3 * echo_ms * rate))
            for name, rate in rates.items()
        }
        borders = [-self.line_to_mm, -self.line_from_mm, 0.0, self.deep_mm, self.cortex_mm]
        order = ["white", "line", "white", "deep", "superficial", "fluid"]
        place = np.searchsorted(borders, distance_mm, side="right")
        return np.array([level[name] for name in order], dtype=np.float32)[place]


@dataclass(frozen=True)
class Fold:
    """Gyri and sulci of one size, side by side, whose distances are known in closed form.

    Parameters
    ----------
    blade_mm : float
        Half the width of the white matter of a gyrus, in mm.
    furrow_mm : float
        Half the width of a sulcus between two borders of white matter, in mm.
    height_mm : float
        Length of the straight banks, in mm.

    Raises
    ------
    SettingsError
        If a value is out of its range.

    Notes
    -----
    The border of white matter is made of straight banks and half circles, over the crowns with the
    first and along the bottoms with the second half width for a radius.
    """

    blade_mm: float = 2.5
    furrow_mm: float = 4.3
    height_mm: float = 9.0

    def __post_init__(self) -> None:
        check_ranges(self, (("blade_mm", 0.5, 20), ("furrow_mm", 0.5, 20), ("height_mm", 0.0, 50)))

    def distance_mm(self, across_mm: Floats, up_mm: Floats) -> Floats:
        """Signed distance from the border of white matter.

        Parameters
        ----------
        across_mm, up_mm : (...) array
            Position across the gyri, 0 in the middle of one, and along the banks, 0 at their foot,
            in mm.

        Returns
        -------
        (...) array
            In mm, positive outside white matter. Beneath the bottoms and in the middle of a gyrus,
            where two borders are near, it is that of one of them.

        Examples
        --------
        >>> fold = Fold(blade_mm=2.0, furrow_mm=4.0, height_mm=8.0)
        >>> fold.distance_mm(np.array([5.0, 0.0, 6.0]), np.array([4.0, 12.0, -3.0]))
        array([3., 2., 1.])
        """
        half = self.blade_mm + self.furrow_mm
        across = np.abs((across_mm + half) % (2 * half) - half)
        over = np.hypot(across, np.maximum(up_mm - self.height_mm, 0.0)) - self.blade_mm
        below = self.furrow_mm - np.hypot(across - half, np.minimum(up_mm, 0.0))
        return np.asarray(np.where(up_mm > 0.0, over, below))
