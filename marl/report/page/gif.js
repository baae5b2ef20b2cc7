"use strict";
// Animated pictures as GIF: colors of a fixed palette, and the compression of Welch (1984) that the format asks for.

const RED = 6, GREEN = 7, BLUE = 6, CLEAR = 256, STOP = 257, CODES = 4096; // 252 colors

class Bytes {
  constructor() { this.data = new Uint8Array(1 << 16); this.length = 0; }

  push(...values) { for (const value of values) this.one(value); }

  one(value) {
    if (this.length === this.data.length) { const more = new Uint8Array(2 * this.length); more.set(this.data); this.data = more; }
    this.data[this.length++] = value;
  }

  short(value) { this.push(value & 255, value >> 8); }

  text(said) { for (const letter of said) this.one(letter.charCodeAt(0)); }
}

function indexed(pixels, out) { // of four bytes each, as places in the palette
  for (let n = 0, p = 0; p < out.length; n += 4, p += 1) {
    out[p] = (Math.round(pixels[n] * (RED - 1) / 255) * GREEN + Math.round(pixels[n + 1] * (GREEN - 1) / 255)) * BLUE
      + Math.round(pixels[n + 2] * (BLUE - 1) / 255);
  }
}

function compressed(out, pixels, table) {
  const block = new Uint8Array(255);
  let held = 0, bits = 0, filled = 0, width = 9, next = STOP + 1;
  const flush = () => { out.one(filled); for (let n = 0; n < filled; n += 1) out.one(block[n]); filled = 0; };
  const emit = (code) => {
    held |= code << bits;
    bits += width;
    while (bits >= 8) { block[filled++] = held & 255; held >>>= 8; bits -= 8; if (filled === 255) flush(); }
  };
  out.one(8);
  table.fill(0);
  emit(CLEAR);
  let prefix = pixels[0];
  for (let n = 1; n < pixels.length; n += 1) {
    const key = prefix << 8 | pixels[n], known = table[key];
    if (known) { prefix = known; continue; }
    emit(prefix);
    if (next < CODES) {
      table[key] = next;
      if (next === 1 << width) width += 1;
      next += 1;
    } else {
      emit(CLEAR);
      table.fill(0);
      width = 9;
      next = STOP + 1;
    }
    prefix = pixels[n];
  }
  emit(prefix);
  emit(STOP);
  if (bits) { block[filled++] = held & 255; }
  if (filled) flush();
  out.one(0);
}

function gifOf(frames, width, height, wait) { // frames: functions that give a frame's pixels, 4 bytes each; wait: ms
  const out = new Bytes(), table = new Uint16Array(CODES * 256), places = new Uint8Array(width * height);
  out.text("GIF89a");
  out.short(width);
  out.short(height);
  out.push(0xf7, 0, 0);
  for (let n = 0; n < 256; n += 1) {
    const color = Math.min(n, RED * GREEN * BLUE - 1);
    out.push(Math.round(Math.floor(color / (GREEN * BLUE)) * 255 / (RED - 1)), Math.round(Math.floor(color / BLUE) % GREEN * 255 / (GREEN - 1)),
      Math.round(color % BLUE * 255 / (BLUE - 1)));
  }
  out.push(0x21, 0xff, 11);
  out.text("NETSCAPE2.0");
  out.push(3, 1, 0, 0, 0); // again and again
  for (const frame of frames) {
    indexed(frame(), places);
    out.push(0x21, 0xf9, 4, 0);
    out.short(Math.max(2, Math.round(wait / 10)));
    out.push(0, 0, 0x2c, 0, 0, 0, 0);
    out.short(width);
    out.short(height);
    out.one(0);
    compressed(out, places, table);
  }
  out.one(0x3b);
  return out.data.slice(0, out.length);
}
