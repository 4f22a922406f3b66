// The page of a server: asks the networks that it has by the Open Inference Protocol, with binary tensors.

const by = (id) => document.getElementById(id);
const ink = by("ink"), pen = by("pen"), seen = by("seen");
const INK_SIDE = 280, PEN_WIDTH = 22, STEP = 10;
// Of MNIST: side of an image, and of the box in it that the digit was scaled to.
const SIDE = 28, BOX = 20;
const AT_ONCE = 64;
const OUTPUTS = ["scores", "classes", "gaps", "margins"];

let token = "";
let network = null; // {name, depth, width, height, channels}
const paper = ink.getContext("2d", { willReadFrequently: true });

// ---------------------------------------------------------------- the protocol

class Refused extends Error {}

async function ask(path, options = {}) {
  const headers = { ...options.headers, ...(token ? { authorization: `Bearer ${token}` } : {}) };
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch {
    throw new Refused("The server does not answer.");
  }
  if (response.ok) return response;
  if (response.status === 401) by("access").hidden = false;
  let said = "";
  try {
    said = (await response.json()).error;
  } catch { /* an answer of something between */ }
  throw new Refused(said || `The server answers with status ${response.status}.`);
}

const ARRAYS = { FP32: Float32Array, FP64: Float64Array, INT64: BigInt64Array };

// rows: Uint8Array of whole samples -> {NAME: {shape, values}, microseconds}
async function infer(model, rows) {
  const shape = [rows.length / model.depth, model.depth];
  const input = { name: "input", shape, datatype: "UINT8", parameters: { binary_data_size: rows.length } };
  const outputs = OUTPUTS.map((name) => ({ name, parameters: { binary_data: true } }));
  const head = new TextEncoder().encode(JSON.stringify({ inputs: [input], outputs }));
  const body = new Uint8Array(head.length + rows.length);
  body.set(head);
  body.set(rows, head.length);
  const headers = { "content-type": "application/octet-stream", "inference-header-content-length": String(head.length) };
  const path = `/v2/models/${encodeURIComponent(model.name)}/infer`;
  const response = await ask(path, { method: "POST", body, headers });
  const bytes = await response.arrayBuffer();
  let at = Number(response.headers.get("inference-header-content-length"));
  const document = JSON.parse(new TextDecoder().decode(bytes.slice(0, at)));
  const found = { microseconds: document.parameters.engine_microseconds };
  for (const output of document.outputs) {
    const size = output.parameters.binary_data_size;
    found[output.name] = { shape: output.shape, values: new ARRAYS[output.datatype](bytes.slice(at, at + size)) };
    at += size;
  }
  return found;
}

function geometry(about) {
  const [input] = about.inputs;
  const shape = input.shape.slice(1);
  const depth = shape.reduce((a, b) => a * b, 1);
  const side = Math.round(Math.sqrt(depth));
  if (input.datatype !== "UINT8" || about.outputs[0].shape.length !== 2) return { depth };
  if (shape.length === 1 && side * side === depth) return { depth, height: side, width: side, channels: 1 };
  const [height, width, channels = 1] = shape;
  if (shape.length >= 2 && shape.length <= 3 && (channels === 1 || channels === 3)) return { depth, height, width, channels };
  return { depth };
}

async function choose(name) {
  const about = await (await ask(`/v2/models/${encodeURIComponent(name)}`)).json();
  network = { name, ...geometry(about) };
  const { width, height, channels } = network;
  by("about").textContent = width
    ? `${width} x ${height} pixels${channels === 3 ? " in colour" : ""}, version ${about.versions[0]}`
    : `takes ${network.depth} values, which are no image that this page can make; ask it by the protocol`;
  for (const id of ["drawing", "files"]) by(id).hidden = !width;
  if (!width) return;
  seen.width = width;
  seen.height = height;
  await answerDrawing();
}

function complain(error) {
  const text = error instanceof Refused ? error.message : `This page has a defect: ${error}`;
  by("problem").textContent = text;
  by("problem").hidden = false;
}

let latest = 0;

async function guarded(work) {
  const turn = ++latest;
  try {
    await work();
    if (turn === latest) by("problem").hidden = true; // it may be of what began later
  } catch (error) {
    complain(error);
  }
}

// ---------------------------------------------------------------- pixels

function canvasOf(width, height) {
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.imageSmoothingQuality = "high";
  return [canvas, context];
}

// What a canvas shows, as the network takes it: height x width x channels.
function pixelsOf(canvas) {
  const { width, height } = canvas;
  const { data } = canvas.getContext("2d").getImageData(0, 0, width, height);
  const pixels = new Uint8Array(width * height * network.channels);
  for (let i = 0; i < width * height; i++) {
    const [red, green, blue] = data.subarray(4 * i, 4 * i + 3);
    if (network.channels === 3) pixels.set([red, green, blue], 3 * i);
    else pixels[i] = Math.round(0.299 * red + 0.587 * green + 0.114 * blue);
  }
  return pixels;
}

// Smaller by halves, so that every pixel counts, then to the size; from a part of `source` to a part of `context`.
function shrink(source, [x, y, w, h], context, [left, top, width, height]) {
  while (w > 2 * width && h > 2 * height) {
    const [half, halved] = canvasOf(Math.ceil(w / 2), Math.ceil(h / 2));
    halved.drawImage(source, x, y, w, h, 0, 0, half.width, half.height);
    [source, x, y, w, h] = [half, 0, 0, half.width, half.height];
  }
  context.drawImage(source, x, y, w, h, left, top, width, height);
}

// The drawing in the network's size; null where nothing is drawn.
function drawn() {
  const { data } = paper.getImageData(0, 0, INK_SIDE, INK_SIDE);
  let [left, top, right, bottom, mass, sumX, sumY] = [INK_SIDE, INK_SIDE, -1, -1, 0, 0, 0];
  for (let y = 0; y < INK_SIDE; y++) {
    for (let x = 0; x < INK_SIDE; x++) {
      const value = data[4 * (y * INK_SIDE + x)];
      if (value < 64) continue;
      [left, top, right, bottom] = [Math.min(left, x), Math.min(top, y), Math.max(right, x), Math.max(bottom, y)];
      mass += value;
      sumX += value * (x + 0.5);
      sumY += value * (y + 0.5);
    }
  }
  if (right < 0) return null;
  const { width, height } = network;
  const [canvas, context] = canvasOf(width, height);
  context.fillRect(0, 0, width, height);
  if (!by("fit").checked) {
    shrink(ink, [0, 0, INK_SIDE, INK_SIDE], context, [0, 0, width, height]);
    return canvas;
  }
  const [wide, high] = [right - left + 1, bottom - top + 1];
  const scale = ((BOX / SIDE) * Math.min(width, height)) / Math.max(wide, high);
  const at = [width / 2 - (sumX / mass - left) * scale, height / 2 - (sumY / mass - top) * scale];
  shrink(ink, [left, top, wide, high], context, [...at.map(Math.round), wide * scale, high * scale]);
  return canvas;
}

// ---------------------------------------------------------------- drawing

let down = false, place = { x: INK_SIDE / 2, y: INK_SIDE / 4 }, byKeys = false;

function clear() {
  paper.fillStyle = "#000";
  paper.fillRect(0, 0, INK_SIDE, INK_SIDE);
  answerSoon();
}

function lineTo(next) {
  Object.assign(paper, { strokeStyle: "#fff", lineWidth: PEN_WIDTH, lineCap: "round", lineJoin: "round" });
  paper.beginPath();
  paper.moveTo(place.x, place.y);
  paper.lineTo(next.x, next.y);
  paper.stroke();
  place = next;
  answerSoon();
}

function showPen() {
  const context = pen.getContext("2d");
  context.clearRect(0, 0, INK_SIDE, INK_SIDE);
  if (!byKeys || document.activeElement !== ink) return;
  Object.assign(context, { strokeStyle: down ? "#ffb000" : "#8ec4ff", lineWidth: 3 });
  context.beginPath();
  context.arc(place.x, place.y, PEN_WIDTH / 2 + 2, 0, 2 * Math.PI);
  context.stroke();
}

function pointOf(event) {
  const box = ink.getBoundingClientRect();
  return { x: ((event.clientX - box.left) * INK_SIDE) / box.width, y: ((event.clientY - box.top) * INK_SIDE) / box.height };
}

ink.addEventListener("pointerdown", (event) => {
  ink.setPointerCapture(event.pointerId);
  byKeys = false;
  down = true;
  place = pointOf(event);
  lineTo(place);
  showPen();
});
ink.addEventListener("pointermove", (event) => {
  if (down && !byKeys) for (const one of event.getCoalescedEvents?.() ?? [event]) lineTo(pointOf(one));
});
for (const end of ["pointerup", "pointercancel"]) {
  ink.addEventListener(end, () => {
    if (!byKeys) down = false;
  });
}

const MOVES = { ArrowLeft: [-STEP, 0], ArrowRight: [STEP, 0], ArrowUp: [0, -STEP], ArrowDown: [0, STEP] };
ink.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  const move = MOVES[event.key];
  if (!move && ![" ", "Delete", "Backspace"].includes(event.key)) return;
  event.preventDefault();
  byKeys = true;
  if (event.key === " ") {
    down = !down;
    by("spoken").textContent = down ? "Pen down." : "Pen up.";
    if (down) lineTo(place);
  } else if (!move) {
    clear();
  } else {
    const within = (value) => Math.min(INK_SIDE, Math.max(0, value));
    const next = { x: within(place.x + move[0]), y: within(place.y + move[1]) };
    if (down) lineTo(next);
    else place = next;
  }
  showPen();
});
ink.addEventListener("focus", showPen);
ink.addEventListener("blur", () => {
  if (byKeys) down = false;
  showPen();
});
by("clear").addEventListener("click", clear);
by("fit").addEventListener("change", () => answerSoon());

// ---------------------------------------------------------------- answers

let asking = false, again = false;

// One request at a time; what is drawn meanwhile is asked about afterwards.
async function answerSoon() {
  if (asking) {
    again = true;
    return;
  }
  asking = true;
  by("answer").setAttribute("aria-busy", "true");
  do {
    again = false;
    await new Promise(requestAnimationFrame);
    await guarded(answerDrawing);
  } while (again);
  asking = false;
  by("answer").setAttribute("aria-busy", "false");
}

async function answerDrawing() {
  if (!network?.width) return;
  const canvas = drawn();
  const context = seen.getContext("2d");
  context.clearRect(0, 0, seen.width, seen.height);
  if (!canvas) {
    by("spoken").textContent = "Nothing drawn yet.";
    by("scores").tBodies[0].replaceChildren();
    by("facts").replaceChildren();
    return;
  }
  context.drawImage(canvas, 0, 0);
  show(await infer(network, pixelsOf(canvas)));
}

function element(tag, text, kind = "") {
  const made = document.createElement(tag);
  made.textContent = text;
  made.className = kind;
  return made;
}

const number = (value) => (Number.isFinite(value) ? Number(value.toPrecision(4)).toString() : "none");

function show(found) {
  const scores = [...found.scores.values], best = Number(found.classes.values[0]);
  const low = Math.min(...scores), spread = Math.max(...scores) - low || 1;
  by("scores").tBodies[0].replaceChildren(
    ...scores.map((score, index) => {
      const row = element("tr", "", index === best ? "best" : "");
      const head = element("th", String(index));
      head.scope = "row";
      const bar = element("span", "", "bar"), cell = element("td", "");
      bar.style.width = `${(100 * (score - low)) / spread}%`;
      cell.append(bar);
      row.append(head, element("td", number(score)), cell);
      return row;
    }),
  );
  by("spoken").textContent = `Class ${best}, gap ${number(found.gaps.values[0])}`;
  const facts = [["time of the engine", `${number(found.microseconds)} us`]];
  found.margins.values.forEach((margin, layer) => facts.push([`margin, layer ${layer + 1}`, number(margin)]));
  by("facts").replaceChildren(...facts.flatMap(([name, value]) => [element("dt", name), element("dd", value)]));
}

// ---------------------------------------------------------------- images

async function canvasOfFile(file) {
  let image;
  try {
    image = await createImageBitmap(file);
  } catch {
    throw new Refused(`${file.name} is no image that this browser reads.`);
  }
  const [canvas, context] = canvasOf(network.width, network.height);
  context.fillStyle = "#fff";
  context.fillRect(0, 0, canvas.width, canvas.height);
  shrink(image, [0, 0, image.width, image.height], context, [0, 0, canvas.width, canvas.height]);
  image.close();
  if (by("invert").checked) {
    context.globalCompositeOperation = "difference";
    context.fillRect(0, 0, canvas.width, canvas.height);
  }
  return canvas;
}

let chosen = [];

async function answerFiles(files) {
  chosen = files;
  const body = by("images").tBodies[0];
  body.replaceChildren();
  by("images").hidden = !files.length;
  const problems = [];
  let done = 0, microseconds = 0;
  for (let start = 0; start < files.length; start += AT_ONCE) {
    const canvases = [], named = [];
    for (const file of files.slice(start, start + AT_ONCE)) {
      try {
        canvases.push(await canvasOfFile(file));
        named.push(file.name);
      } catch (error) {
        problems.push(error.message);
      }
    }
    if (chosen !== files) return; // others were chosen meanwhile
    if (!canvases.length) continue;
    const rows = new Uint8Array(canvases.length * network.depth);
    canvases.forEach((canvas, index) => rows.set(pixelsOf(canvas), index * network.depth));
    const found = await infer(network, rows);
    if (chosen !== files) return;
    const layers = found.margins.shape[1];
    canvases.forEach((canvas, index) => {
      const row = element("tr", ""), picture = element("td", "");
      canvas.setAttribute("role", "img");
      canvas.setAttribute("aria-label", named[index]);
      picture.append(canvas);
      const margins = [...found.margins.values.slice(index * layers, (index + 1) * layers)];
      const cells = [named[index], String(found.classes.values[index]), number(found.gaps.values[index]), number(Math.min(...margins))];
      row.append(picture, ...cells.map((cell) => element("td", cell)));
      body.append(row);
    });
    done += canvases.length;
    microseconds += found.microseconds;
    by("counted").textContent = `${done} of ${files.length} images, ${number(microseconds)} us of the engine`;
  }
  if (problems.length) throw new Refused(problems.join(" "));
}

by("file").addEventListener("change", (event) => guarded(() => answerFiles([...event.target.files])));
by("invert").addEventListener("change", () => guarded(() => answerFiles([...chosen])));
const drop = by("drop");
drop.addEventListener("dragover", (event) => {
  event.preventDefault();
  drop.classList.add("over");
});
drop.addEventListener("dragleave", () => drop.classList.remove("over"));
drop.addEventListener("drop", (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  guarded(() => answerFiles([...event.dataTransfer.files]));
});

// ---------------------------------------------------------------- start

async function start() {
  const { models } = await (await ask("/v2/models")).json();
  by("access").hidden = true;
  by("model").replaceChildren(...models.map((name) => new Option(name, name)));
  await choose(models[0]);
}

by("model").addEventListener("change", (event) => guarded(async () => {
  await choose(event.target.value);
  if (chosen.length && network.width) await answerFiles([...chosen]);
}));
by("access").addEventListener("submit", (event) => {
  event.preventDefault();
  token = by("token").value.trim();
  guarded(start);
});
clear();
guarded(start);
