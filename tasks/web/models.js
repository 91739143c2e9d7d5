// The models: from images to inputs, from outputs to answers, and their speed.

const MEASURED = {warmup: 3, least: 5, seconds: 2, batch: 16};  // as tasks.bench

async function load(model) {  // once, and again if another provider is chosen
  const {spec} = model, provider = byId("provider").value === "webgpu" && webgpu(spec) ? "webgpu" : "wasm";
  if (model.session && model.provider === provider) return;
  const withRuntime = !models.some((m) => m.session && m.spec.format === spec.format), {loader, ms} = await runtime(spec.format);
  const start = performance.now();
  model.bytes ??= new Uint8Array(await unpack(`model-${model.index}`));
  await model.session?.release();
  model.session = null;
  model.session = await loader(spec, model.bytes, provider);
  const loadMs = performance.now() - start + (withRuntime ? ms : 0);
  Object.assign(model, {provider, withRuntime, loadMs, firstMs: NaN, times: [], prepared: []});
}

const webgpu = ({format, quantize}) => format === "onnx" && quantize === "none";

async function run(model, data, images) {  // the outputs of the first image, and milliseconds
  const {spec} = model, start = performance.now();
  let outputs = await model.session.run(data, images);
  for (const [name, {data, dims}] of Object.entries(outputs)) {
    outputs[name] = {data: data.subarray(0, data.length / (dims[0] || 1)), dims: [1, ...dims.slice(1)]};
  }
  if (spec.answer === "detections" && !outputs.labels) outputs = suppress(outputs, spec.postprocess);
  return [outputs, performance.now() - start];
}

// ---- pixels: the same as Pillow's, bit for bit, so that answers equal Python's

// Python ignores colour profiles, and Safari ignores the option that says so: a JPEG loses its profile, the segments
// APP2 that begin with the name below.
async function withoutProfile(blob) {
  const bytes = new Uint8Array(await blob.arrayBuffer()), kept = [];
  if (bytes[0] !== 0xff || bytes[1] !== 0xd8) return blob;
  let from = 0;
  for (let at = 2, end; bytes[at] === 0xff && bytes[at + 1] !== 0xda; at = end) {  // up to the scan
    end = at + 2 + 256 * bytes[at + 2] + bytes[at + 3];
    if (bytes[at + 1] !== 0xe2 || String.fromCharCode(...bytes.subarray(at + 4, at + 16)) !== "ICC_PROFILE\0") continue;
    kept.push(bytes.subarray(from, at));
    from = end;
  }
  return from ? new Blob([...kept, bytes.subarray(from)], {type: blob.type}) : blob;
}
let gl = null;
// RGBA of an image as its file stores it; null where the browser has no WebGL, or the image is too large for it
function colours(bitmap) {
  if (!gl || gl.isContextLost()) gl = document.createElement("canvas").getContext("webgl");
  if (!gl) return null;
  const {width, height} = bitmap, pixels = new Uint8Array(4 * width * height);
  const texture = gl.createTexture(), buffer = gl.createFramebuffer();
  gl.bindTexture(gl.TEXTURE_2D, texture);
  gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, gl.RGBA, gl.UNSIGNED_BYTE, bitmap);
  gl.bindFramebuffer(gl.FRAMEBUFFER, buffer);
  gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.TEXTURE_2D, texture, 0);
  const whole = gl.checkFramebufferStatus(gl.FRAMEBUFFER) === gl.FRAMEBUFFER_COMPLETE;
  if (whole) gl.readPixels(0, 0, width, height, gl.RGBA, gl.UNSIGNED_BYTE, pixels);
  gl.deleteFramebuffer(buffer);
  gl.deleteTexture(texture);
  return whole ? pixels : null;
}

// Python drops the alpha channel and keeps the colours of transparent pixels. A canvas loses these: it stores colours
// multiplied by their opacity.
async function opaque(bitmap) {
  const {width, height} = bitmap, pixels = width * height > LARGEST ? null : colours(bitmap);
  let transparent = false;
  for (let i = 3; pixels && i < pixels.length; i += 4) {
    transparent ||= pixels[i] < 255;
    pixels[i] = 255;
  }
  return transparent ? createImageBitmap(new ImageData(new Uint8ClampedArray(pixels.buffer), width, height)) : bitmap;
}

const even = (v) => (Math.abs(v % 1) === 0.5 ? 2 * Math.round(v / 2) : Math.round(v));  // as Python's round

function region({center_crop: centre}, width, height) {  // left, top, right, bottom of what the network sees
  if (centre === null) return [0, 0, width, height];
  const side = centre * Math.min(width, height), left = (width - side) / 2, top = (height - side) / 2;
  return [left, top, left + side, top + side].map(even);
}

const kernels = new Map();
function kernel(from, to) {  // Pillow's antialiased bilinear filter: each output's first input, and weights * 2 ** 22
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

function arranged({layout, size}, pixels) {  // uint8 (batch, size, size, 3) as the network takes it
  if (layout === "uint8_nhwc") return pixels;
  const plane = size * size, values = new Float32Array(pixels.length);
  for (let i = 0; i < pixels.length; i++) {
    const channel = i % 3, place = (i - channel) / 3, item = Math.floor(place / plane);
    values[(3 * item + channel) * plane + place % plane] = pixels[i];
  }
  return values;
}

// ---- answers: as each export's example.py computes them from the outputs of one image

const round = (value, digits) => Number(Number(value).toFixed(digits));
function ranked({data}, {labels, postprocess}) {  // names with scores, best first
  const order = Array.from(data.keys()).filter((i) => data[i] >= postprocess.draw_threshold).sort((a, b) => data[b] - data[a]);
  return order.map((i) => ({label: labels[i] ?? String(i), score: round(data[i], 4)}));
}
const degrees = (radians) => round(radians * 180 / Math.PI, 5);
const plain = (outputs) => Object.fromEntries(Object.entries(outputs).map(([name, o]) => [name, Array.from(o.data, (v) => round(v, 5))]));

function suppress({boxes, scores}, settings) {  // class-wise non-maximum suppression, for files that do not contain it
  const classes = scores.dims.at(-1), given = scores.data;
  let order = [];
  for (let i = 0; i < given.length; i++) if (given[i] > settings.score_threshold) order.push(i);
  if (order.length > settings.candidates) {  // drops the lowest scores, so that the sort below has less to do
    const least = Float32Array.from(order, (i) => given[i]).sort().at(-settings.candidates);
    order = order.filter((i) => given[i] >= least);
  }
  order = order.sort((a, b) => given[b] - given[a]).slice(0, settings.candidates);
  const kept = [];
  for (const i of order) {
    const label = i % classes, at = 4 * (i - label) / classes, box = boxes.data.subarray(at, at + 4);
    if (!kept.some((other) => other.label === label && overlap(other.box, box) > settings.nms_iou)) kept.push({label, box, score: given[i]});
  }
  const best = kept.slice(0, settings.max_detections), count = best.length;
  return {
    boxes: {data: Float32Array.from(best.flatMap(({box}) => [...box])), dims: [1, count, 4]},
    scores: {data: Float32Array.from(best, ({score}) => score), dims: [1, count]},
    labels: {data: Int32Array.from(best, ({label}) => label), dims: [1, count]},
  };
}

function overlap(a, b) {  // intersection over union of boxes (left, top, right, bottom)
  const area = (box) => (box[2] - box[0]) * (box[3] - box[1]);
  const shared = Math.max(0, Math.min(a[2], b[2]) - Math.max(a[0], b[0])) * Math.max(0, Math.min(a[3], b[3]) - Math.max(a[1], b[1]));
  return shared > 0 ? shared / (area(a) + area(b) - shared) : 0;
}

const ANSWERS = {
  classes: ({probabilities}, spec) => ranked(probabilities, spec).slice(0, 5),
  attributes: ({probabilities}, spec) => ranked(probabilities, spec),
  detections({boxes, scores, labels}, spec) {
    const rows = [];
    for (let i = 0; i < scores.data.length; i++) {
      if (!(scores.data[i] > spec.postprocess.draw_threshold)) continue;
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
  embedding: ({embedding}) => [plain({embedding})],
  values: (outputs) => [plain(outputs)],
};
const kind = (spec) => (Object.hasOwn(ANSWERS, spec.answer) ? spec.answer : "values");

async function answer(model, context) {  // rows for the image in a canvas's context
  const {width, height} = context.canvas, start = performance.now();
  const pixels = context.getImageData(0, 0, width, height).data;
  const input = arranged(model.spec.input, resize(pixels, width, region(model.spec.input, width, height), model.spec.input.size));
  const prepared = performance.now() - start;
  const [outputs, time] = await run(model, input, 1);
  return {rows: ANSWERS[kind(model.spec)](outputs, model.spec), outputs, prepared, time};
}

// ---- speed, by the protocol of tasks.bench

function quantile(values, share) {  // as numpy's percentile
  const sorted = [...values].sort((a, b) => a - b), place = share * (sorted.length - 1), low = Math.floor(place);
  return sorted[low] + (place - low) * ((sorted[low + 1] ?? sorted[low]) - sorted[low]);
}

async function times(model, batch, seconds) {
  const {size} = model.spec.input, pixels = Uint8Array.from({length: batch * size * size * 3}, () => 256 * Math.random());
  const input = arranged(model.spec.input, pixels), found = [];
  const begun = performance.now();  // warm-up is as long as measuring: browsers run slow code until they have compiled fast code
  for (let i = 0; i < MEASURED.warmup || performance.now() - begun < 1000 * seconds; i++) await run(model, input, batch);
  let total = 0, shown = performance.now();
  while (found.length < MEASURED.least || total < 1000 * seconds) {
    const [, time] = await run(model, input, batch);
    found.push(time);
    total += time;
    if (performance.now() - shown > 200) {  // lets the browser draw
      await new Promise((resolve) => setTimeout(resolve));
      shown = performance.now();
    }
  }
  return found;
}
