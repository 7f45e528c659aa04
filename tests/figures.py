"""What a figure shows, read from its axes."""

import numpy as np


def labels(ax):
    """Of its legend, which has no frame."""
    assert not ax.get_legend().get_frame_on()
    return [text.get_text() for text in ax.get_legend().get_texts()]


def band_ends(band):
    """x, the lower and the upper end of a filled band, (3, n)."""
    corners = {}
    for x, y in band.get_paths()[0].vertices.tolist():
        corners.setdefault(x, []).append(y)
    return np.array([[x, min(ys), max(ys)] for x, ys in sorted(corners.items())]).T


def assert_steps_between(band, edges, low, high):
    """The corners of a band drawn in steps are those of `low` and `high`, (n,), over bins with n + 1 `edges`."""
    expected = {(x, y) for ys in (low, high) for k, y in enumerate(ys) for x in edges[k : k + 2]}
    drawn = {tuple(corner) for corner in band.get_paths()[0].vertices.tolist()}
    for some, others in ((expected, drawn), (drawn, expected)):
        points, corners = np.array(sorted(some)), np.array(sorted(others))
        assert np.abs(points[:, None] - corners).sum(axis=2).min(axis=1).max() < 1e-9


def assert_between_edges(x, low, high):
    """398 points of (low, high) that crowd at its ends: where T_399 is 1 or -1."""
    np.testing.assert_allclose(x, (low + high) / 2 + (high - low) / 2 * np.polynomial.chebyshev.chebpts2(400)[1:-1])
