"use strict";
// Bundles in the browser or in node: trained agents that act on observations.
//   const team = await MarlBundle.load("."); team.agent_0.reset(); const action = team.agent_0.act(observation);
const MarlBundle = (({Program, tensor, size, need}, {Codec, MASK}) => {
  const FORMAT = 2, LARGEST_FILE = 2 ** 28; // bytes
  const NAME = /^[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}$/, entries = (object) => new Map(Object.entries(object));

  // --- weights: safetensors, int8 and float16 as float32 -------------------------------------------------------------
  function half(bits) {
    const sign = bits >> 15 ? -1 : 1, exponent = (bits >> 10) & 31, rest = bits & 1023;
    if (exponent === 31) return rest ? NaN : sign * Infinity;
    return sign * (exponent ? (1 + rest / 1024) * 2 ** (exponent - 15) : (rest / 1024) * 2 ** -14);
  }
  const DTYPES = new Map([
    ["F32", [4, (data) => new Float32Array(data)]],
    ["F16", [2, (data) => Array.from(new Uint16Array(data), half)]],
    ["I8", [1, (data) => new Int8Array(data)]],
    ["I64", [8, (data) => Array.from(new BigInt64Array(data), Number)]],
    ["BOOL", [1, (data) => new Uint8Array(data)]],
  ]);
  function weights(bytes) {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    const length = Number(view.getBigUint64(0, true));
    need(length <= bytes.length - 8, "weights are cut off");
    const header = JSON.parse(new TextDecoder().decode(bytes.subarray(8, 8 + length))), found = new Map();
    const body = bytes.subarray(8 + length);
    for (const [name, said] of Object.entries(header)) {
      if (name === "__metadata__") continue;
      const [width, read] = DTYPES.get(said.dtype) ?? need(false, `weights of type ${said.dtype} are not known`);
      const [start, stop] = said.data_offsets;
      need(start >= 0 && stop - start === size(said.shape) * width && stop <= body.length, `${name} does not fit`);
      found.set(name, tensor(said.shape, read(body.slice(start, stop).buffer)));
    }
    for (const [name, scale] of found) { // one number for each output channel, along the axis where it has several
      if (!name.endsWith("/scale")) continue;
      const array = found.get(name.slice(0, -6)), axis = scale.shape.findIndex((n) => n > 1);
      const inner = axis < 0 ? array.data.length : size(array.shape.slice(axis + 1));
      array.data.forEach((v, k) => { array.data[k] = v * scale.data[Math.floor(k / inner) % scale.data.length]; });
      found.delete(name);
    }
    return found;
  }

  function number(said) { // in as many brackets as it has axes
    const shape = [];
    for (; Array.isArray(said); said = said[0]) shape.push(said.length);
    need(Number.isFinite(said) && size(shape) === 1, `expected a single number, got ${said}`);
    return tensor(shape, [said]);
  }

  // --- agents --------------------------------------------------------------------------------------------------------
  class Agent {
    constructor(name, manifest, policies) {
      const said = manifest.agents[name];
      Object.assign(this, {name, team: manifest.teams[said.team], codec: new Codec(said), policies});
      this.channel = manifest.channels[said.team];
      this.reset();
    }
    reset() { // an episode begins: nothing is remembered or heard, and of a mixture one policy is drawn
      let chance = Math.random() * this.policies.reduce((sum, one) => sum + one.chance, 0);
      this.program = (this.policies.find((one) => (chance -= one.chance) < 0) ?? this.policies.at(-1)).program;
      this.carry = tensor(this.program.inputs.get("carry") ?? [0]);
      this.heard = this.said = null;
    }
    hear(messages) { this.heard = messages; } // what others said, by name; the next act reads it
    act(observation, {mask, explore = false} = {}) {
      const turn = this.turn(observation, {mask, explore, heard: this.heard});
      this.heard = null;
      let next = turn.next();
      while (!next.done) next = turn.next(null);
      return next.value;
    }
    // One step: yields what it says, is sent what it hears, returns the action.
    * turn(observation, {mask, explore = false, heard = null} = {}) {
      const [row, legal] = this.codec.encode(observation, mask), program = this.program;
      const name = explore ? "sample" : "greedy", masked = `${name}_masked`;
      const head = legal === null || !program.heads.has(masked) ? name : masked;
      const values = program.begin({observation: row});
      values.set("carry", this.carry);
      this.listen(values, heard);
      if (legal !== null) values.set(MASK, tensor([legal.length], legal));
      for (const noise of ["uniform", "normal"]) {
        if (program.inputs.has(noise)) values.set(noise, drawn(program.inputs.get(noise), noise));
      }
      let results;
      for (let k = 0; k < program.stages.length; k++) {
        results = program.stage(values, k);
        if (!results.message) continue;
        this.said = results.loudness.data[0] > 0 ? Array.from(results.message.data) : null;
        const answer = yield this.said;
        if (k < program.stages.length - 1) this.listen(values, answer);
      }
      this.carry = results.carry ?? this.carry;
      this.outputs = Array.from(results.parameters.data);
      return this.codec.decode(program.head(values, head));
    }
    listen(values, messages) {
      if (!this.channel) return;
      const {adjacency, dynamic, size: width} = this.channel, own = this.team.indexOf(this.name);
      const message = tensor([this.team.length, width]), weight = tensor([this.team.length]);
      for (const [name, said] of entries(messages ?? {})) {
        const place = this.team.indexOf(name), loud = dynamic ? 1 : adjacency[own][place];
        need(place >= 0 && (said?.length ?? width) === width, `expected ${width} numbers from one of ${this.team}`);
        if (said === null || loud <= 0) continue;
        message.data.set(said, place * width);
        weight.data[place] = loud;
      }
      values.set("message", message).set("weight", weight);
    }
  }
  function drawn(shape, kind) {
    const uniform = Math.random;
    const normal = () => Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform());
    return tensor(shape, Array.from({length: size(shape)}, kind === "uniform" ? uniform : normal));
  }

  // --- loading -------------------------------------------------------------------------------------------------------
  async function fetched(address) {
    const answer = await fetch(address, {redirect: "error", credentials: "omit"});
    need(answer.ok, `${address} cannot be read (${answer.status})`);
    return new Uint8Array(await answer.arrayBuffer());
  }
  // `read`: the bytes of a file by its name, from somewhere else than the folder's address.
  async function load(folder, read = (name) => fetched(`${folder}/${name}`)) {
    const json = (bytes) => JSON.parse(new TextDecoder().decode(bytes));
    const manifest = json(await read("manifest.json"));
    const known = Number.isInteger(manifest.format) && manifest.format >= 1 && manifest.format <= FORMAT;
    need(known, `a bundle of format ${manifest.format} is not known here`);
    async function checked(name) {
      const said = entries(manifest.files).get(name);
      need(NAME.test(name) && said !== undefined && said.bytes <= LARGEST_FILE, `${name} is no file of the bundle`);
      const bytes = await read(name);
      need(bytes.length === said.bytes, `${name} has ${bytes.length} bytes instead of ${said.bytes}`);
      if (globalThis.crypto?.subtle) { // on pages that came over http from elsewhere there is none
        const hash = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
        const hex = Array.from(hash, (byte) => byte.toString(16).padStart(2, "0")).join("");
        need(hex === said.sha256, `${name} is damaged`);
      }
      return bytes;
    }
    const files = [];
    for (const policy of manifest.policies) {
      const program = json(await checked(policy.program)), constants = weights(await checked(policy.weights));
      for (const [name, said] of entries(program.numbers ?? {})) constants.set(name, number(said));
      files.push([program, constants]);
    }
    const team = Object.create(null);
    for (const [name, said] of entries(manifest.agents)) {
      const policies = (Array.isArray(said.policy) ? said.policy : [[1, said.policy]]).map(([chance, k]) => {
        const identity = tensor([said.identity.length], said.identity);
        return {chance, program: new Program(files[k][0], files[k][1], new Map([["identity", identity]]))};
      });
      team[name] = new Agent(name, manifest, policies);
    }
    return team;
  }
  return {load};
})(...(typeof module === "undefined" ? [MarlProgram, MarlSpaces] : [require("./runtime.js"), require("./spaces.js")]));
if (typeof module !== "undefined") module.exports = MarlBundle;
