"use strict";
// From what was drawn to the pixels that the network reads: first a digit as MNIST has it, then one on a canvas as
// architectures/data/distort.py places it. Lengths are in pixels of the network's canvas, angles in radians.

const CANVAS = 42;
const DIGIT = 28;
const BOX = 20; // the longer side of the ink of MNIST's digits
const STROKE = 2.9; // the width of their strokes, measured on its ones
const EDGE = 1.3; // how far a stroke fades from full ink to none, measured too
const SCALES = [0.7, 1.2]; // of the digits that the network was trained on
const SMALLEST = 8; // a drawing below this size is not enlarged any further

const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

// A stroke is a list of points [x, y]; the segments between them, a point alone being one of no length.
function segments(strokes) {
  return strokes.flatMap((points) =>
    points.length === 1 ? [[...points[0], ...points[0]]]
      : points.slice(1).map((point, i) => [...points[i], ...point]));
}

// The longer side of strokes, and their centre of mass.
function measured(strokes) {
  const xs = strokes.flat().map((point) => point[0]);
  const ys = strokes.flat().map((point) => point[1]);
  const side = Math.max(Math.max(...xs) - Math.min(...xs), Math.max(...ys) - Math.min(...ys));
  let [mass, x, y] = [0, 0, 0];
  for (const [x0, y0, x1, y1] of segments(strokes)) {
    const weight = Math.hypot(x1 - x0, y1 - y0) + 1e-6;
    mass += weight;
    x += weight * (x0 + x1) / 2;
    y += weight * (y0 + y1) / 2;
  }
  return { side, x: x / mass, y: y / mass };
}

// Strokes as a digit of MNIST, {pixels, x, y, scale, angle}: 28 x 28 pixels in [0, 1] around their centre of mass, and
// where they lie on the canvas.
function digitOf(strokes) {
  const { side, x, y } = measured(strokes);
  const zoom = (BOX - STROKE) / Math.max(side, SMALLEST);
  const lines = segments(strokes).map(([x0, y0, x1, y1]) =>
    [zoom * (x0 - x), zoom * (y0 - y), zoom * (x1 - x0), zoom * (y1 - y0)]);
  const pixels = new Float32Array(DIGIT * DIGIT);
  for (let i = 0; i < pixels.length; i++) {
    const px = i % DIGIT + 0.5 - DIGIT / 2;
    const py = Math.floor(i / DIGIT) + 0.5 - DIGIT / 2;
    let nearest = Infinity;
    for (const [x0, y0, dx, dy] of lines) {
      const along = clamp(((px - x0) * dx + (py - y0) * dy) / (dx * dx + dy * dy || 1), 0, 1);
      nearest = Math.min(nearest, (px - x0 - along * dx) ** 2 + (py - y0 - along * dy) ** 2);
    }
    pixels[i] = clamp((STROKE / 2 - Math.sqrt(nearest)) / EDGE + 0.5, 0, 1);
  }
  return { pixels, x, y, scale: clamp(side / (BOX - STROKE), ...SCALES), angle: 0 };
}

// The same digit, moved so that all of its ink lies on the canvas, or in the middle if it is too large.
function within(digit) {
  const [cos, sin] = [Math.cos(digit.angle) * digit.scale, Math.sin(digit.angle) * digit.scale];
  const reach = Math.abs(cos) + Math.abs(sin); // bilinear sampling spreads a pixel by one to each side
  const ends = { x: [Infinity, -Infinity], y: [Infinity, -Infinity] };
  digit.pixels.forEach((value, i) => {
    if (value === 0) return;
    const [px, py] = [i % DIGIT + 0.5 - DIGIT / 2, Math.floor(i / DIGIT) + 0.5 - DIGIT / 2];
    const at = { x: cos * px - sin * py, y: sin * px + cos * py };
    for (const axis of ["x", "y"]) {
      ends[axis] = [Math.min(ends[axis][0], at[axis] - reach), Math.max(ends[axis][1], at[axis] + reach)];
    }
  });
  const moved = (axis) => {
    const [first, last] = [-ends[axis][0], CANVAS - ends[axis][1]];
    return first < last ? clamp(digit[axis], first, last) : (first + last) / 2;
  };
  return { ...digit, x: moved("x"), y: moved("y") };
}

// A digit on its canvas, 42 x 42 pixels, sampled bilinearly with zeros outside.
function onCanvas({ pixels, x, y, scale, angle }) {
  const [cos, sin] = [Math.cos(angle) / scale, Math.sin(angle) / scale];
  const pixel = (row, column) =>
    row < 0 || row >= DIGIT || column < 0 || column >= DIGIT ? 0 : pixels[row * DIGIT + column];
  return Float32Array.from({ length: CANVAS * CANVAS }, (_, i) => {
    const [dx, dy] = [i % CANVAS + 0.5 - x, Math.floor(i / CANVAS) + 0.5 - y];
    const u = cos * dx + sin * dy + DIGIT / 2 - 0.5;
    const v = -sin * dx + cos * dy + DIGIT / 2 - 0.5;
    const [left, top] = [Math.floor(u), Math.floor(v)];
    const [a, b] = [u - left, v - top];
    return (1 - b) * ((1 - a) * pixel(top, left) + a * pixel(top, left + 1))
      + b * ((1 - a) * pixel(top + 1, left) + a * pixel(top + 1, left + 1));
  });
}
