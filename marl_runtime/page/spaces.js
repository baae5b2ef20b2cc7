"use strict";
// An agent's spaces: its observation as a padded row, its action as what the environment takes, as in
// marl_runtime/spaces.py. Values are those of JSON: numbers, lists, and objects for Dict spaces.
const MarlSpaces = (({tensor, size, need}) => {
  const MASK = "action_mask", isList = (value) => Array.isArray(value) || ArrayBuffer.isView(value);
  const flat = (value) => (isList(value) ? Array.from(value).flatMap(flat) : [value]);
  const number = (value) => (typeof value === "string" ? Number(value.replace("inf", "Infinity")) : value);
  const lengths = (value) => (isList(value) ? [value.length, ...lengths(value[0])] : []);
  const nested = (array, [, ...rest]) => { // numbers in lists of lists, as the shape has it
    const step = size(rest), part = (_, k) => nested(array.slice(k * step, (k + 1) * step), rest);
    return rest.length === 0 ? array : Array.from({length: array.length / step}, part);
  };
  function shapeOf({type, shape, n, nvec}) {
    return type === "Box" ? shape : type === "MultiBinary" ? [n].flat() : lengths(nvec);
  }
  const keyed = (key) => (key && typeof key === "object" ? key.items.map(keyed).join() : String(key));
  function oneHot(values, starts, sizes) {
    need(values.length === sizes.length, `expected ${sizes.length} whole numbers`);
    return sizes.flatMap((n, k) => {
      const at = values[k] - starts[k];
      need(Number.isInteger(at) && at >= 0 && at < n, `expected numbers from ${starts[k]} below ${starts[k] + n}`);
      return Array.from({length: n}, (_, place) => (place === at ? 1 : 0));
    });
  }
  function written(space, value) { // an observation as the numbers of a row
    if (space.type === "Discrete") return oneHot(flat(value), [space.start], [space.n]);
    if (space.type === "MultiDiscrete") return oneHot(flat(value), flat(space.start), flat(space.nvec));
    if (space.type === "Tuple") {
      need(Array.isArray(value) && value.length === space.spaces.length, `expected a list of ${space.spaces.length}`);
      return space.spaces.flatMap((part, k) => written(part, value[k]));
    }
    if (space.type === "Dict") {
      return space.spaces.flatMap(([key, part]) => {
        need(Object.hasOwn(Object(value), keyed(key)), `expected the key ${keyed(key)}`);
        return written(part, value[keyed(key)]);
      });
    }
    const numbers = flat(value).map(Number);
    need(numbers.length === size(shapeOf(space)), `expected numbers of shape ${shapeOf(space)}, got ${numbers.length}`);
    return numbers;
  }
  function imageAxes(space) { // which axis is the channel's: 0 or 2, -1 if there is none; null: no image
    if (space.type !== "Box" || space.dtype !== "uint8" || ![2, 3].includes(space.shape.length)) return null;
    if (flat(space.low).some((v) => v !== 0) || flat(space.high).some((v) => v !== 255)) return null;
    const [a, b, c] = space.shape;
    return c === undefined ? -1 : a * 4 <= Math.min(b, c) && ![1, 3, 4].includes(c) ? 0 : 2;
  }
  function channelsFirst(numbers, [height, width, channels]) {
    const plane = (c) => Array.from({length: height * width}, (_, k) => numbers[k * channels + c]);
    return Array.from({length: channels}, (_, c) => plane(c)).flat();
  }
  function rounded(x) { // half to even, as numpy does
    const down = Math.floor(x), over = x - down;
    return over > 0.5 || (over === 0.5 && down % 2 !== 0) ? down + 1 : down;
  }

  class Codec {
    constructor(said) {
      const seen = said.observation_space;
      this.said = said;
      this.masked = seen.type === "Dict" && seen.spaces.some(([key]) => key === MASK);
      const rest = this.masked ? seen.spaces.filter(([key]) => key !== MASK) : [];
      this.entry = rest.length === 1 && rest[0][0] === "observation";
      this.space = !this.masked ? seen : this.entry ? rest[0][1] : {type: "Dict", spaces: rest};
      this.choices = said.choices === null ? null : said.choices.map(Number);
    }
    encode(observation, mask) {
      const own = this.masked ? observation[MASK] : undefined, legal = mask ?? own;
      const numbers = written(this.space, this.masked && this.entry ? observation.observation : observation);
      const row = imageAxes(this.space) === 2 ? channelsFirst(numbers, this.space.shape) : numbers;
      const padded = tensor(this.said.observation_shape);
      padded.data.set(row);
      return [padded, legal === undefined ? this.choices : this.legal(flat(legal).map(Number))];
    }
    legal(mask) {
      need(mask.every((m) => m === 0 || m === 1) && mask.includes(1), "expected zeros and ones with a legal action");
      if (this.choices === null) return mask;
      const open = this.choices.flatMap((ok, place) => (ok ? [place] : [])), whole = this.choices.slice();
      mask.forEach((ok, k) => { whole[open[k]] = ok; });
      return whole;
    }
    decode(action) {
      const space = this.said.action_space;
      if (space.type === "Discrete") return action.data[0];
      const shape = shapeOf(space), array = Array.from(action.data.subarray(0, size(shape)));
      if (space.type !== "Box") return nested(array, shape);
      const [low, high] = [space.low, space.high].map((side) => flat(side).map(number));
      const bound = (side, k) => (space.dtype === "float32" ? Math.fround : (v) => v)(side[side.length === 1 ? 0 : k]);
      const whole = space.dtype.startsWith("float") ? (v) => v : rounded;
      return nested(array.map((v, k) => Math.min(Math.max(whole(v), bound(low, k)), bound(high, k))), shape);
    }
  }
  return {Codec, MASK};
})(typeof module === "undefined" ? MarlProgram : require("./runtime.js"));
if (typeof module !== "undefined") module.exports = MarlSpaces;
