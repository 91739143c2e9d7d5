// The page: a panel for each model, image sources, and measuring.

const RECENT = 30;  // runs over which the shown speed is measured
const LARGEST = 16e6;  // pixels of a canvas that every phone can hold

const models = DATA.exports.map((spec, index) => ({spec, index, enabled: spec.task === DATA.exports[0].task}));
const enabled = () => models.filter((m) => m.enabled);
let hasImage = false, stream = null, facing = "environment", able = false, running = null, again = false;
let answered = [];  // times of the last answers
let pending = 0;  // images and changes that are not answered yet
let asked = 0;  // images and cameras requested so far: only the last one counts
let measuring = false;  // nothing else may run meanwhile
let broken = "";  // why no model can be run; it stays shown

function say(words) {
  const shown = broken || words;
  byId("message").textContent = shown;
  byId("message").hidden = !shown;
}

async function busy(work) {  // marks the models as busy while `work` lasts, for screen readers
  pending += 1;
  byId("models").setAttribute("aria-busy", "true");
  try {
    return await work();
  } finally {
    pending -= 1;
    if (!pending) byId("models").setAttribute("aria-busy", "false");
  }
}

function announce(politeness) {  // how screen readers announce answers: `polite`, or `off` as for a camera's many frames
  for (const {result} of models) result.setAttribute("aria-live", politeness);
}

// ---- panels

function panel(model) {
  const {spec} = model, size = `${spec.input.size} × ${spec.input.size} px, ${(spec.bytes / 1e6).toFixed(2)} MB`;
  model.result = make("div", {class: "answer", "aria-live": "polite"}, make("p", {class: "muted"}, "Choose an image."));
  model.figures = make("dl");
  model.json = make("pre", {tabindex: "0"});
  const drawn = ["detections", "position"].includes(kind(spec));
  if (drawn) model.canvas = make("canvas", {role: "img", "aria-label": "The answer, drawn"});
  const side = make("div", {}, model.result, model.figures, make("details", {}, make("summary", {}, "Answer as JSON"), model.json));
  if (spec.note) side.append(make("p", {class: "muted"}, spec.note));
  model.panel = make("section", {class: "card", "data-name": spec.name, "aria-label": spec.name}, make("h2", {}, spec.name,
    make("span", {}, size + (spec.quantize === "none" ? "" : `, ${spec.quantize}`))),
    make("div", {class: "columns"}, ...(drawn ? [make("div", {class: "stage"}, model.canvas)] : []), side));
  model.panel.hidden = !model.enabled;
  return model.panel;
}

function chip(model) {
  const box = make("input", {type: "checkbox", onchange: () => {
    model.enabled = box.checked;
    model.panel.hidden = !box.checked;
    update();
  }});
  box.checked = model.enabled;
  return make("label", {}, box, model.spec.name);
}

function showSpeed(model) {
  const recent = model.times, rows = [[model.withRuntime ? "loading runtime and model" : "loading the model", ms(model.loadMs)], ["first answer", ms(model.firstMs)]];
  if (recent.length) rows.push([`median of ${recent.length}`, ms(quantile(recent, 0.5))], [`95 % of ${recent.length} within`, ms(quantile(recent, 0.95))]);
  rows.push(["image to input", ms(quantile(model.prepared, 0.5))]);
  if (stream && answered.length > 1) rows.push(["frames a second", fixed((answered.length - 1) * 1000 / (answered.at(-1) - answered[0]), 1)]);
  rows.push(["threads", model.provider === "webgpu" ? "WebGPU" : String(model.session.threads)]);
  model.figures.replaceChildren(...rows.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]));
}

async function refresh(model) {
  try {
    await load(model);
    if (!hasImage) return;
    const {rows, outputs, prepared, time} = await answer(model, frame);
    if (Number.isNaN(model.firstMs)) model.firstMs = time;
    else model.times = [...model.times, time].slice(-RECENT);
    model.prepared = [...model.prepared, prepared].slice(-RECENT);
    model.result.replaceChildren(...await SHOWN[kind(model.spec)](model, rows, outputs));
    model.json.textContent = JSON.stringify(rows);
    showSpeed(model);
  } catch (error) {
    model.result.replaceChildren(make("p", {class: "error"}, `This model cannot be run here: ${error.message ?? error}`));
    model.figures.replaceChildren();  // nothing of an earlier image stays beside the error
    model.json.textContent = "";
    if (model.canvas) model.canvas.height = 0;
  }
}

async function answerAll() {
  while (again && able && !measuring) {
    again = false;
    drawView();
    for (const model of enabled()) await refresh(model);
    if (hasImage && !byId("footer").textContent) ready();
  }
}

// runs every enabled model on the current image, one after the other
const update = () => busy(() => {
  again = true;
  running ??= Promise.resolve().then(answerAll).finally(() => {
    running = null;
    if (again && able && !measuring) update();
  });
  return running;
});

function ready() {
  const used = [...new Set(enabled().map(({spec}) => DATA.runtimes[spec.format].name))], count = enabled()[0]?.session?.threads ?? 1;
  byId("footer").textContent = `${used.join(", ")}, ${count === 1 ? "1 thread" : `${count} threads`}; first answer ${fixed(performance.now() / 1000, 2)} s after opening.`;
}

// ---- input

function setFrame(source, width, height) {
  const scale = Math.min(1, Math.sqrt(LARGEST / (width * height)));
  frame.canvas.width = Math.max(1, Math.round(width * scale));
  frame.canvas.height = Math.max(1, Math.round(height * scale));
  frame.drawImage(source, 0, 0, frame.canvas.width, frame.canvas.height);
  hasImage = true;
}

const openImage = (blob, chosen = null) => (measuring ? null : busy(() => decode(blob, chosen)));

async function decode(source, chosen) {  // a blob, or a promise of one
  const own = asked += 1;
  stopCamera();
  let blob = null;
  try {
    blob = await source;
    const stored = await createImageBitmap(await withoutProfile(blob), {colorSpaceConversion: "none", premultiplyAlpha: "none"});
    const bitmap = blob.type === "image/jpeg" ? stored : await opaque(stored);
    if (bitmap !== stored) stored.close();
    await running;
    if (own !== asked) return bitmap.close();
    setFrame(bitmap, bitmap.width, bitmap.height);
    bitmap.close();
  } catch {
    if (own !== asked) return;
    return say(`${blob?.name || "This image"} cannot be decoded here. Choose a JPEG, PNG or WebP image.`);
  }
  say("");
  for (const button of byId("samples").children) button.setAttribute("aria-pressed", String(button === chosen));
  return update();
}

async function keepReference() {
  const copy = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  [copy.canvas.width, copy.canvas.height] = [frame.canvas.width, frame.canvas.height];
  copy.drawImage(frame.canvas, 0, 0);
  if (reference) reference.canvas.width = 0;  // frees its memory now: Safari limits that of all canvases
  reference = copy;
  return update();
}

const openSample = (number) => busy(() => decode(fetch(DATA.samples[number]).then((got) => got.blob()), byId("samples").children[number]));

const CAMERA = {
  NotAllowedError: "The camera was refused. Allow it in the browser's settings for this page, or choose a photo.",
  NotFoundError: "This device has no camera. Choose a photo instead.",
  NotReadableError: "The camera is in use by another program.",
};

function lose(camera) {  // ended by the device or the user, not by stopTracks
  if (stream !== camera) return;
  stopCamera();
  say("The camera has stopped: it was unplugged, or its permission was withdrawn. Start it again, or choose a photo.");
}

async function startCamera() {
  const video = byId("video"), own = asked += 1;
  stopCamera();
  say("");
  if (!navigator.mediaDevices?.getUserMedia) return say("The browser gives a live camera only to https and localhost addresses and files. Choose or take a photo instead.");
  let camera = null;
  try {
    const side = Math.ceil(Math.max(480, ...enabled().map(({spec: {input}}) => input.size / (input.center_crop ?? 1))));
    const wanted = {facingMode: facing, width: {ideal: Math.ceil(side * 4 / 3)}, height: {ideal: side}};
    camera = await navigator.mediaDevices.getUserMedia({video: wanted});
    if (own !== asked || measuring) return stopTracks(camera);
    stream = video.srcObject = camera;
    for (const track of camera.getTracks()) track.onended = () => lose(camera);
    await video.play();
  } catch (error) {
    if (own !== asked || stream !== camera) return;
    stopCamera();
    return say(CAMERA[error.name] ?? `The camera cannot be used: ${error.message}`);
  }
  if (stream !== camera) return;
  byId("camera").setAttribute("aria-pressed", "true");
  byId("flip").hidden = false;
  for (const button of byId("samples").children) button.setAttribute("aria-pressed", "false");
  announce("off");
  return answerFrames(video, camera);
}

// resolves when the camera has a new frame, or stops; where a browser does not tell, when it draws the screen
const nextFrame = (video) => new Promise((resolve) => {
  video.onemptied = resolve;
  if (video.requestVideoFrameCallback) video.requestVideoFrameCallback(resolve);
  else requestAnimationFrame(resolve);
});

// answers each frame once, until the camera stops; of the frames that come during an answer, only the last
async function answerFrames(video, camera) {
  answered = [];
  let next = nextFrame(video);
  for (;;) {
    await next;
    await running;
    if (stream !== camera) return;
    next = nextFrame(video);
    if (!video.videoWidth) continue;
    setFrame(video, video.videoWidth, video.videoHeight);
    await update();
    answered = [...answered, performance.now()].slice(-RECENT);
  }
}

function stopTracks(camera) {
  for (const track of camera.getTracks()) track.stop();
}

function stopCamera() {
  if (stream) stopTracks(stream);
  stream = null;
  byId("video").srcObject = null;
  announce("polite");
  byId("camera").setAttribute("aria-pressed", "false");
  byId("flip").hidden = true;
}

// ---- measuring, by the protocol of tasks.bench

function setMeasuring(on) {
  measuring = on;
  byId("input").inert = on;
  for (const id of ["measure", "threads", "provider"]) byId(id).disabled = on;
  if (again && !on) update();  // what was asked for meanwhile
}

async function measure() {
  stopCamera();
  setMeasuring(true);
  await running;
  const rows = [], seconds = Number(query.get("seconds")) || MEASURED.seconds;
  for (const model of enabled()) {
    byId("progress").textContent = `measuring ${model.spec.name} …`;
    await new Promise((resolve) => setTimeout(resolve, 30));
    try {
      await load(model);
      const single = await times(model, 1, seconds), full = await times(model, MEASURED.batch, seconds);
      rows.push({name: model.spec.name, runtime: DATA.runtimes[model.spec.format].name, threads: model.session.threads, provider: model.provider, median_ms: round(quantile(single, 0.5), 3),
        p95_ms: round(quantile(single, 0.95), 3), images_per_second: round(MEASURED.batch * 1000 / quantile(full, 0.5), 2),
        file_mb: model.spec.bytes / 1e6, quantize: model.spec.quantize, sha256: model.spec.sha256});
    } catch (error) {
      rows.push({name: model.spec.name, error: String(error.message ?? error)});
    }
  }
  const device = {browser: navigator.userAgent, cores, date: new Date().toISOString().slice(0, 10)};
  byId("json").value = JSON.stringify({...device, rows}, null, 1);
  byId("progress").textContent = rows.map((r) => `${r.name}: ${r.error ?? ms(r.median_ms)}`).join("; ");
  byId("results").hidden = false;
  setMeasuring(false);
}

async function copy() {
  byId("json").select();
  try {
    await navigator.clipboard.writeText(byId("json").value);
    byId("copy").textContent = "Copied";
  } catch {
    byId("copy").textContent = "Selected: copy it";
  }
}

// ---- start

function wire() {
  byId("models").append(...models.map(panel));
  if (models.length > 1) byId("chips").append(...models.map(chip));
  DATA.samples.forEach((url, i) => byId("samples").append(make("button", {type: "button", "aria-pressed": "false", "aria-label": `Sample ${i + 1}`,
    onclick: () => openSample(i)}, make("img", {src: url, alt: ""}))));
  for (const id of ["file", "capture"]) {
    byId(id).onchange = () => {
      if (byId(id).files.length) openImage(byId(id).files[0]);
      byId(id).value = "";
    };
  }
  byId("camera").onclick = () => (stream ? stopCamera() : startCamera());
  byId("flip").onclick = () => {
    facing = facing === "user" ? "environment" : "user";
    startCamera();
  };
  addEventListener("paste", (event) => {
    const file = [...event.clipboardData.files][0];
    if (file) openImage(file);
  });
  addEventListener("dragover", (event) => { event.preventDefault(); document.body.classList.add("dropping"); });
  addEventListener("dragleave", (event) => { if (!event.relatedTarget) document.body.classList.remove("dropping"); });
  addEventListener("drop", (event) => {
    event.preventDefault();
    document.body.classList.remove("dropping");
    if (event.dataTransfer.files.length) openImage(event.dataTransfer.files[0]);
  });
  let width = innerWidth;
  addEventListener("resize", () => { if (innerWidth !== width) { width = innerWidth; update(); } });
  byId("measure").onclick = measure;
  byId("copy").onclick = copy;
  byId("threads-label").hidden = !crossOriginIsolated;
  const choices = [cores];
  for (let count = 1; count < cores; count *= 2) choices.splice(-1, 0, count);
  byId("threads").append(...choices.map((count) => make("option", {value: count}, String(count))));
  byId("threads").value = threads;
  byId("threads").onchange = () => { location.search = `?threads=${byId("threads").value}`; };
  byId("provider-label").hidden = !(DATA.webgpu && navigator.gpu);
  byId("provider").onchange = update;
  byId("isolation").hidden = crossOriginIsolated;
  byId("isolation").textContent = "One thread only. More threads need a server that sends the headers for cross-origin isolation, such as python -m tasks.page serve=true.";
}

async function start() {
  wire();
  try {
    await checkBrowser();
    await Promise.all(enabled().map(({spec}) => runtime(spec.format)));
    if (DATA.map) world = await createImageBitmap(await (await fetch(DATA.map)).blob());
  } catch (error) {
    byId("measure").disabled = true;
    broken = `The models cannot be run: ${error.message ?? error}.`;
    return say(broken);
  }
  able = true;
  if (!DATA.samples.length || asked) return update();  // keeps an image requested while the runtimes loaded
  await openSample(0);
  if (asked === 1 && enabled().some((m) => kind(m.spec) === "embedding") && DATA.samples.length > 1) {
    await keepReference();
    if (asked === 1) await openSample(1);
  }
}

start();
