// How each kind of answer is shown: a function of the model, its rows and its outputs returns the nodes of its panel.
// Everything that comes from an export is untrusted: it is put into the page as text, never as HTML.

const BARS = 12;  // rows of a bar chart
const frame = document.createElement("canvas").getContext("2d", {willReadFrequently: true});  // the current image
let reference = null;  // the context of the image that embeddings are compared with
let world = null;  // the map

function make(kind, properties = {}, ...children) {
  const node = document.createElement(kind);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) node[name] = value;
    else node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

const fixed = (value, digits) => (Number.isFinite(value) ? value.toFixed(digits) : "–");
const ms = (value) => (Number.isFinite(value) ? `${value.toFixed(value < 10 ? 2 : value < 100 ? 1 : 0)} ms` : "–");

function fit(canvas, aspect, limit = 0.7) {  // sizes a canvas to its column, in device pixels; returns the ratio
  const column = canvas.parentElement, room = column.clientWidth - 2 * parseFloat(getComputedStyle(column).paddingLeft);
  const width = Math.max(1, Math.min(room, limit * Math.max(innerHeight, 500) * aspect)), ratio = devicePixelRatio || 1;
  canvas.style.width = `${width}px`;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.max(1, Math.round(width * ratio / aspect));
  return ratio;
}

function drawImage(canvas, source = frame.canvas) {
  const ratio = fit(canvas, source.width / source.height), pen = canvas.getContext("2d");
  pen.drawImage(source, 0, 0, canvas.width, canvas.height);
  return [pen, ratio];
}

function drawView() {  // the image itself, unless every model draws on it
  const shown = enabled().filter((m) => kind(m.spec) !== "detections");
  byId("view").hidden = !hasImage || (!shown.length && enabled().length > 0);
  if (byId("view").hidden) return;
  const [pen, ratio] = drawImage(byId("view"));
  const cropped = shown.find((m) => m.spec.input.center_crop !== null);
  if (!cropped) return;
  const scale = pen.canvas.width / frame.canvas.width;
  const [left, top, right, bottom] = region(cropped.spec.input, frame.canvas.width, frame.canvas.height).map((v) => v * scale);
  pen.fillStyle = "rgba(0, 0, 0, .45)";
  pen.beginPath();
  pen.rect(0, 0, pen.canvas.width, pen.canvas.height);
  pen.rect(left, top, right - left, bottom - top);
  pen.fill("evenodd");
  pen.lineWidth = ratio;
  pen.strokeStyle = "#fff";
  pen.strokeRect(left, top, right - left, bottom - top);
}

const bar = (share, ...marks) => {
  const fill = make("i");
  fill.style.width = `${100 * Math.max(0, Math.min(1, share))}%`;
  const track = make("div", {class: "track"}, fill);
  for (const mark of marks.filter(Number.isFinite)) {
    const line = make("b");
    line.style.left = `${100 * Math.max(0, Math.min(1, mark))}%`;
    track.append(line);
  }
  return track;
};

function bars(rows) {
  const box = make("div", {class: "bars"});
  for (const {label, score} of rows.slice(0, BARS)) {
    box.append(make("span", {title: label}, label), bar(score), make("span", {class: "value"}, `${fixed(100 * score, 1)} %`));
  }
  return rows.length > BARS ? [box, make("p", {class: "muted"}, `and ${rows.length - BARS} more below`)] : [box];
}

function boxes(model, rows) {
  const [pen, ratio] = drawImage(model.canvas), {width, height} = frame.canvas, scale = model.canvas.width / width;
  const [left, top, right, bottom] = region(model.spec.input, width, height), size = Math.round(13 * ratio);
  pen.font = `600 ${size}px system-ui, sans-serif`;
  pen.textBaseline = "top";
  for (const {label, score, box} of [...rows].reverse()) {
    const hue = (model.spec.labels.indexOf(label) * 137.5 + 210) % 360, colour = `hsl(${hue} 75% 40%)`;
    const [x0, x1] = [box[0], box[2]].map((v) => (left + v * (right - left)) * scale);
    const [y0, y1] = [box[1], box[3]].map((v) => (top + v * (bottom - top)) * scale);
    pen.lineWidth = 2.5 * ratio;
    pen.strokeStyle = colour;
    pen.strokeRect(x0, y0, x1 - x0, y1 - y0);
    const words = `${label} ${Math.round(100 * score)}`, wide = pen.measureText(words).width + 8 * ratio;
    const x = Math.max(0, Math.min(x0 - ratio, model.canvas.width - wide)), y = Math.max(0, y0 - size - 6 * ratio);
    pen.fillStyle = `hsl(${hue} 75% 26%)`;  // on which white has a contrast of at least 4.5 in every hue
    pen.fillRect(x, y, wide, size + 6 * ratio);
    pen.fillStyle = "#fff";
    pen.fillText(words, x + 4 * ratio, y + 3 * ratio);
  }
  const counts = new Map();
  for (const {label} of rows) counts.set(label, (counts.get(label) ?? 0) + 1);
  const words = [...counts].map(([label, count]) => `${count} × ${label}`).join(", ");
  return [make("p", {}, words || `Nothing scores above ${model.spec.postprocess.draw_threshold}.`)];
}

function map(model, [{latitude, longitude, cells}]) {
  const ratio = fit(model.canvas, 2), pen = model.canvas.getContext("2d"), {width, height} = model.canvas, {spec} = model;
  const X = (degree) => (degree + 180) / 360 * width, Y = (degree) => (90 - degree) / 180 * height;
  if (world) pen.drawImage(world, 0, 0, width, height);
  pen.fillStyle = "rgba(255, 255, 255, .5)";
  for (const [lat, lon] of spec.cells.positions) pen.fillRect(X(lon) - ratio / 2, Y(lat) - ratio / 2, ratio, ratio);
  for (const {token, probability} of cells) {
    const outline = spec.cells.outlines[spec.cells.tokens.indexOf(token)];
    if (!outline) continue;
    const wraps = Math.max(...outline.map((p) => p[1])) - Math.min(...outline.map((p) => p[1])) > 180;
    for (const shift of wraps ? [0, -360] : [0]) {
      pen.beginPath();
      for (const [lat, lon] of outline) pen.lineTo(X((wraps && lon < 0 ? lon + 360 : lon) + shift), Y(lat));
      pen.closePath();
      pen.fillStyle = `rgba(255, 215, 60, ${0.25 + 0.6 * probability})`;
      pen.strokeStyle = "rgba(255, 215, 60, .9)";
      pen.lineWidth = ratio;
      pen.fill();
      pen.stroke();
    }
  }
  pen.beginPath();
  pen.arc(X(longitude), Y(latitude), 5 * ratio, 0, 2 * Math.PI);
  pen.fillStyle = "#ff3c3c";
  pen.strokeStyle = "#fff";
  pen.lineWidth = 1.5 * ratio;
  pen.fill();
  pen.stroke();
  const place = `${fixed(Math.abs(latitude), 2)}° ${latitude < 0 ? "S" : "N"}, ${fixed(Math.abs(longitude), 2)}° ${longitude < 0 ? "W" : "E"}`;
  return [make("p", {class: "big"}, place), ...bars(cells.map((c) => ({label: `cell ${c.token}`, score: c.probability})))];
}

// Each has one canvas per model: new ones for each frame of a camera would fill the memory that Safari gives to canvases.
function thumbnail(model, source, words) {
  model.thumbnails ??= {};
  const canvas = model.thumbnails[words] ??= make("canvas", {role: "img", "aria-label": words}), side = Math.min(source.width, source.height);
  const room = canvas.width = canvas.height = Math.round(96 * (devicePixelRatio || 1));
  canvas.getContext("2d").drawImage(source, (source.width - side) / 2, (source.height - side) / 2, side, side, 0, 0, room, room);
  return make("figure", {}, canvas, make("figcaption", {}, words));
}

async function similarity(model, [{embedding}]) {
  const keep = make("button", {type: "button", onclick: keepReference}, "Compare others with this image");
  if (!reference) return [make("p", {}, "Keep this image, then choose another to compare it with."), keep];
  if (model.reference?.image !== reference) model.reference = {image: reference, row: (await answer(model, reference)).rows[0]};
  const other = model.reference.row.embedding, cosine = embedding.reduce((sum, v, i) => sum + v * other[i], 0);
  const parts = [
    make("div", {class: "pair"}, thumbnail(model, reference.canvas, "compared with"), thumbnail(model, frame.canvas, "this image"),
      make("div", {}, make("span", {class: "muted"}, "similarity"), make("div", {class: "big"}, fixed(cosine, 3)))),
    bar(cosine, model.spec.threshold),
  ];
  if (Number.isFinite(model.spec.threshold)) {
    const words = `${cosine >= model.spec.threshold ? "Above" : "Below"} the mark at ${fixed(model.spec.threshold, 3)}, which 1 of 100 pairs of different people exceeded in validation.`;
    parts.push(make("p", {class: "muted"}, `${words} A score, not a verdict.`));
  }
  return [...parts, make("p", {}, keep)];
}

function table(model, rows, outputs) {
  const body = make("table", {}, make("tr", {}, ...["output", "shape", "values"].map((words) => make("th", {}, words))));
  for (const {name, meaning} of model.spec.outputs) {
    const values = rows[0][name] ?? [], more = values.length > 8 ? ", …" : "";
    const title = make("td", {}, name, make("div", {class: "muted"}, meaning));
    body.append(make("tr", {}, title, make("td", {}, outputs[name]?.dims.join(" × ") ?? "–"), make("td", {}, values.slice(0, 8).join(", ") + more)));
  }
  return [body];
}

const SHOWN = {classes: (_, rows) => bars(rows), attributes: (_, rows) => bars(rows), detections: boxes, position: map, embedding: similarity, values: table};
