"""Who somebody is: everything about a face that does not move, from a seed."""

from dataclasses import dataclass, fields

import numpy as np

from tools.small_world.seeds import random_state

Colour = tuple[float, float, float]
"""Red, green, blue in [0, 1]."""

# Magenta (red and blue above green) belongs to the inside of mouths alone: measuring finds them by it. No palette
# comes near it, which is why nobody here has pink hair.
SKINS = (
    (0.99, 0.87, 0.77),
    (0.97, 0.80, 0.66),
    (0.92, 0.72, 0.55),
    (0.82, 0.60, 0.42),
    (0.68, 0.47, 0.32),
    (0.54, 0.36, 0.24),
)
HAIRS = (
    (0.13, 0.12, 0.12),
    (0.27, 0.18, 0.12),
    (0.44, 0.27, 0.15),
    (0.62, 0.30, 0.14),
    (0.86, 0.48, 0.17),
    (0.93, 0.76, 0.42),
    (0.95, 0.91, 0.78),
    (0.66, 0.68, 0.68),
    (0.12, 0.48, 0.52),
    (0.20, 0.38, 0.66),
    (0.30, 0.52, 0.30),
)
HAIR_ODDS = (0.18, 0.17, 0.14, 0.09, 0.09, 0.1, 0.05, 0.06, 0.04, 0.04, 0.04)
EYES = ((0.30, 0.19, 0.11), (0.45, 0.29, 0.12), (0.22, 0.45, 0.68), (0.30, 0.52, 0.36), (0.42, 0.50, 0.54), (0.14, 0.11, 0.10))
CLOTHES = (
    (0.16, 0.25, 0.42),
    (0.13, 0.48, 0.50),
    (0.90, 0.68, 0.22),
    (0.20, 0.40, 0.27),
    (0.95, 0.94, 0.90),
    (0.24, 0.25, 0.27),
    (0.90, 0.45, 0.24),
    (0.48, 0.70, 0.86),
    (0.76, 0.30, 0.20),
    (0.62, 0.74, 0.42),
)
BACKDROPS = (
    (0.66, 0.83, 0.90),
    (0.98, 0.85, 0.58),
    (0.70, 0.86, 0.74),
    (0.97, 0.74, 0.58),
    (0.36, 0.54, 0.62),
    (0.93, 0.90, 0.83),
    (0.32, 0.42, 0.48),
    (0.56, 0.70, 0.88),
    (0.84, 0.88, 0.56),
)
FRAMES = ((0.12, 0.12, 0.13), (0.45, 0.26, 0.12), (0.15, 0.32, 0.50), (0.75, 0.60, 0.28), (0.70, 0.22, 0.12))

HAIR_STYLES = ("short", "side", "bob", "long", "bun", "curly", "afro", "spiky", "bald", "curtains")
GLASSES = ("none", "round", "square")
BEARDS = ("none", "moustache", "goatee", "full")
BACKDROP_STYLES = ("plain", "disc", "stripes", "window")
COLLARS = ("crew", "v", "shirt", "hood")
NOSES = ("button", "wide", "long")


@dataclass(frozen=True)
class Character:
    """One identity. Lengths are in head units (half a picture is 1), shares in [0, 1], words from the lists above."""

    seed: int
    skin: Colour
    hair: Colour
    eyes: Colour
    lips: Colour
    clothes: Colour
    backdrop: Colour
    frames: Colour
    hair_style: str
    glasses: str
    beard: str
    collar: str
    backdrop_style: str
    nose: str
    face_width: float
    face_height: float
    jaw: float
    eye_size: float
    eye_distance: float
    brow_weight: float
    lip_weight: float
    ears: float
    blush: float
    freckles: bool
    earrings: bool
    parting: float
    light: float

    def vector(self) -> np.ndarray:
        """float32 (n) in [-1, 1]: the same for the same character, words as one number per choice."""
        numbers = []
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in CHOICES:
                numbers += [float(value == choice) for choice in CHOICES[field.name]]
            elif field.name != "seed":
                numbers += list(value) if isinstance(value, tuple) else [float(value)]
        return np.array(numbers, dtype=np.float32)


CHOICES = {
    "hair_style": HAIR_STYLES,
    "glasses": GLASSES,
    "beard": BEARDS,
    "collar": COLLARS,
    "backdrop_style": BACKDROP_STYLES,
    "nose": NOSES,
}
"""The words of each field that has some."""


def character(seed: int) -> Character:
    """The character of this ``seed``."""
    random = random_state(seed, "character")

    def between(low: float, high: float) -> float:
        return round(float(random.uniform(low, high)), 4)

    def one_of(choices, odds=None):
        return choices[random.choice(len(choices), p=odds)]

    def near(colour: Colour, by: float) -> Colour:
        # One shift for all three keeps the hue, and so the palettes' distance from magenta.
        return tuple(round(float(np.clip(c + shift, 0, 1)), 4) for c, shift in zip(colour, [between(-by, by)] * 3, strict=True))

    skin = near(one_of(SKINS), 0.02)
    style = one_of(HAIR_STYLES, (0.15, 0.13, 0.11, 0.13, 0.09, 0.1, 0.08, 0.08, 0.04, 0.09))
    bearded = style in ("short", "side", "curly", "afro", "spiky", "bald") and random.uniform() < 0.45
    hair = near(one_of(HAIRS, HAIR_ODDS), 0.03)
    return Character(
        seed=seed,
        skin=skin,
        hair=hair,
        eyes=one_of(EYES),
        lips=mix(skin, (0.84, 0.38, 0.36), between(0.4, 0.85)),
        clothes=near(one_of(CLOTHES), 0.04),
        backdrop=near(one_of([b for b in BACKDROPS if distance(b, hair) > 0.3 and distance(b, skin) > 0.3]), 0.03),
        frames=one_of(FRAMES),
        hair_style=style,
        glasses=one_of(GLASSES, (0.66, 0.18, 0.16)),
        beard=one_of(BEARDS[1:]) if bearded else "none",
        collar=one_of(COLLARS),
        backdrop_style=one_of(BACKDROP_STYLES),
        nose=one_of(NOSES),
        face_width=between(0.47, 0.57),
        face_height=between(0.60, 0.68),
        jaw=between(0.04, 0.34),
        eye_size=between(0.85, 1.15),
        eye_distance=between(0.205, 0.245),
        brow_weight=between(0.024, 0.046),
        lip_weight=between(0.022, 0.05),
        ears=between(0.085, 0.125),
        blush=between(0.0, 0.5),
        freckles=bool(random.uniform() < 0.2),
        earrings=bool(not bearded and random.uniform() < 0.3),
        parting=between(-0.25, 0.25),
        light=float(one_of((-1.0, 1.0))),
    )


def mix(a: Colour, b: Colour, share: float) -> Colour:
    """``a`` with a ``share`` of ``b`` in it."""
    return tuple(round((1 - share) * x + share * y, 4) for x, y in zip(a, b, strict=True))


def distance(a: Colour, b: Colour) -> float:
    return float(np.linalg.norm(np.subtract(a, b)))
