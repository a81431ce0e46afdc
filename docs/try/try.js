"use strict";
// The page: two squares to draw in, the network behind them, and what it says.

const all = (selector) => [...document.querySelectorAll(selector)];
const STEP = 0.6; // a point nearer than this to the last one is left out
const DEGREE = Math.PI / 180;

// Each square holds strokes, or a handwritten digit {pixels, x, y, scale, angle}, or nothing.
const squares = all(".pad").map((pad, number) => ({
  pad, number, view: all(".view")[number], maps: all(".maps")[number], strokes: [], digit: null,
}));
let session = null;
let digits = null; // MNIST's own, the same number of each class, one class after the other
let shown = null; // what the network read last, and what it gave: {images, logits, theta, seen}

const isEmpty = (square) => !square.digit && !square.strokes.length;

// What the network reads of a square.
function pixelsOf(square) {
  if (isEmpty(square)) return new Float32Array(CANVAS * CANVAS);
  return onCanvas(within(square.digit ?? digitOf(square.strokes)));
}

function drawSquare(square) {
  if (square.digit) drawDigit(square.pad, square.digit);
  else if (square.strokes.length) drawStrokes(square.pad, square.strokes);
  else drawInvitation(square.pad, "draw a digit");
}

// --- the network

async function unpacked(base64) {
  const packed = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

async function load() {
  const loader = new Blob([await unpacked(RUNTIME.loader)], { type: "text/javascript" });
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmPaths = { mjs: URL.createObjectURL(loader) };
  ort.env.wasm.wasmBinary = await unpacked(RUNTIME.wasm);
  digits = await unpacked(NETWORK.digits);
  session = await ort.InferenceSession.create(await unpacked(NETWORK.model), { executionProviders: ["wasm"] });
}

let scheduled = false;
let running = false;

// Something was drawn: show it with the next picture of the screen, and ask the network.
function changed() {
  if (scheduled) return;
  scheduled = true;
  requestAnimationFrame(() => {
    scheduled = false;
    squares.forEach(drawSquare);
    ask();
  });
}

async function ask() {
  if (!session) return;
  if (running) return changed(); // again, when it is free
  running = true;
  try {
    const images = new Float32Array(2 * CANVAS * CANVAS);
    squares.forEach((square, c) => images.set(pixelsOf(square), c * CANVAS * CANVAS));
    const found = await session.run({ images: new ort.Tensor("float32", images, [1, 2, CANVAS, CANVAS]) });
    const [logits, theta, seen] = ["logits", "theta", "seen"].map((name) => found[name].data);
    shown = { images, logits, theta, seen };
    show();
  } catch (error) {
    fail(error);
  } finally {
    running = false;
  }
}

function show() {
  const part = (values, i, length) => values.subarray(i * length, (i + 1) * length);
  const area = CANVAS * CANVAS;
  const k = shown.theta.length / 6;
  const thetas = Array.from({ length: k }, (_, i) => part(shown.theta, i, 6));
  for (const square of squares) {
    drawFrames(square.view, part(shown.images, square.number, area), thetas);
    while (square.maps.children.length < k) square.maps.append(newMap(square));
    [...square.maps.children].forEach((canvas, i) =>
      drawSeen(canvas, part(shown.seen, 2 * i + square.number, area)));
  }
  showSums();
}

function newMap(square) {
  const canvas = Object.assign(document.createElement("canvas"), { width: 252, height: 252 });
  const i = square.maps.children.length;
  canvas.style.borderColor = COLOURS[i % COLOURS.length];
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", `Digit ${square.number + 1} as transformer ${i + 1} sees it`);
  return canvas;
}

function softmax(logits) {
  const most = Math.max(...logits);
  const powers = Array.from(logits, (value) => Math.exp(value - most));
  const total = powers.reduce((a, b) => a + b);
  return powers.map((value) => value / total);
}

const percent = (chance) => `${(100 * chance).toFixed(1)} %`;

function showSums() {
  const chances = softmax(shown.logits);
  const best = chances.indexOf(Math.max(...chances));
  const waiting = squares.some(isEmpty);
  const list = document.querySelector("#sums");
  while (list.children.length < chances.length) {
    list.append(Object.assign(document.createElement("li"), { innerHTML: "<i><b></b></i><span></span>" }));
  }
  list.classList.toggle("waiting", waiting);
  chances.forEach((chance, i) => {
    const row = list.children[i];
    row.classList.toggle("best", i === best && !waiting);
    row.querySelector("b").style.width = `${100 * chance}%`;
    row.querySelector("span").textContent = percent(chance);
  });
  if (waiting) say("= ?", "draw both digits");
  else say(`= ${best}`, `probability ${percent(chances[best])}`);
}

function say(sum, sure) {
  document.querySelector("#sum").textContent = sum;
  document.querySelector("#sure").textContent = sure;
}

function fail(error) {
  say("✗", `The network cannot run in this browser: ${error.message ?? error}`);
  document.querySelector("#result").classList.add("failed");
}

// --- what a person does

function handwritten(label, placed) {
  const area = DIGIT * DIGIT;
  const each = digits.length / area / 10;
  const at = (label * each + Math.floor(Math.random() * each)) * area;
  const pixels = Float32Array.from(digits.subarray(at, at + area), (value) => value / 255);
  return { pixels, x: CANVAS / 2, y: CANVAS / 2, scale: 1, angle: 0, ...placed };
}

// Digits at random, distorted as those that the network was trained on.
function example() {
  const uniform = (low, high) => low + (high - low) * Math.random();
  for (const square of squares) {
    const [angle, scale] = [uniform(-45, 45) * DEGREE, uniform(...SCALES)];
    const [x, y] = [uniform(0, CANVAS), uniform(0, CANVAS)];
    put(square, within(handwritten(Math.floor(uniform(0, 10)), { x, y, scale, angle })));
  }
}

function put(square, digit) {
  Object.assign(square, { digit, strokes: [] });
  changed();
}

function listenToPointer(square) {
  const { pad } = square;
  let pointer = null;
  const at = (event) => {
    const box = pad.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width * CANVAS, (event.clientY - box.top) / box.height * CANVAS];
  };
  const draw = (event) => {
    const stroke = square.strokes.at(-1);
    const [point, last] = [at(event), stroke.at(-1)];
    if (Math.hypot(point[0] - last[0], point[1] - last[1]) >= STEP) stroke.push(point);
  };
  pad.addEventListener("pointerdown", (event) => {
    if (event.button !== 0 || pointer !== null) return;
    pointer = event.pointerId;
    pad.setPointerCapture(pointer);
    square.digit = null;
    square.strokes.push([at(event)]);
    changed();
  });
  pad.addEventListener("pointermove", (event) => {
    if (event.pointerId !== pointer) return;
    const between = event.getCoalescedEvents?.() ?? [];
    [...between, event].forEach(draw);
    changed();
  });
  for (const end of ["pointerup", "pointercancel"]) {
    pad.addEventListener(end, (event) => {
      if (event.pointerId === pointer) pointer = null;
    });
  }
}

// Moves, turns and scales what a square holds, about its own middle.
function transform(square, dx, dy, angle, factor) {
  if (square.digit) {
    const { x, y, scale, angle: before } = square.digit;
    const moved = { x: x + dx, y: y + dy, angle: before + angle, scale: clamp(scale * factor, ...SCALES) };
    put(square, within({ ...square.digit, ...moved }));
  } else if (square.strokes.length) {
    const { x, y } = measured(square.strokes);
    const [cos, sin] = [factor * Math.cos(angle), factor * Math.sin(angle)];
    square.strokes = square.strokes.map((points) => points.map(([px, py]) =>
      [x + dx + cos * (px - x) - sin * (py - y), y + dy + sin * (px - x) + cos * (py - y)]));
    changed();
  }
}

const MOVES = {
  ArrowLeft: [-1, 0, 0, 1], ArrowRight: [1, 0, 0, 1], ArrowUp: [0, -1, 0, 1], ArrowDown: [0, 1, 0, 1],
};
const TURNS = {
  ArrowLeft: [0, 0, -5 * DEGREE, 1], ArrowRight: [0, 0, 5 * DEGREE, 1],
  ArrowUp: [0, 0, 0, 1.05], ArrowDown: [0, 0, 0, 1 / 1.05],
};

function listenToKeys(square) {
  square.pad.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    const move = (event.shiftKey ? TURNS : MOVES)[event.key];
    if (move) transform(square, ...move);
    else if (/^[0-9]$/.test(event.key) && digits) put(square, handwritten(Number(event.key)));
    else if (event.key === "Delete" || event.key === "Backspace") put(square, null);
    else return;
    event.preventDefault();
  });
}

for (const square of squares) {
  listenToPointer(square);
  listenToKeys(square);
}
document.querySelector("#clear").addEventListener("click", () => squares.forEach((square) => put(square, null)));
document.querySelector("#example").addEventListener("click", () => digits && example());
changed();
load().then(() => (squares.every(isEmpty) ? example() : changed())).catch(fail);
