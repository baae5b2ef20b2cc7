"""Pictures of worlds through pygame: a canvas in world coordinates, shown as an array or in a window."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pygame

from marl.types import Array

Color = tuple[int, int, int]


class Canvas:
    """A square picture in the world's coordinates: origin in the middle until `view` says otherwise, y points up."""

    def __init__(self, title: str, window: bool, fps: int, size: int = 700) -> None:
        """Set the size and the title; the window opens with the first picture."""
        self.size, self.window, self.fps = size, window, fps
        if window:
            pygame.display.init()
            self.surface = pygame.display.set_mode((size, size))
            pygame.display.set_caption(title)
        else:
            self.surface = pygame.Surface((size, size))
        pygame.font.init()
        self._font, self._small = pygame.font.Font(None, 28), pygame.font.Font(None, 18)
        self._clock = pygame.time.Clock()
        self.view(1.0)
        self._lines = 0

    def view(self, half_width: float, center: tuple[float, float] = (0.0, 0.0)) -> None:
        """Show the square of that half-width around that center."""
        self._scale = self.size / (2.0 * max(half_width, 1e-9))
        self._center = center

    def clear(self, color: Color = (255, 255, 255)) -> None:
        """Start a new picture."""
        self.surface.fill(color)
        self._lines = 0

    def _at(self, point: Sequence[float] | Array) -> tuple[float, float]:
        x = self.size / 2 + (float(point[0]) - self._center[0]) * self._scale
        y = self.size / 2 - (float(point[1]) - self._center[1]) * self._scale
        return x, y

    def circle(self, center: Sequence[float] | Array, radius: float, color: Color) -> None:
        """A disc with a black rim."""
        pixels = max(1.0, radius * self._scale)
        pygame.draw.circle(self.surface, color, self._at(center), pixels)
        pygame.draw.circle(self.surface, (0, 0, 0), self._at(center), pixels, 1)

    def box(self, center: Sequence[float] | Array, width: float, height: float, color: Color) -> None:
        """A filled rectangle."""
        x, y = self._at(center)
        w, h = width * self._scale, height * self._scale
        pygame.draw.rect(
            self.surface, color, pygame.Rect(round(x - w / 2), round(y - h / 2), max(1, round(w)), max(1, round(h)))
        )

    def line(self, points: Sequence[Sequence[float]] | Array, color: Color = (0, 0, 0), width: int = 2) -> None:
        """A line through points."""
        pygame.draw.lines(self.surface, color, False, [self._at(point) for point in points], width)

    def text(self, words: str, color: Color = (0, 0, 0)) -> None:
        """A line of text at the bottom, one above the other."""
        image = self._font.render(words, True, color)
        self.surface.blit(image, (0.04 * self.size, 0.95 * self.size - 0.045 * self.size * self._lines))
        self._lines += 1

    def name(self, words: str, center: Sequence[float] | Array, radius: float = 0.0) -> None:
        """A name above a disc."""
        image = self._small.render(words, True, (40, 40, 40))
        x, y = self._at(center)
        corner = round(x - image.get_width() / 2), round(y - radius * self._scale - image.get_height())
        self.surface.blit(image, corner)

    def show(self) -> Array | None:
        """Put the picture into the window, or return it as ``(H, W, 3)`` uint8."""
        if not self.window:
            pixels: Array = np.transpose(pygame.surfarray.array3d(self.surface), (1, 0, 2)).copy()
            return pixels
        pygame.event.pump()
        pygame.display.flip()
        self._clock.tick(self.fps)
        return None

    def close(self) -> None:
        """Close the window."""
        if self.window:
            pygame.display.quit()
