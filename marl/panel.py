"""What is added to pictures: who hears whom, captions, names (extra ``play``)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from marl.types import Array, ConfigError

Color = tuple[int, int, int]
LEAST, MOST = 220, 420  # pixels of a panel's side
MOST_ROWS = 4  # of agents in a caption; with more of them it has the first line alone
INK, PAPER, FAINT = (40, 40, 40), (255, 255, 255), (205, 205, 205)
LOW, MIDDLE, HIGH = (33, 102, 172), (190, 190, 190), (178, 24, 43)  # numbers from below to above 0
WORDS: tuple[Color, ...] = (
    (31, 119, 180), (255, 127, 14), (44, 160, 44), (214, 39, 40), (148, 103, 189),
    (140, 86, 75), (227, 119, 194), (127, 127, 127), (188, 189, 34), (23, 190, 207),
)  # fmt: skip


@dataclass(frozen=True)
class Talk:
    """What some agents hear at one step.

    agents: their names; weight ``(N, N)``: how much each hears of each; message ``(N, N, M)``: what, listeners first;
    words: whether a message is one of several words (one-hot) rather than numbers.
    """

    agents: tuple[str, ...]
    weight: Array
    message: Array
    words: bool


def beside(frame: Array, talks: Sequence[Talk]) -> Array:
    """The frame ``(H, W, 3)`` with a panel for each group at its right: lines thick by weight, colored by message.

    Agents stand in a circle. A line leaves the speaker and ends with a dot at the listener; its color is the first
    number of the message (blue below 0, red above), or the word.
    """
    side = int(np.clip(frame.shape[0], LEAST, MOST))
    panels = [_panel(talk, side) for talk in talks]
    height = max(frame.shape[0], side)
    canvas = np.full((height, frame.shape[1] + side * len(panels), 3), 255, np.uint8)
    canvas[: frame.shape[0], : frame.shape[1]] = frame
    for place, panel in enumerate(panels):
        left = frame.shape[1] + place * side
        canvas[(height - side) // 2 : (height - side) // 2 + side, left : left + side] = panel
    return canvas


def captioned(frames: Sequence[Array], texts: Sequence[tuple[str, Sequence[str]]]) -> list[Array]:
    """Frames ``(H, W, 3)``, each with a line of text below it, and below that short texts in columns.

    Every frame has equally many texts, which stand in the same places in all of them.
    """
    if not frames:
        return []
    pygame = _pygame()
    font = pygame.font.Font(None, int(np.clip(frames[0].shape[0] // 28, 16, 24)))
    high, pad = font.get_linesize(), 6
    line = max(font.size(first)[0] for first, _ in texts) + 2 * pad
    column = max((font.size(text)[0] for _, rest in texts for text in rest), default=0) + 2 * pad
    width = max(line, column, *(frame.shape[1] for frame in frames))
    columns, count = max(1, width // column), len(texts[0][1])
    rows = -(-count // columns)
    rows = rows if rows <= MOST_ROWS else 0
    found = []
    for frame, (first, rest) in zip(frames, texts, strict=True):
        strip = pygame.Surface((width, 2 * pad + high * (1 + rows)))
        strip.fill(PAPER)
        strip.blit(font.render(first, True, INK), (pad, pad))
        for place, text in enumerate(rest if rows else ()):
            row, at = divmod(place, columns)
            strip.blit(font.render(text, True, INK), (pad + at * column, pad + high * (1 + row)))
        canvas = np.full((frame.shape[0] + strip.get_height(), width, 3), 255, np.uint8)
        canvas[: frame.shape[0], : frame.shape[1]] = frame
        canvas[frame.shape[0] :] = _pixels(strip)
        found.append(canvas)
    return found


def named(frame: Array, names: Sequence[tuple[str, float, float]]) -> Array:
    """The frame ``(H, W, 3)`` with names above pixels: ``(name, x, y)`` each."""
    pygame = _pygame()
    surface = pygame.surfarray.make_surface(frame.swapaxes(0, 1))
    font = pygame.font.Font(None, 18)
    for name, x, y in names:
        label = font.render(name, True, INK)
        surface.blit(label, (round(x - label.get_width() / 2), round(y - label.get_height())))
    return _pixels(surface)


def _pygame() -> ModuleType:
    """pygame with its fonts. Raises ConfigError if it is not installed."""
    try:
        import pygame
    except ImportError:
        raise ConfigError("pygame is not installed: pip install 'marl-system[play]'") from None
    pygame.font.init()
    return pygame


def _pixels(surface: Any) -> Array:
    """``(H, W, 3)`` uint8."""
    return np.ascontiguousarray(_pygame().surfarray.array3d(surface).swapaxes(0, 1))


def _panel(talk: Talk, side: int) -> Array:
    pygame = _pygame()
    surface = pygame.Surface((side, side))
    surface.fill(PAPER)
    count = len(talk.agents)
    font = pygame.font.Font(None, max(14, side // (16 if count <= 8 else 24)))
    around = [2 * math.pi * n / count - math.pi / 2 for n in range(count)]
    center, radius = side / 2, side * 0.33
    places = [(center + radius * math.cos(angle), center + radius * math.sin(angle)) for angle in around]
    dot = max(5, min(side // 24, int(radius * math.pi / count / 2)))
    most = max(float(talk.weight.max()), 1e-9)
    for listener, speaker in np.argwhere(talk.weight > 0):
        if listener == speaker:
            continue
        color = tone(talk.message[listener, speaker], talk.words)
        width = 1 + round(4 * float(talk.weight[listener, speaker]) / most)
        (x, y), (u, v) = places[speaker], places[listener]
        length = math.hypot(u - x, v - y)
        along, across = ((u - x) / length, (v - y) / length), ((y - v) / length, (u - x) / length)
        shift = dot * 0.45  # two ways side by side
        start = (x + along[0] * dot + across[0] * shift, y + along[1] * dot + across[1] * shift)
        end = (u - along[0] * dot * 1.3 + across[0] * shift, v - along[1] * dot * 1.3 + across[1] * shift)
        pygame.draw.line(surface, color, start, end, width)
        pygame.draw.circle(surface, color, end, width + 1.5)
    for name, (x, y), angle in zip(talk.agents, places, around, strict=True):
        pygame.draw.circle(surface, FAINT, (x, y), dot)
        pygame.draw.circle(surface, INK, (x, y), dot, 1)
        label = font.render(name, True, INK)
        w, h = label.get_size()
        left = x + dot * 1.8 * math.cos(angle) - w / 2 * (1 - math.cos(angle))
        top = y + (dot + h * 0.8) * math.sin(angle) - h / 2
        surface.blit(label, (min(max(left, 2), side - w - 2), min(max(top, 2), side - h - 2)))
    return _pixels(surface)


def tone(message: Array, words: bool) -> Color:
    """The color of a message: of its word, or of its first number, pale where that is near 0."""
    if words:
        return WORDS[int(np.argmax(message)) % len(WORDS)]
    value = math.tanh(float(message[0]))
    side = HIGH if value > 0 else LOW
    red, green, blue = (round(a + (b - a) * abs(value)) for a, b in zip(MIDDLE, side, strict=True))
    return red, green, blue
