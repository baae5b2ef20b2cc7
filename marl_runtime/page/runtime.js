"use strict";
// Programs of a bundle in plain JavaScript, computed as marl_runtime/program.py computes them. A program is data:
// operations are looked up in a table, and nothing in a bundle chooses code to run.
const MarlProgram = (() => {
  const f = Math.fround, ILLEGAL = -1e9, LARGEST = 2 ** 24; // numbers in one array
  const size = (shape) => shape.reduce((a, b) => a * b, 1);
  const need = (right, text) => { if (!right) throw new RangeError(text); };

  // --- arrays: a shape, and numbers that are rounded to float32 as they are stored -----------------------------------
  function tensor(shape, numbers) {
    need(shape.every((n) => Number.isInteger(n) && n >= 0) && size(shape) <= LARGEST, `no array is of shape ${shape}`);
    need(numbers === undefined || numbers.length === size(shape), `${numbers?.length} numbers for the shape ${shape}`);
    if (numbers === undefined) return {shape, data: new Float32Array(size(shape))};
    return {shape, data: numbers instanceof Float32Array ? numbers : Float32Array.from(numbers)};
  }
  const last = (x) => x.shape[x.shape.length - 1], vector = (numbers) => tensor([numbers.length], numbers);
  const reshaped = (x, shape) => tensor(shape, x.data), map = (fn) => (x) => tensor(x.shape, x.data.map(fn));

  function zip(fn, ...xs) { // element by element, shapes broadcast as in numpy
    const rank = Math.max(...xs.map((x) => x.shape.length)), axes = [...Array(rank).keys()];
    const wide = xs.map((x) => [...Array(rank - x.shape.length).fill(1), ...x.shape]);
    const out = tensor(axes.map((a) => wide.map((w) => w[a]).find((n) => n !== 1) ?? 1));
    need(wide.every((w) => w.every((n, a) => n === 1 || n === out.shape[a])), "shapes do not fit");
    const whole = xs.map((x) => (x.data.length === out.data.length ? 1 : x.data.length === 1 ? 0 : -1));
    const place = (k, n) => { // of an input, for the k-th number of the result
      let at = 0, step = 1;
      for (let a = rank - 1; a >= 0; k = Math.floor(k / out.shape[a--])) {
        at += wide[n][a] === 1 ? 0 : (k % out.shape[a]) * step;
        step *= wide[n][a];
      }
      return at;
    };
    for (let k = 0; k < out.data.length; k++)
      out.data[k] = fn(...xs.map((x, n) => x.data[whole[n] < 0 ? place(k, n) : k * whole[n]]));
    return out;
  }
  function rows(fn, x) { // fn of each row along the last axis
    const width = last(x), found = [];
    need(width > 0, "an array has no numbers along its last axis");
    for (let k = 0; k < x.data.length; k += width) found.push(fn(x.data.subarray(k, k + width)));
    return found;
  }
  const joined = (shape, parts) => tensor(shape, parts.flatMap((part) => Array.from(part)));

  // --- operations ----------------------------------------------------------------------------------------------------
  function erf(x) { // Abramowitz and Stegun 1964, 7.1.26
    const t = 1 / (1 + 0.3275911 * Math.abs(x));
    const tail = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))));
    return f(Math.sign(x) * (1 - tail * Math.exp(-x * x)));
  }
  const sigmoid = (x) => f(f(f(Math.tanh(f(x * 0.5))) * 0.5) + 0.5);
  const ACTIVATIONS = {
    none: (x) => x, tanh: Math.tanh, relu: (x) => Math.max(x, 0), elu: (x) => (x > 0 ? x : Math.expm1(x)),
    gelu: (x) => f(x * 0.5) * f(1 + erf(f(x * f(Math.SQRT1_2)))), silu: (x) => x * sigmoid(x),
  };
  function product(a, b) { // (n, m) and (m, k) to (n, k); sums in doubles, rounded once
    const [n, m] = a.shape, k = b.shape[1], out = tensor([n, k]);
    need(b.shape[0] === m && b.shape.length === 2, "matrices do not fit");
    for (let row = 0; row < n; row++) {
      const sums = new Float64Array(k);
      for (let i = 0; i < m; i++) {
        const x = a.data[row * m + i];
        for (let j = 0; j < k; j++) sums[j] += x * b.data[i * k + j];
      }
      out.data.set(sums, row * k);
    }
    return out;
  }
  const layer = (x, weight, bias, {activation = "none"} = {}) => map(own(ACTIVATIONS, activation))(
    zip((y, b) => y + b, reshaped(product(reshaped(x, [size(x.shape) / last(x), last(x)]), weight),
      [...x.shape.slice(0, -1), weight.shape[1]]), bias));
  function convolution(x, kernel, bias, {stride, activation = "none"}) {
    const [channels, height, width] = x.shape, [count, deep, high, wide] = kernel.shape;
    const H = Math.floor((height - high) / stride) + 1, W = Math.floor((width - wide) / stride) + 1;
    need(deep === channels && stride >= 1 && H > 0 && W > 0, "a kernel does not fit");
    const out = tensor([count, H, W]), activate = own(ACTIVATIONS, activation);
    for (let o = 0, place = 0; o < count; o++) for (let r = 0; r < H; r++) for (let c = 0; c < W; c++, place++) {
      let sum = 0, k = o * channels * high * wide;
      for (let d = 0; d < channels; d++) for (let i = 0; i < high; i++) {
        const from = (d * height + r * stride + i) * width + c * stride;
        for (let j = 0; j < wide; j++) sum += x.data[from + j] * kernel.data[k++];
      }
      out.data[place] = activate(f(f(sum) + bias.data[o]));
    }
    return out;
  }
  const gru = (given, again, hidden) => vector(Array.from(hidden.data, (before, k) => { // gates r z n
    const n = hidden.data.length, [r, z] = [k, n + k].map((g) => sigmoid(f(given.data[g] + again.data[g])));
    const candidate = f(Math.tanh(f(given.data[2 * n + k] + f(r * again.data[2 * n + k]))));
    return candidate + f(z * f(before - candidate));
  }));
  function lstm(given, again, cell) { // gates i f g o
    const n = cell.data.length, gate = (k) => f(given.data[k] + again.data[k]), after = new Float32Array(2 * n);
    for (let k = 0; k < n; k++) {
      after[n + k] = f(sigmoid(gate(n + k)) * cell.data[k]) + f(sigmoid(gate(k)) * f(Math.tanh(gate(2 * n + k))));
      after[k] = sigmoid(gate(3 * n + k)) * f(Math.tanh(after[n + k]));
    }
    return vector(after);
  }
  const total = (numbers) => f(numbers.reduce((a, b) => a + b, 0));
  const parts = (weight, sum = total(weight)) => weight.map((w) => w / (sum > 0 ? sum : 1));
  function shares(score, weight) { // softmax over those heard, each counted by its weight
    const top = Math.max(...score.filter((_, k) => weight[k] > 0));
    const share = Float32Array.from(weight, (w, k) => (w > 0 ? w * f(Math.exp(f(score[k] - top))) : 0));
    return parts(share);
  }
  const mix = (weight, message) => reshaped(product(tensor([1, weight.length], weight), message), [last(message)]);
  const columns = (x, start, stop) =>
    joined([...x.shape.slice(0, -1), stop - start], rows((r) => r.slice(start, stop), x));
  function attention(query, message, weight) {
    const width = last(query), keys = columns(message, 0, width), root = f(Math.sqrt(width));
    const score = Float32Array.from(product(keys, reshaped(query, [width, 1])).data, (s) => s / root);
    return mix(shares(score, weight.data), columns(message, width, last(message)));
  }
  function graphAttention(query, message, weight) { // a score for each head; messages are H values and H scores
    const heads = last(query), wide = (last(message) - heads) / heads, found = [];
    for (let h = 0; h < heads; h++) {
      const raw = rows((m) => f(m[heads * wide + h] + query.data[h]), message);
      const score = Float32Array.from(raw, (s) => (s > 0 ? s : f(s * f(0.2))));
      found.push(mix(shares(score, weight.data), columns(message, h * wide, (h + 1) * wide)).data);
    }
    return joined([heads * wide], found);
  }
  function mean(x, {axis}) {
    const at = x.shape.length + axis, count = x.shape[at], inner = size(x.shape.slice(at + 1));
    const shape = x.shape.map((n, k) => (k === at ? 1 : n)), sums = new Float64Array(size(shape));
    x.data.forEach((v, k) => { sums[Math.floor(k / (inner * count)) * inner + (k % inner)] += v / count; });
    return tensor(shape, sums);
  }
  const softmax = (row, top = Math.max(...row)) => parts(row.map((v) => Math.exp(f(v - top))));
  const above = (v, best) => v > best || (Number.isNaN(v) && !Number.isNaN(best)); // as numpy's argmax has it
  const largest = (row) => row.reduce((best, v, k) => (above(v, row[best]) ? k : best), 0);
  const bits = (logit, zero, one) => (one ? (zero ? logit : -ILLEGAL) : ILLEGAL);
  const OPERATIONS = {
    layer, product, convolution, gru, lstm, attention, mean, graph_attention: graphAttention,
    mean_heard: (message, weight) => mix(parts(weight.data), message),
    sum_heard: (message, weight) => mix(weight.data, message),
    add: (x, y) => zip((a, b) => a + b, x, y), subtract: (x, y) => zip((a, b) => a - b, x, y),
    multiply: (x, y) => zip((a, b) => a * b, x, y), divide: (x, y) => zip((a, b) => a / b, x, y),
    exp: map(Math.exp), tanh: map(Math.tanh), sigmoid: map(sigmoid), whole: map(Math.trunc),
    softmax: (x) => joined(x.shape, rows((r) => softmax(r), x)), image: map((v) => v * f(1 / 255)),
    clip: (x, low, high) => zip((v, a, b) => Math.min(Math.max(v, a), b), x, low, high),
    concat: (...parts) => joined([...parts[0].shape.slice(0, -1), parts.reduce((n, x) => n + last(x), 0)],
      rows((r) => r, parts[0]).flatMap((_, k) => parts.map((x) => x.data.subarray(k * last(x), (k + 1) * last(x))))),
    slice: (x, {start, stop}) => columns(x, start, stop),
    flatten: (x, {axes}) => reshaped(x, [...x.shape.slice(0, -axes), size(x.shape.slice(-axes))]),
    unflatten: (x, {shape}) => reshaped(x, [...x.shape.slice(0, -1), ...shape]),
    squeeze: (x) => tensor(x.shape.slice(0, -1), rows((r) => r[0], x)),
    above: (x, y) => zip((a, b) => (a > b ? 1 : 0), x, y), choose: (c, x, y) => zip((k, a, b) => (k ? a : b), c, x, y),
    mask: (x, legal) => zip((v, ok) => (ok ? v : ILLEGAL), x, legal),
    mask_bits: (x, legal) => tensor(x.shape, x.data.map((v, k) => bits(v, legal.data[2 * k], legal.data[2 * k + 1]))),
    gumbel: (x, uniform) => zip((v, u) => v - f(Math.log(f(-Math.log(u)))), x, uniform),
    argmax: (x) => tensor(x.shape.slice(0, -1), rows(largest, x)),
    stack: (...parts) => joined([...parts[0].shape, parts.length],
      Array.from(parts[0].data, (_, k) => parts.map((x) => x.data[k]))),
  };

  function own(table, name) {
    need(Object.hasOwn(table, name), `${name} is not known; a newer version may know it`);
    return table[name];
  }

  // --- running -------------------------------------------------------------------------------------------------------
  class Program {
    // constants and bound: arrays by name; what follows from them alone is computed here
    constructor(said, constants, bound) {
      this.inputs = new Map(Object.entries(said.inputs));
      this.constants = new Map([...constants, ...bound]);
      this.stages = said.stages.map((stage) => this.compiled(stage));
      this.heads = new Map(Object.entries(said.heads).map(([name, stage]) => [name, this.compiled(stage)]));
    }
    compiled({operations, results}) {
      const steps = operations.map(([kind, out, inputs, settings]) => {
        const beside = Object.keys(settings).length ? [settings] : [];
        return {run: own(OPERATIONS, kind), out, inputs, beside};
      });
      return {steps: steps.filter((step) => !this.folded(step)), results};
    }
    folded(step) {
      const known = step.inputs.every((name) => this.constants.has(name));
      if (known) run(this.constants, [step]);
      return known;
    }
    begin(inputs) { return new Map([...this.constants, ...Object.entries(inputs)]); }
    stage(values, k) { return this.finished(values, this.stages[k]); }
    head(values, name) { return this.finished(values, this.heads.get(name)).action; }
    finished(values, {steps, results}) {
      run(values, steps);
      return Object.fromEntries(Object.entries(results).map(([name, value]) => [name, values.get(value)]));
    }
  }
  function run(values, steps) {
    for (const {run: operation, out, inputs, beside} of steps) {
      const given = inputs.map((name) => values.get(name) ?? need(false, `nothing computes ${name}`));
      values.set(out, operation(...given, ...beside));
    }
  }
  return {Program, tensor, size, need};
})();
if (typeof module !== "undefined") module.exports = MarlProgram;
