"""The picture of a closure: a layered drawing as inline SVG, inputs above what was made from them.

Layers by the longest way from a source; an edge that passes layers gets a place of its own in each, so that
it runs between the boxes; places are ordered by the mean place of their neighbours. No library, no scripts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

BOX_W, BOX_H, LANE, GAP_X, GAP_Y, MARGIN = 252, 48, 10, 14, 44, 8
NAME_SIZE = 12.5
WIDEST = 0.64
"""How wide a bold letter is at most, on average, in parts of its size."""
SWEEPS = 12


@dataclass(frozen=True)
class Box:
    """One dataset. `look`: made_from, itself, scores; `alarm`: drawn red."""

    id: str
    title: str
    note: str
    look: str
    inputs: Sequence[str] = ()
    alarm: bool = False


@dataclass
class _Place:
    """A box, or (box None) where an edge passes a layer."""

    layer: int
    box: Box | None
    above: list["_Place"] = field(default_factory=list)
    below: list["_Place"] = field(default_factory=list)
    x: float = 0.0

    @property
    def width(self) -> float:
        return BOX_W if self.box else LANE


def closure_svg(boxes: Sequence[Box]) -> str:
    """The drawing.

    Args:
        boxes: inputs before what is made from them.
    """
    places = {box.id: _Place(0, box) for box in boxes}
    for box in boxes:
        places[box.id].layer = 1 + max((places[i].layer for i in box.inputs), default=-1)
    layers: list[list[_Place]] = [[] for _ in range(1 + max((p.layer for p in places.values()), default=0))]
    for place in places.values():
        layers[place.layer].append(place)
    _edges(boxes, places, layers)
    _order(layers)
    width = _spread(layers)
    height = MARGIN * 2 + len(layers) * (BOX_H + GAP_Y) - GAP_Y
    edges = "".join(_curve(p, q) for layer in layers for p in layer for q in p.below)
    drawn = "".join(_box(p) for layer in layers for p in layer if p.box)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height}" role="img" '
        f'style="max-width: {width:.0f}px" aria-label="What it was made from, its scores" class="closure">'
        f'<g fill="none" stroke="#9aa5b1" stroke-width="1.1">{edges}</g>{drawn}</svg>'
    )


def _edges(boxes: Sequence[Box], places: Mapping[str, _Place], layers: list[list[_Place]]) -> None:
    for box in boxes:
        lower = places[box.id]
        for name in box.inputs:
            above = places[name]
            for layer in range(above.layer + 1, lower.layer):
                lane = next((p for p in above.below if p.box is None and p.layer == layer), None)
                if lane is None:  # edges of one dataset share their lanes: it is the same thing that is read
                    lane = _Place(layer, None, [above])
                    layers[layer].append(lane)
                    above.below.append(lane)
                above = lane
            above.below.append(lower)
            lower.above.append(above)


def _order(layers: list[list[_Place]]) -> None:
    for layer in layers:
        for n, place in enumerate(layer):
            place.x = n
    for sweep in range(SWEEPS):
        down = sweep % 2 == 0
        for layer in layers if down else reversed(layers):
            mean = {}
            for place in layer:
                near = place.above if down else place.below
                mean[id(place)] = sum(p.x for p in near) / len(near) if near else place.x
            layer.sort(key=lambda p: mean[id(p)])
            whole = sum(p.width + GAP_X for p in layer)
            at = -whole / 2
            for place in layer:
                place.x = at + place.width / 2
                at += place.width + GAP_X


def _spread(layers: list[list[_Place]]) -> float:
    """Moves places towards their neighbours where there is room; returns the width of the drawing."""
    for sweep in range(SWEEPS):
        for layer in layers if sweep % 2 else reversed(layers):
            for n, place in enumerate(layer):
                near = [p.x for p in (*place.above, *place.below)]
                if not near:
                    continue
                want = sum(near) / len(near)
                low = layer[n - 1].x + (layer[n - 1].width + place.width) / 2 + GAP_X if n else -1e9
                last = n + 1 == len(layer)
                high = 1e9 if last else layer[n + 1].x - (layer[n + 1].width + place.width) / 2 - GAP_X
                place.x = min(max(want, low), max(high, low))
    every = [p for layer in layers for p in layer]
    left = min(p.x - p.width / 2 for p in every)
    for place in every:
        place.x += MARGIN - left
    return max(p.x + p.width / 2 for p in every) + MARGIN


def _top(place: _Place) -> float:
    return MARGIN + place.layer * (BOX_H + GAP_Y)


def _curve(above: _Place, below: _Place) -> str:
    y0, y1 = _top(above) + BOX_H, _top(below)
    bend = (y1 - y0) * 0.55
    through = f"M{above.x:.1f} {y0 - BOX_H:.1f}V{y0:.1f}" if above.box is None else f"M{above.x:.1f} {y0:.1f}"
    curve = f"C{above.x:.1f} {y0 + bend:.1f} {below.x:.1f} {y1 - bend:.1f} {below.x:.1f} {y1:.1f}"
    return f'<path d="{through}{curve}"/>'


def _box(place: _Place) -> str:
    box = place.box
    assert box is not None
    x, y = place.x - BOX_W / 2, _top(place)
    kind = f"{box.look}{' alarm' if box.alarm else ''}"
    size = min(NAME_SIZE, (BOX_W - 20) / (WIDEST * len(box.title)))
    title, left = escape(box.title), f"{x + 10:.1f}"
    return (
        f'<g class="{kind}"><title>{title}</title>'
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{BOX_W}" height="{BOX_H}" rx="3"/>'
        f'<text x="{left}" y="{y + 20:.1f}" class="name" font-size="{size:.1f}">{title}</text>'
        f'<text x="{left}" y="{y + 37:.1f}" class="version">{escape(box.note)}</text></g>'
    )
