"""The drawings of the world: every kind and accessory as flat polygons in unit coordinates.

x runs right and y runs down, a kind fills about [-1, 1] x [-1, 1]. A shape is a list of ``(paint, polygon)``
in drawing order; the paint is ``body`` (the picture's own colour, textured), ``light`` or ``shade`` (tones of
it), or a fixed colour name that Pillow knows.
"""

from itertools import pairwise

import numpy as np

Polygon = np.ndarray  # (points, 2) float
Shape = list[tuple[str, Polygon]]

_CIRCLE = np.stack([f(np.linspace(0, 2 * np.pi, 20, endpoint=False)) for f in (np.cos, np.sin)], axis=1)


def _oval(x: float, y: float, rx: float, ry: float | None = None, tilt: float = 0.0) -> Polygon:
    """An ellipse around (x, y), tilted clockwise by ``tilt`` degrees."""
    c, s = np.cos(np.radians(tilt)), np.sin(np.radians(tilt))
    return _CIRCLE * [rx, rx if ry is None else ry] @ np.array([[c, s], [-s, c]]) + np.array([x, y])


def _poly(*xy: float) -> Polygon:
    return np.array(xy, dtype=float).reshape(-1, 2)


def _both(paint: str, polygon: Polygon) -> Shape:
    """The polygon and its mirror image about the vertical axis."""
    return [(paint, polygon), (paint, polygon * [-1, 1])]


def _stroke(paint: str, width: float, *xy: float) -> Shape:
    """A thick line through the points, with round joints."""
    points = _poly(*xy)
    shape: Shape = [(paint, _oval(x, y, width / 2)) for x, y in points]
    for a, b in pairwise(points):
        across = np.array([a[1] - b[1], b[0] - a[0]]) / np.linalg.norm(b - a) * width / 2
        shape.append((paint, np.array([a + across, b + across, b - across, a - across])))
    return shape


def _wheel(x: float, y: float, r: float) -> Shape:
    return [("black", _oval(x, y, r)), ("lightgray", _oval(x, y, r / 2))]


def _star() -> Polygon:
    angles = np.arange(10) * np.pi / 5 - np.pi / 2
    radii = np.tile([1.0, 0.42], 5)
    return np.stack([radii * np.cos(angles), radii * np.sin(angles) + 0.05], axis=1)


KINDS: dict[str, Shape] = {
    "dog": [
        *_stroke("body", 0.17, -0.5, 0.2, -0.55, 0.88),
        *_stroke("body", 0.17, 0.25, 0.2, 0.3, 0.88),
        *_stroke("body", 0.14, -0.6, 0.05, -0.95, -0.4),
        ("body", _oval(-0.15, 0.15, 0.58, 0.3)),
        ("body", _oval(0.42, -0.3, 0.36, 0.33)),
        ("body", _oval(0.75, -0.2, 0.26, 0.17)),
        ("shade", _oval(0.22, -0.22, 0.16, 0.36, 12)),
        ("black", _oval(0.95, -0.28, 0.09)),
        ("hotpink", _oval(0.8, 0.02, 0.08, 0.15)),
        ("black", _oval(0.52, -0.4, 0.07)),
    ],
    "cat": [
        *_stroke("body", 0.13, 0.35, 0.8, 0.75, 0.75, 0.88, 0.4, 0.7, 0.15),
        ("body", _oval(0, 0.5, 0.46, 0.5)),
        *_both("body", _oval(0.3, 0.88, 0.2, 0.12)),
        *_both("body", _poly(0.08, -0.62, 0.45, -0.98, 0.47, -0.35)),
        ("body", _oval(0, -0.35, 0.46, 0.37)),
        *_both("hotpink", _poly(0.2, -0.66, 0.39, -0.83, 0.39, -0.55)),
        ("hotpink", _poly(-0.07, -0.3, 0.07, -0.3, 0, -0.2)),
        *_both("black", _poly(0.15, -0.22, 0.62, -0.32, 0.62, -0.28)),
        *_both("black", _poly(0.15, -0.17, 0.6, -0.12, 0.6, -0.08)),
        *_both("black", _oval(0.2, -0.42, 0.08)),
        ("light", _oval(0, 0.55, 0.22, 0.3)),
    ],
    "rabbit": [
        *_both("body", _oval(0.18, -0.65, 0.13, 0.38, 8)),
        ("body", _oval(0, 0.5, 0.42, 0.45)),
        ("body", _oval(0, -0.1, 0.36, 0.34)),
        *_both("body", _oval(0.28, 0.9, 0.22, 0.1)),
        *_both("hotpink", _oval(0.18, -0.65, 0.06, 0.27, 8)),
        ("white", _poly(-0.08, 0.08, 0.08, 0.08, 0.08, 0.24, -0.08, 0.24)),
        ("hotpink", _oval(0, 0.02, 0.07, 0.05)),
        *_both("black", _oval(0.15, -0.14, 0.07)),
    ],
    "pig": [
        *_stroke("body", 0.2, -0.5, 0.4, -0.5, 0.85),
        *_stroke("body", 0.2, 0.3, 0.4, 0.3, 0.85),
        ("body", _oval(-0.15, 0.15, 0.75, 0.48)),
        ("body", _oval(0.55, -0.1, 0.36, 0.34)),
        ("body", _poly(0.3, -0.3, 0.32, -0.7, 0.6, -0.4)),
        *_stroke("shade", 0.07, -0.85, 0.05, -0.98, -0.1, -0.85, -0.2),
        ("light", _oval(0.72, 0.0, 0.18, 0.15)),
        ("black", _oval(0.66, 0.0, 0.04, 0.06)),
        ("black", _oval(0.79, 0.0, 0.04, 0.06)),
        ("black", _oval(0.5, -0.2, 0.06)),
    ],
    "elephant": [
        *_stroke("body", 0.28, -0.6, 0.3, -0.6, 0.82),
        *_stroke("body", 0.28, 0.1, 0.3, 0.1, 0.82),
        ("body", _oval(-0.25, 0.05, 0.65, 0.5)),
        ("body", _oval(0.4, -0.3, 0.38, 0.38)),
        *_stroke("body", 0.19, 0.68, -0.2, 0.84, 0.25, 0.78, 0.7),
        ("shade", _oval(0.2, -0.3, 0.24, 0.36)),
        ("white", _poly(0.55, 0.0, 0.7, 0.05, 0.55, 0.35)),
        ("black", _oval(0.55, -0.4, 0.06)),
    ],
    "giraffe": [
        *_stroke("body", 0.13, -0.5, 0.3, -0.5, 0.92),
        *_stroke("body", 0.13, 0.15, 0.3, 0.15, 0.92),
        ("body", _oval(-0.2, 0.25, 0.5, 0.27)),
        ("body", _poly(0.0, 0.25, 0.3, 0.25, 0.5, -0.75, 0.28, -0.75)),
        ("body", _oval(0.5, -0.74, 0.28, 0.15, 15)),
        *_stroke("black", 0.05, 0.32, -0.82, 0.28, -1.0),
        *_stroke("black", 0.05, 0.42, -0.84, 0.42, -1.0),
        ("black", _oval(0.5, -0.78, 0.05)),
    ],
    "bird": [
        ("body", _poly(-0.5, 0.2, -1.0, -0.05, -0.95, 0.4)),
        ("body", _oval(-0.05, 0.2, 0.6, 0.42)),
        ("body", _oval(0.42, -0.35, 0.33)),
        ("shade", _oval(-0.15, 0.15, 0.36, 0.2, 20)),
        ("orange", _poly(0.7, -0.42, 1.02, -0.28, 0.7, -0.18)),
        *_stroke("orange", 0.07, -0.1, 0.6, -0.1, 0.92, 0.05, 0.92),
        *_stroke("orange", 0.07, 0.2, 0.6, 0.2, 0.92, 0.35, 0.92),
        ("black", _oval(0.5, -0.42, 0.07)),
    ],
    "fish": [
        ("body", _poly(-0.4, 0, -1.0, -0.5, -0.85, 0, -1.0, 0.5)),
        ("body", _poly(-0.2, -0.35, 0.1, -0.75, 0.35, -0.3)),
        ("body", _oval(0.15, 0, 0.75, 0.46)),
        ("shade", _poly(0.05, 0.05, -0.25, 0.3, 0.1, 0.3)),
        ("white", _oval(0.55, -0.12, 0.14)),
        ("black", _oval(0.58, -0.12, 0.08)),
    ],
    "turtle": [
        ("light", _oval(-0.45, 0.52, 0.17, 0.2)),
        ("light", _oval(0.35, 0.52, 0.17, 0.2)),
        ("light", _oval(0.78, 0.05, 0.24, 0.2)),
        ("light", _poly(-0.7, 0.35, -1.0, 0.45, -0.7, 0.5)),
        ("body", np.vstack([_oval(-0.05, 0.4, 0.72, 0.85)[10:], _poly(0.67, 0.4)])),
        ("shade", _poly(-0.8, 0.36, 0.7, 0.36, 0.7, 0.48, -0.8, 0.48)),
        ("black", _oval(0.84, 0.0, 0.05)),
    ],
    "snail": [
        ("light", _poly(-0.95, 0.75, -0.6, 0.5, 0.5, 0.5, 0.6, -0.1, 0.85, -0.1, 0.85, 0.75)),
        *_stroke("light", 0.07, 0.65, -0.05, 0.55, -0.5),
        *_stroke("light", 0.07, 0.78, -0.05, 0.9, -0.5),
        ("body", _oval(-0.15, 0.05, 0.58)),
        *_stroke("shade", 0.08, -0.15, 0.05, 0.05, 0.05, 0.05, -0.15, -0.2, -0.2, -0.4, 0.05, -0.2, 0.35, 0.15, 0.35),
        ("black", _oval(0.55, -0.52, 0.06)),
        ("black", _oval(0.9, -0.52, 0.06)),
    ],
    "butterfly": [
        *_both("body", _oval(0.5, -0.38, 0.45, 0.36, -35)),
        *_both("body", _oval(0.4, 0.42, 0.36, 0.28, 40)),
        *_both("light", _oval(0.55, -0.4, 0.18)),
        ("black", _oval(0, 0.05, 0.09, 0.6)),
        *_stroke("black", 0.05, 0, -0.5, 0.25, -0.9),
        *_stroke("black", 0.05, 0, -0.5, -0.25, -0.9),
    ],
    "snake": [
        *_stroke("body", 0.26, -0.9, 0.75, -0.2, 0.8, 0.35, 0.55, -0.35, 0.2, -0.35, -0.1, 0.3, -0.3, 0.35, -0.65),
        ("body", _oval(0.45, -0.72, 0.3, 0.2, -10)),
        *_stroke("red", 0.05, 0.72, -0.75, 0.98, -0.72),
        ("black", _oval(0.5, -0.8, 0.06)),
    ],
    "car": [
        ("body", _poly(-0.55, 0.0, -0.35, -0.45, 0.3, -0.45, 0.55, 0.0)),
        ("body", _poly(-1.0, 0.0, 0.85, 0.0, 1.0, 0.2, 1.0, 0.5, -1.0, 0.5)),
        ("lightcyan", _poly(-0.4, -0.02, -0.27, -0.35, -0.05, -0.35, -0.05, -0.02)),
        ("lightcyan", _poly(0.05, -0.02, 0.05, -0.35, 0.24, -0.35, 0.4, -0.02)),
        *_wheel(-0.52, 0.52, 0.25),
        *_wheel(0.52, 0.52, 0.25),
    ],
    "house": [
        ("body", _poly(-0.7, -0.1, 0.7, -0.1, 0.7, 0.9, -0.7, 0.9)),
        ("shade", _poly(-0.95, -0.1, 0, -0.9, 0.95, -0.1)),
        ("saddlebrown", _poly(-0.15, 0.35, 0.2, 0.35, 0.2, 0.9, -0.15, 0.9)),
        ("lightcyan", _poly(-0.55, 0.1, -0.28, 0.1, -0.28, 0.4, -0.55, 0.4)),
        ("lightcyan", _poly(0.32, 0.1, 0.58, 0.1, 0.58, 0.4, 0.32, 0.4)),
    ],
    "tree": [
        ("saddlebrown", _poly(-0.14, 0.3, 0.14, 0.3, 0.18, 1.0, -0.18, 1.0)),
        ("body", _poly(0, -1.0, 0.5, -0.35, -0.5, -0.35)),
        ("body", _poly(0, -0.65, 0.65, 0.1, -0.65, 0.1)),
        ("body", _poly(0, -0.25, 0.8, 0.5, -0.8, 0.5)),
    ],
    "flower": [
        *_stroke("green", 0.1, 0, 0.0, 0, 0.95),
        ("green", _oval(0.25, 0.6, 0.26, 0.11, -30)),
        *[("body", _oval(0.38 * np.cos(a), -0.35 + 0.38 * np.sin(a), 0.25)) for a in np.arange(6) * np.pi / 3],
        ("gold", _oval(0, -0.35, 0.22)),
    ],
    "mushroom": [
        ("beige", _poly(-0.25, 0.0, 0.25, 0.0, 0.32, 0.9, -0.32, 0.9)),
        ("body", np.vstack([_oval(0, 0.1, 0.85, 0.95)[10:], _poly(0.85, 0.1)])),
        ("white", _oval(-0.35, -0.25, 0.13)),
        ("white", _oval(0.15, -0.5, 0.14)),
        ("white", _oval(0.45, -0.12, 0.11)),
    ],
    "cup": [
        ("shade", _oval(0.6, 0.15, 0.35, 0.36)),
        ("lightgray", _oval(0.6, 0.15, 0.18, 0.2)),
        ("body", _poly(-0.65, -0.4, 0.6, -0.4, 0.5, 0.8, -0.55, 0.8)),
        ("light", _oval(-0.02, -0.4, 0.63, 0.15)),
        ("saddlebrown", _oval(-0.02, -0.39, 0.5, 0.1)),
    ],
    "umbrella": [
        *_stroke("black", 0.08, 0, -0.2, 0, 0.8, 0.12, 0.92, 0.28, 0.8),
        ("body", np.vstack([_oval(0, 0.05, 0.95, 0.95)[10:], _poly(0.95, 0.05)])),
        ("shade", _poly(0, -0.9, 0.3, 0.05, -0.3, 0.05)),
        *_stroke("black", 0.06, 0, -0.9, 0, -1.02),
    ],
    "boat": [
        ("saddlebrown", _poly(-0.05, -0.95, 0.05, -0.95, 0.05, 0.4, -0.05, 0.4)),
        ("light", _poly(0.1, -0.9, 0.1, 0.2, 0.8, 0.2)),
        ("light", _poly(-0.1, -0.6, -0.1, 0.2, -0.6, 0.2)),
        ("body", _poly(-1.0, 0.35, 1.0, 0.35, 0.65, 0.85, -0.65, 0.85)),
    ],
    "rocket": [
        ("orange", _poly(-0.22, 0.6, 0.22, 0.6, 0, 1.05)),
        *_both("shade", _poly(0.25, 0.1, 0.65, 0.7, 0.2, 0.6)),
        ("body", _poly(-0.3, 0.6, -0.34, -0.2, 0, -1.0, 0.34, -0.2, 0.3, 0.6)),
        ("lightcyan", _oval(0, -0.15, 0.16)),
    ],
    "guitar": [
        *_stroke("saddlebrown", 0.14, 0.1, 0.0, 0.62, -0.75),
        *_stroke("black", 0.22, 0.62, -0.75, 0.72, -0.9),
        ("body", _oval(-0.38, 0.52, 0.44)),
        ("body", _oval(-0.02, 0.1, 0.32)),
        ("black", _oval(-0.22, 0.32, 0.14)),
    ],
    "key": [
        *_stroke("body", 0.17, -0.2, 0.0, 0.95, 0.0),
        *_stroke("body", 0.15, 0.6, 0.05, 0.6, 0.38),
        *_stroke("body", 0.15, 0.88, 0.05, 0.88, 0.45),
        ("body", _oval(-0.5, 0.0, 0.45)),
        ("white", _oval(-0.55, 0.0, 0.19)),
    ],
    "star": [("body", _star())],
}

# Accessories share the kind's coordinates and so move, turn and grow with it.
ACCESSORIES: dict[str, Shape] = {
    "hat": [
        ("black", _poly(-0.5, -0.88, 0.5, -0.88, 0.5, -0.74, -0.5, -0.74)),
        ("black", _poly(-0.28, -1.35, 0.28, -1.35, 0.28, -0.85, -0.28, -0.85)),
        ("red", _poly(-0.28, -1.0, 0.28, -1.0, 0.28, -0.88, -0.28, -0.88)),
    ],
    "balloon": [*_stroke("black", 0.05, 0.85, 0.3, 1.0, -0.5), ("red", _oval(1.0, -0.8, 0.3, 0.37))],
    "ball": [("white", _oval(-0.95, 0.85, 0.27)), ("blue", _poly(-1.2, 0.78, -0.7, 0.78, -0.7, 0.92, -1.2, 0.92))],
    "bow": [
        *_both("magenta", _poly(0, 0, 0.35, -0.2, 0.35, 0.2) + np.array([0, 0.22])),
        ("purple", _oval(0, 0.22, 0.1)),
    ],
}
