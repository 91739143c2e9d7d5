"use strict";
// The models: the runtime, images as their input, their outputs as answers, and how fast they are.

const byId = (id) => document.getElementById(id);
const DATA = JSON.parse(byId("data").textContent);
const MEASURED = {warmup: 3, least: 5, seconds: 2, batch: 16};  // as tasks.bench
const query = new URLSearchParams(location.search);
const cores = navigator.hardwareConcurrency || 1;
const threads = crossOriginIsolated ? Math.max(1, Number(query.get("threads")) || Math.min(4, cores)) : 1;
let ort;

// ---- runtime and models

async function unpack(id) {
  const packed = await fetch(`data:application/octet-stream;base64,${byId(id).textContent}`);
  return new Response(packed.body.pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();
}

async function download({url, integrity}) {
  const answer = await fetch(url, {integrity, referrerPolicy: "no-referrer"});
  if (!answer.ok) throw new Error(`${url} answers ${answer.status}`);
  return answer.arrayBuffer();
}

async function loadRuntime() {
  try {
    await WebAssembly.instantiate(Uint8Array.of(0, 97, 115, 109, 1, 0, 0, 0));  // an empty module
  } catch {
    throw new Error("WebAssembly is blocked or missing in this browser; allow it for this page, or open the page in another one");
  }
  let parts;
  try {
    parts = await Promise.all(DATA.link ? DATA.link.map(download) : [unpack("module"), unpack("wasm")]);
  } catch (error) {
    if (!DATA.link) throw error;
    throw new Error(`The runtime cannot be loaded from ${new URL(DATA.link[0].url).host}. Is this device offline? A page made with runtime=inline needs no network`);
  }
  const url = URL.createObjectURL(new Blob([parts[0]], {type: "text/javascript"}));
  ort = await import(url);
  ort.env.logLevel = "error";
  ort.env.wasm.wasmBinary = parts[1];
  ort.env.wasm.numThreads = threads;
}

async function load(model) {  // once, and again where another provider is chosen
  const provider = byId("provider").value === "webgpu" && model.spec.quantize === "none" ? "webgpu" : "wasm";
  if (model.session && model.provider === provider) return;
  const start = performance.now(), withRuntime = !models.some((m) => m.session);
  model.bytes ??= new Uint8Array(await unpack(`model-${model.index}`));
  await model.session?.release();
  model.session = null;
  model.session = await ort.InferenceSession.create(model.bytes, {executionProviders: [provider], logSeverityLevel: 3});
  Object.assign(model, {provider, withRuntime, loadMs: performance.now() - start, firstMs: NaN, times: [], prepared: []});
}

async function run(model, tensor) {
  const start = performance.now();
  const outputs = await model.session.run({[model.spec.input.name]: tensor});
  return [outputs, performance.now() - start];
}

// ---- pixels: the same as Pillow's, bit by bit, so that answers are those of Python

const even = (v) => (Math.abs(v % 1) === 0.5 ? 2 * Math.round(v / 2) : Math.round(v));  // as Python's round

function region({center_crop: centre}, width, height) {  // left, top, right, bottom of what the network sees
  if (centre === null) return [0, 0, width, height];
  const side = centre * Math.min(width, height), left = (width - side) / 2, top = (height - side) / 2;
  return [left, top, left + side, top + side].map(even);
}

const kernels = new Map();
function kernel(from, to) {  // Pillow's antialiased bilinear filter: of each output the first input, and weights * 2 ** 22
  const key = `${from} ${to}`;
  if (!kernels.has(key)) {
    const scale = from / to, support = Math.max(scale, 1), taps = 2 * Math.ceil(support) + 1;
    const first = new Int32Array(to), count = new Int32Array(to), weights = new Int32Array(to * taps);
    for (let i = 0; i < to; i++) {
      const middle = (i + 0.5) * scale;
      first[i] = Math.max(0, Math.trunc(middle - support + 0.5));
      count[i] = Math.min(from, Math.trunc(middle + support + 0.5)) - first[i];
      const row = Array.from({length: count[i]}, (_, k) => Math.max(0, 1 - Math.abs((k + first[i] - middle + 0.5) / support)));
      const total = row.reduce((a, b) => a + b, 0);
      row.forEach((weight, k) => { weights[i * taps + k] = Math.trunc(0.5 + weight / total * 2 ** 22); });
    }
    if (kernels.size > 16) kernels.clear();
    kernels.set(key, {first, count, weights, taps});
  }
  return kernels.get(key);
}

function resize(pixels, stride, [left, top, right, bottom], size) {  // RGBA of the image to RGB (size, size, 3)
  const width = right - left, height = bottom - top, across = kernel(width, size), down = kernel(height, size);
  const rows = new Uint8Array(height * size * 3), result = new Uint8Array(size * size * 3), half = 2 ** 21;
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < size; x++) {
      let at = 4 * ((y + top) * stride + left + across.first[x]), r = half, g = half, b = half;
      for (let k = 0, w = x * across.taps; k < across.count[x]; k++, at += 4) {
        const weight = across.weights[w + k];
        r += weight * pixels[at]; g += weight * pixels[at + 1]; b += weight * pixels[at + 2];
      }
      const to = 3 * (y * size + x);
      rows[to] = Math.min(255, r >> 22); rows[to + 1] = Math.min(255, g >> 22); rows[to + 2] = Math.min(255, b >> 22);
    }
  }
  const line = 3 * size;
  for (let y = 0; y < size; y++) {
    for (let x = 0; x < line; x++) {
      let sum = half, at = down.first[y] * line + x;
      for (let k = 0, w = y * down.taps; k < down.count[y]; k++, at += line) sum += down.weights[w + k] * rows[at];
      result[y * line + x] = Math.min(255, sum >> 22);
    }
  }
  return result;
}

function tensor({layout, size}, pixels, batch = 1) {  // uint8 (batch, size, size, 3) as the network takes it
  if (layout === "uint8_nhwc") return new ort.Tensor("uint8", pixels, [batch, size, size, 3]);
  const plane = size * size, values = new Float32Array(pixels.length);
  for (let i = 0; i < pixels.length; i++) {
    const channel = i % 3, place = (i - channel) / 3, item = Math.floor(place / plane);
    values[(3 * item + channel) * plane + place % plane] = pixels[i];
  }
  return new ort.Tensor("float32", values, [batch, 3, size, size]);
}

// ---- answers: as each export's example.py makes them of the outputs of one image

const round = (value, digits) => Number(Number(value).toFixed(digits));
const ranked = (scores, labels) => Array.from(scores, (score, i) => ({label: labels[i] ?? String(i), score: round(score, 4)}))
  .map((row, i) => [scores[i], row]).sort((a, b) => b[0] - a[0]).map(([, row]) => row);
const degrees = (radians) => round(radians * 180 / Math.PI, 5);
const listed = (outputs) => Object.fromEntries(Object.entries(outputs).map(([name, o]) => [name, Array.from(o.data, (v) => round(v, 5))]));

const ANSWERS = {
  classes: (outputs, spec) => ranked(outputs.probabilities.data, spec.labels).slice(0, 5),
  attributes: (outputs, spec) => ranked(outputs.probabilities.data, spec.labels),
  detections({boxes, scores, labels}, spec) {
    const rows = [];
    for (let i = 0; i < scores.data.length; i++) {
      if (!(scores.data[i] > spec.draw_threshold)) continue;
      const box = Array.from(boxes.data.slice(4 * i, 4 * i + 4), (v) => round(v / spec.input.size, 4));
      rows.push({label: spec.labels[Number(labels.data[i])] ?? String(labels.data[i]), score: round(scores.data[i], 4), box});
    }
    return rows;
  },
  position({cells, probabilities, directions}, spec) {
    const [x, y, z] = directions.data;
    const found = Array.from(cells.data, (cell, i) => ({token: spec.cells.tokens[Number(cell)], probability: round(probabilities.data[i], 4)}));
    return [{latitude: degrees(Math.atan2(z, Math.hypot(x, y))), longitude: degrees(Math.atan2(y, x)), cells: found}];
  },
  embedding: ({embedding}) => [listed({embedding})],
  values: (outputs) => [listed(outputs)],
};
const kind = (spec) => (Object.hasOwn(ANSWERS, spec.answer) ? spec.answer : "values");

async function answer(model, context) {  // rows for the image in a canvas's context
  const {width, height} = context.canvas, start = performance.now();
  const pixels = context.getImageData(0, 0, width, height).data;
  const input = tensor(model.spec.input, resize(pixels, width, region(model.spec.input, width, height), model.spec.input.size));
  const prepared = performance.now() - start;
  const [outputs, time] = await run(model, input);
  return {rows: ANSWERS[kind(model.spec)](outputs, model.spec), outputs, prepared, time};
}

// ---- speed, by the protocol of tasks.bench

function quantile(values, share) {  // as numpy's percentile
  const sorted = [...values].sort((a, b) => a - b), place = share * (sorted.length - 1), low = Math.floor(place);
  return sorted[low] + (place - low) * ((sorted[low + 1] ?? sorted[low]) - sorted[low]);
}

async function times(model, batch, seconds) {
  const {size} = model.spec.input, pixels = Uint8Array.from({length: batch * size * size * 3}, () => 256 * Math.random());
  const input = tensor(model.spec.input, pixels, batch), found = [];
  const begun = performance.now();  // warm-up is as long as measuring: browsers run slow code until they have compiled fast code
  for (let i = 0; i < MEASURED.warmup || performance.now() - begun < 1000 * seconds; i++) await run(model, input);
  let total = 0, shown = performance.now();
  while (found.length < MEASURED.least || total < 1000 * seconds) {
    const [, time] = await run(model, input);
    found.push(time);
    total += time;
    if (performance.now() - shown > 200) {  // lets the browser draw
      await new Promise((resolve) => setTimeout(resolve));
      shown = performance.now();
    }
  }
  return found;
}
