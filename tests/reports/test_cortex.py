"""Pictures of the cortex at 7T: what they show of layers that differ by a tenth."""

from __future__ import annotations

import numpy as np
import pytest

from bids_alsmri.reports.cortex import draw_ribbon


@pytest.mark.parametrize("gain", [0.01, 1.0, 1e4])
@pytest.mark.parametrize("fluid", [200.0, 1000.0])
def test_layers_can_be_told_apart_whatever_fluid_and_air_are(gain, fluid):
    # along x in voxels of 1 mm: air, fluid, superficial layer, deep layer, white matter
    line = np.repeat([0.0, fluid, 100.0, 90.0, 94.0], [6, 6, 2, 2, 8])
    image = gain * line[:, None, None] * np.ones((24, 20, 4))
    x = np.arange(24.0)[:, None, None] * np.ones((24, 20, 4))
    labels = np.zeros(image.shape, int)
    labels[10:18] = 1
    figure = draw_ribbon(image, np.eye(4), 15.5 - x, x - 11.5, labels, names={1: "hand"})
    low, high = figure.axes[0].get_images()[0].get_clim()
    # a tenth of the grey scale: 25 of 256 levels
    assert (100.0 - 90.0) * gain / (high - low) > 0.1
    assert low < 90.0 * gain < 100.0 * gain < high
