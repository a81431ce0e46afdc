"use strict";
// How digits, frames and what is seen in them are drawn, in the colours of architectures/pictures.

const COLOURS = ["#ff9d2e", "#35c4f0", "#7ddf64", "#f062c0", "#ffe14d", "#b48cff", "#4de0b8", "#ff8a80"];
const INK = "#ffffff";
const PAPER = "#000000";
const OUTSIDE = "#262a33";
const MARGIN = 8; // pixels around the network's canvas in which frames are still seen

// A context whose unit is a pixel of the network's canvas, which it has with a margin; cleared.
function paper(canvas, margin = 0) {
  const context = canvas.getContext("2d");
  const unit = canvas.width / (CANVAS + 2 * margin);
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.fillStyle = margin ? OUTSIDE : PAPER;
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.setTransform(unit, 0, 0, unit, unit * margin, unit * margin);
  context.lineCap = context.lineJoin = "round";
  return context;
}

// Values in [0, 1], row by row, as a grey picture.
function grey(values, side) {
  const canvas = Object.assign(document.createElement("canvas"), { width: side, height: side });
  const picture = new ImageData(side, side);
  values.forEach((value, i) => picture.data.set([value * 255, value * 255, value * 255, 255], 4 * i));
  canvas.getContext("2d").putImageData(picture, 0, 0);
  return canvas;
}

function drawStrokes(canvas, strokes) {
  const context = paper(canvas);
  context.strokeStyle = INK;
  context.lineWidth = STROKE;
  for (const [x0, y0, x1, y1] of segments(strokes)) {
    context.beginPath();
    context.moveTo(x0, y0);
    context.lineTo(x1, y1);
    context.stroke();
  }
}

function drawDigit(canvas, { pixels, x, y, scale, angle }) {
  const context = paper(canvas);
  context.translate(x, y);
  context.rotate(angle);
  context.scale(scale, scale);
  context.drawImage(grey(pixels, DIGIT), -DIGIT / 2, -DIGIT / 2);
}

function drawInvitation(canvas, words) {
  const context = paper(canvas);
  context.fillStyle = "#8b92a1";
  context.font = "3.4px system-ui, sans-serif";
  context.textAlign = "center";
  context.fillText(words, CANVAS / 2, CANVAS / 2 + 1);
}

// What the network reads, and the frames of transformers with these thetas on it: where the corners of their outputs,
// -1 and 1 in their coordinates, lie in its own, -1 to 1 from edge to edge.
function drawFrames(canvas, pixels, thetas) {
  const context = paper(canvas, MARGIN);
  context.imageSmoothingEnabled = false;
  context.drawImage(grey(pixels, CANVAS), 0, 0);
  thetas.forEach((theta, k) => {
    const corners = [[-1, -1], [1, -1], [1, 1], [-1, 1]].map(([u, v]) =>
      [0, 3].map((row) => (theta[row] * u + theta[row + 1] * v + theta[row + 2] + 1) * CANVAS / 2));
    context.strokeStyle = context.fillStyle = COLOURS[k % COLOURS.length];
    context.lineWidth = 0.7;
    context.beginPath();
    corners.forEach(([x, y]) => context.lineTo(x, y));
    context.closePath();
    context.stroke();
    context.beginPath();
    context.arc(...corners[0], 1.3, 0, 2 * Math.PI);
    context.fill();
  });
}

function drawSeen(canvas, pixels) {
  const context = paper(canvas);
  context.imageSmoothingEnabled = false;
  context.drawImage(grey(pixels, CANVAS), 0, 0);
}
