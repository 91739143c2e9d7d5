"use strict";
// The runtimes: ONNX Runtime for ONNX files, LiteRT for LiteRT files. Each is started once and then loads models as
// sessions: `run` takes the `data` of one image or more and returns outputs by name, each with `data` and `dims`.

const byId = (id) => document.getElementById(id);
const DATA = JSON.parse(byId("data").textContent);
const query = new URLSearchParams(location.search);
const cores = navigator.hardwareConcurrency || 1;
const threads = crossOriginIsolated ? Math.max(1, Number(query.get("threads")) || Math.min(4, cores)) : 1;

async function unpack(id) {
  const packed = await fetch(`data:application/octet-stream;base64,${byId(id).textContent}`);
  return new Response(packed.body.pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();
}

async function download({url, integrity}) {
  try {
    const answer = await fetch(url, {integrity, referrerPolicy: "no-referrer"});
    if (!answer.ok) throw new Error(`${url} answers ${answer.status}`);
    return await answer.arrayBuffer();
  } catch {
    throw new Error(`The runtime cannot be loaded from ${new URL(url).host}. Is this device offline? A page made with runtime=inline needs no network`);
  }
}

const scriptUrl = (script) => URL.createObjectURL(new Blob([script], {type: "text/javascript"}));

async function startOnnx([script, wasm]) {
  const ort = await import(scriptUrl(script));
  ort.env.logLevel = "error";
  ort.env.wasm.wasmBinary = wasm;
  ort.env.wasm.numThreads = threads;
  return async ({input}, bytes, provider) => {
    const session = await ort.InferenceSession.create(bytes, {executionProviders: [provider], logSeverityLevel: 3});
    return {
      threads,
      release: () => session.release(),
      run(data, images) {
        const dims = input.layout === "uint8_nhwc" ? [images, input.size, input.size, 3] : [images, 3, input.size, input.size];
        return session.run({[input.name]: new ort.Tensor(data instanceof Uint8Array ? "uint8" : "float32", data, dims)});
      },
    };
  };
}

// A module with one instruction of relaxed SIMD, i8x16.relaxed_swizzle, valid only in browsers that support it.
const relaxed = () => WebAssembly.validate(Uint8Array.of(
  0, 97, 115, 109, 1, 0, 0, 0, 1, 4, 1, 96, 0, 0, 3, 2, 1, 0, 10, 16, 1, 14, 0, 65, 0, 253, 15, 65, 0, 253, 15, 253, 128, 2, 26, 11));
const ELEMENTS = {1: Float32Array, 2: Int32Array, 3: Uint8Array, 4: BigInt64Array, 6: Uint8Array, 9: Int8Array};  // litert::ElementType

function listed(vector) {
  const values = Array.from({length: vector.size()}, (_, i) => vector.get(i));
  vector.delete();
  return values;
}

async function startLiteRT([script, wasm]) {  // calls its WebAssembly functions as the package's index.js does
  const own = relaxed() ? threads : 1;
  // It starts a worker for each core, needed or not, which fails without shared memory.
  Object.defineProperty(navigator, "hardwareConcurrency", {value: own === 1 ? 0 : own, configurable: true});
  const element = make("script", {src: scriptUrl(script)});
  await new Promise((resolve, reject) => {
    Object.assign(element, {onload: resolve, onerror: reject});
    document.head.append(element);
  });
  const lib = await ModuleFactory({wasmBinary: wasm, print() {}, printErr() {}});  // it prints each step
  delete navigator.hardwareConcurrency;
  const environment = lib.LiteRtEnvironment.create(null), {READ, WRITE} = lib.LiteRtTensorBufferLockMode;

  function read(buffer) {
    const type = buffer.tensorType(), layout = type.layout(), dims = listed(layout.dimensions());
    const start = buffer.lock(READ), bytes = lib.HEAPU8.slice(start, start + buffer.packedSize());
    const data = new ELEMENTS[type.elementType().value](bytes.buffer);
    buffer.unlock();
    for (const done of [layout, type, buffer]) done.delete();
    return {data, dims};
  }

  return async ({outputs, input: {layout, size: side}}, bytes) => {
    const memory = lib._malloc(bytes.length);
    lib.HEAPU8.set(bytes, memory);
    const model = lib.loadModel(environment, memory, bytes.length);
    const options = {accelerator: "wasm", cpuOptions: {numThreads: own}, gpuOptions: {}, webNNOptions: {}};
    const compiled = await lib.compileModel(environment, model, options);
    const signature = model.getSignature(0), names = listed(signature.outputNames());
    const type = model.getInputTensorType(0, 0), size = type.bytes(), order = outputs.map((_, i) => names.indexOf(`output_${i}`));
    const fits = size % (side * side * 3 * (layout === "uint8_nhwc" ? 1 : 4)) === 0 && names.length === outputs.length;
    if (!fits || order.includes(-1)) throw new Error("model.json does not describe this file");
    const input = lib.LiteRtTensorBuffer.createManaged(environment, lib.LiteRtTensorBufferType.HOST_MEMORY, type, size);
    return {
      threads: own,
      release() {
        for (const done of [input, type, signature, compiled, model]) done.delete();
        lib._free(memory);
      },
      async run(data) {  // runs all images, in batches of the file's size, and returns the outputs of the first batch
        let first = null;
        for (let start = 0; start < data.byteLength; start += size) {
          const part = new Uint8Array(data.buffer, data.byteOffset + start, Math.min(size, data.byteLength - start));
          lib.HEAPU8.set(part, input.lock(WRITE));
          input.unlock();
          const found = (await compiled.run(0, [input])).map(read);
          first ??= Object.fromEntries(outputs.map(({name}, i) => [name, found[order[i]]]));
        }
        return first;
      },
    };
  };
}

const START = {onnx: startOnnx, litert: startLiteRT}, started = {};

async function startRuntime(form) {
  try {
    const begun = performance.now(), {link} = DATA.runtimes[form];
    const first = form === "litert" && !relaxed() ? 2 : 0;
    const files = await Promise.all([first, first + 1].map((i) => (link ? download(link[i]) : unpack(`${form}-${i}`))));
    const loader = await START[form](files);
    return {loader, ms: performance.now() - begun};
  } catch (error) {
    delete started[form];  // the next to ask tries again
    throw error;
  }
}

const runtime = (form) => started[form] ??= startRuntime(form);  // started once; `loader` loads a model

async function checkBrowser() {
  // browsers that have it, but no SIMD for WebAssembly, which the runtimes need, refuse WebAssembly by the page's policy
  if (!globalThis.DecompressionStream) throw new Error("this browser is too old; use Chrome 97, Firefox 113, Safari 16.4 or a later one");
  try {
    await WebAssembly.instantiate(Uint8Array.of(0, 97, 115, 109, 1, 0, 0, 0));  // an empty module
  } catch {
    throw new Error("WebAssembly is blocked or missing in this browser; allow it for this page, or open the page in a newer or another one");
  }
}
